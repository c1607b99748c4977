"""What a run is called, and what it is told of, in every tracker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from permlab.config import Config, TaskSettings


def run_name(config: Config[TaskSettings], run_dir: Path) -> str:
    """Return the name of a run for people."""
    return config.run.name or f"{config.task.name}-{config.model.name}-{run_dir.name[-4:]}"


def sweep_name(config: Config[TaskSettings]) -> str | None:
    """Return the sweep's name, or None outside a sweep."""
    return Path(config.run.sweep).name if config.run.sweep else None


def group_of(config: Config[TaskSettings]) -> str | None:
    """Return what the run is compared in: tracker.group, its sweep, or its experiment."""
    return config.tracker.group or sweep_name(config) or config.experiment.name


def flat(nested: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (key of the command line, value) of a configuration; values are plain, lists among them."""
    for key, value in nested.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def status_of(exit_code: int) -> str:
    """Return done, failed or interrupted."""
    return "done" if exit_code == 0 else "interrupted" if exit_code > 128 else "failed"
