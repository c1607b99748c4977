"""Is a run directory what a run leaves? `permlab resume RUN_DIR` asks before it opens anything in it for writing."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

from permlab.errors import UserError
from permlab.storage.plain import LARGEST, UnreadableError, parse_json, read_bytes

FILES = ("config.yaml", "result.json", "metrics.jsonl", "environment.json", "run.log", "run.lock")
FOLDERS = ("tables", "figures", "artifacts", "checkpoints")
FLAT = ("tables", "figures")
"""Folders that hold files only: a folder in the place of one could not be written over."""


def check_intact(path: Path) -> None:
    """Refuse a run directory with pipes, devices, links or folders where a run has files, or with broken metrics.

    Raises:
        UserError: naming what is in the way.
    """
    for name in FILES:
        _check_kind(path / name, stat.S_ISREG, "a file")
    for name in FOLDERS:
        _check_kind(path / name, stat.S_ISDIR, "a folder")
    for name in FLAT:
        for entry in sorted((path / name).glob("*")) if (path / name).is_dir() else ():
            _check_kind(entry, stat.S_ISREG, "a file")
    try:
        # The last line may be torn: the run was killed while it wrote.
        for line in read_bytes(path / "metrics.jsonl", 8 * LARGEST).split(b"\n")[:-1]:
            if not isinstance(parse_json(line, "metrics.jsonl"), dict):
                raise UnreadableError("metrics.jsonl has a line that is no object")
    except FileNotFoundError:
        return
    except UnreadableError as error:
        raise UserError(f"{path} cannot be resumed: {error}; start a new run") from None


def _check_kind(path: Path, right: Callable[[int], bool], what: str) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    if not right(mode):
        raise UserError(f"{path} is not {what}, as a run leaves it: remove it, or start a new run")
