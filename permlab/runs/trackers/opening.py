"""Start the trackers that a configuration names, and hand them what a finished run made.

tracker = open_trackers(config, run_dir)
keep_artifacts(config, run_dir, tracker)
"""

from __future__ import annotations

import os
from pathlib import Path

from permlab.config import Config, TaskSettings
from permlab.errors import first_line
from permlab.runs.console import LOGGER
from permlab.runs.trackers.mirror import Mirror, Mirrors, NullTracker, Tracker, TrackerClass
from permlab.tracking import TRACKERS, TrackerRow

WEIGHTS = (".safetensors", ".pt", ".pth", ".bin", ".npz")
"""Files by which a folder of artifacts/ is known for a model."""


def open_trackers(config: Config[TaskSettings], run_dir: Path) -> Tracker:
    """Start the trackers of a run; on any but the first of several processes, none."""
    if not rank_zero():
        return NullTracker()
    mirrors = [mirror for name in config.tracker.names if (mirror := start(TRACKERS[name], config, run_dir))]
    return Mirrors(mirrors, config.tracker.patience) if mirrors else NullTracker()


def start(row: TrackerRow, config: Config[TaskSettings], run_dir: Path) -> Mirror | None:
    """Start one tracker in its thread; None for one that is not wanted, or cannot be imported."""
    try:
        kind: TrackerClass = row.load()
        if config.tracker.mode == "disabled" or not kind.wanted(config):
            return None
        kind.prepare(config)
    except Exception as error:  # a library that is there and broken raises anything
        LOGGER.warning("%s could not start (%s); metrics.jsonl goes on", row.title, first_line(error))
        return None
    return Mirror(row.title, lambda: kind.open(config, run_dir), row.at_exit)


def rank_zero() -> bool:
    """Whether this process is the first of those that a launcher such as torchrun started, or alone."""
    return all(os.environ.get(name, "0") in ("", "0") for name in ("RANK", "LOCAL_RANK"))


def keep_artifacts(config: Config[TaskSettings], run_dir: Path, tracker: Tracker) -> None:
    """Hand the tables and what stands in artifacts/ to the trackers, with `tracker.artifacts=true`.

    What is larger than `tracker.artifacts_mb` is left out and said so.
    """
    if config.tracker.artifacts and not isinstance(tracker, NullTracker):
        try:
            hand_over(config, run_dir, tracker)
        except OSError as error:  # the run is done; what became of its files since is said
            LOGGER.warning("artifacts are not handed to the trackers: %s", first_line(error))


def hand_over(config: Config[TaskSettings], run_dir: Path, tracker: Tracker) -> None:
    """Hand over what `keep_artifacts` says."""
    wanted = [("tables", sorted((run_dir / "tables").glob("*.csv")), "tables")]
    for path in sorted((run_dir / "artifacts").glob("[!.]*")):
        weights = any(file.suffix in WEIGHTS for file in (path, *path.rglob("*")))
        wanted.append((path.name, [path], "model" if weights else "files"))
    for name, files, kind in wanted:
        size = sum(file.stat().st_size for path in files for file in (path, *path.rglob("*")) if file.is_file()) / 1e6
        if size > config.tracker.artifacts_mb:
            LOGGER.warning(
                "%s (%.0f MB) stays in the run directory alone; tracker.artifacts_mb=%.0f includes it",
                name,
                size,
                size + 1,
            )
        elif files:
            tracker.artifact(name, files, kind)
