"""Run directories `outputs/<task>/<UTC stamp>-<short id>/` that no two runs ever share."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from permlab.errors import UserError, shortened
from permlab.storage.files import TEMPORARY, read_json
from permlab.storage.locks import holder

LONGEST_NAME = 255
"""Bytes of one name on the usual file systems."""


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
    """Refuse a run directory that is a file or holds something, but not one whose run was killed before it began."""
    with writable(path):
        taken = path.is_file() or (path.is_dir() and not all(TEMPORARY.fullmatch(each.name) for each in path.iterdir()))
    if taken:
        raise UserError(f"run.dir={path} is not empty; choose another, or continue it with `permlab resume {path}`")


def check_writable(path: Path) -> None:
    """Refuse a place where no directory can be made, before anything is composed, loaded or written.

    Raises:
        UserError: a file or a link to nothing in the way, no permission, a name that is too long.
    """
    with writable(path):
        if any(len(os.fsencode(part)) > LONGEST_NAME for part in path.parts):
            raise OSError(errno.ENAMETOOLONG, "a name is too long")
        place = path
        while not os.path.lexists(place) and place != place.parent:
            place = place.parent
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{place} is no folder")
        if not os.access(place, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, f"{place} is not yours to write to")


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Turn the refusal of the operating system to write somewhere into one line of ours."""
    try:
        yield
    except OSError as error:
        place, reason = shortened(str(path)), error.strerror or type(error).__name__
        raise UserError(f"{place} cannot be written ({reason}); choose another place with run.root=DIR") from None


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


def unfinished_run(root: Path, task: str, fingerprint: str, experiment: str | None = None) -> Path | None:
    """Return the newest run with this fingerprint that was interrupted, or whose process is gone, or None.

    One that a live process works in is none, and neither is one that failed: it would fail again.
    """
    wanted = {"fingerprint": fingerprint} | ({"experiment": experiment} if experiment else {})
    for path, result in reversed(list(results(root, task))):
        stopped = result.get("status") in ("interrupted", "running")
        if stopped and wanted.items() <= result.items() and holder(path) is None:
            return path
    return None
