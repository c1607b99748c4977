"""Files that are never half-written: `write_json(path, {...})` appears whole or not at all."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from permlab.errors import UserError
from permlab.storage.plain import UnreadableError, read_json_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure


TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
"""What unfinished files and folders are called."""
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_NUMBER = re.compile(r"-|[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?: ± \d+\.?\d*)?|[+-]?(?:inf|nan)")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it is flushed to disk and renamed to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = beside(path)
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def beside(path: Path) -> Path:
    """Return a hidden name that nothing has, in the same folder: a rename must not cross file systems.

    `remove_temporaries` knows these names.
    """
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")


def remove_temporaries(folder: Path) -> int:
    """Remove what killed writers left behind (files and folders named `.<name>.<8 hex digits>.tmp`); return how many.

    Only for a folder that nobody else writes to (`locks.hold`).
    """
    found = [path for path in folder.rglob(".*.tmp") if TEMPORARY.fullmatch(path.name)]
    for path in found:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return len(found)


def sync(path: Path) -> None:
    """Flush a file or a folder entry to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as temporary:
        # Names of files may hold bytes that are no letters, and JSON halves of letters: UTF-8 has neither.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN and infinities become null, because strict readers refuse them."""
    write_text(path, as_json(value))


def as_json(value: Any) -> str:
    """Return strict JSON, in lines, with a line end."""
    return json.dumps(finite(value), indent=2, default=str) + "\n"


def overwrite_json(path: Path, value: Any) -> None:
    """Write JSON into a file that is there, in one piece but not atomically: for a disk without room for a second file.

    Raises:
        OSError: there is no such file, or it cannot be written.
    """
    with path.open("r+b", buffering=0) as file:
        file.write(as_json(value).encode())
        file.truncate()


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as CSV atomically; the columns are the keys in the order they first appear.

    Text that a spreadsheet would take for a formula gets an apostrophe before it; `unquoted` takes it off.
    """
    names = list(dict.fromkeys(key for row in rows for key in row))
    with (
        replacing(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.writer(file)
        writer.writerow([quoted(name) for name in names])
        writer.writerows([[quoted(row.get(name)) for name in names] for row in rows])


def quoted(cell: Any) -> Any:
    """Return a cell of a CSV: `=1+1` as `'=1+1`; numbers, also written ones (`-0.5`, `-0.5 ± 0.1`), as they are."""
    if isinstance(cell, (int, float)) or cell is None:
        return cell
    text = str(cell)
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def unquoted(text: str) -> str:
    """Return what stood in a cell before `quoted`."""
    return text[1:] if text[:1] == "'" and _FORMULA.match(text) else text


def save_figure(folder: Path, name: str, figure: Figure) -> list[Path]:
    """Write `<name>.png` and `<name>.svg` atomically, and close the figure."""
    import matplotlib.pyplot as plt

    paths = [folder / f"{name}.{kind}" for kind in ("png", "svg")]
    for path in paths:
        with replacing(path) as temporary:
            figure.savefig(temporary, format=path.suffix[1:], dpi=160, bbox_inches="tight")
    plt.close(figure)
    return paths


def read_json(path: Path) -> Any:
    """Read JSON, or return None when the file is missing or broken, or nested so deep that no program wrote it."""
    try:
        return read_json_file(path)
    except (OSError, UnreadableError):
        return None


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object of the user.

    Raises:
        UserError: the file cannot be read, is no JSON, or holds something else than an object.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path} is not a JSON object: get the file again")
    return value


def finite(value: Any) -> Any:
    """Replace NaN and infinities by None, and numpy or torch scalars by numbers."""
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        return finite(value.item())
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    return str(value)
