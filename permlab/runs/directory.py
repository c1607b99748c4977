"""Run directories `outputs/<task>/<UTC stamp>-<short id>/` that no two runs ever share."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from permlab.errors import UserError
from permlab.storage.files import read_json


def stamp() -> str:
    """Return a sortable UTC stamp with microseconds and a short random id."""
    return f"{datetime.now(timezone.utc):%Y%m%d-%H%M%S-%f}-{secrets.token_hex(2)}"


def create(parent: Path) -> Path:
    """Make a new directory under `parent`; the operating system decides who wins a name."""
    parent.mkdir(parents=True, exist_ok=True)
    while True:
        path = parent / stamp()
        try:
            path.mkdir()
            return path
        except FileExistsError:
            continue


def claim(path: Path) -> Path:
    """Make the directory that the user named.

    Raises:
        UserError: when it already holds something.
    """
    check_free(path)
    path.mkdir(parents=True, exist_ok=True)
    return path


def check_free(path: Path) -> None:
    """Refuse a run directory that holds something, or is a file."""
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise UserError(f"run.dir={path} is not empty; choose another, or continue it with `permlab resume {path}`")


def results(root: Path, task: str | None = None) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield (run directory, result) of every run under `root` that has a readable result.json."""
    for path in sorted(root.glob(f"{task or '*'}/*/result.json")):
        result = read_json(path)
        if isinstance(result, dict):
            yield path.parent, result


def finished_run(root: Path, task: str, fingerprint: str, experiment: str | None = None) -> Path | None:
    """Return the newest finished run with this fingerprint, or None.

    A job of an experiment is finished by a run of that experiment only: reports would not count another one for it.
    """
    wanted = {"status": "done", "fingerprint": fingerprint} | ({"experiment": experiment} if experiment else {})
    found = [path for path, result in results(root, task) if wanted.items() <= result.items()]
    return found[-1] if found else None
