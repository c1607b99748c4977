"""Small files from elsewhere, read without trust: `read_json(run_dir / "result.json")`, `read_yaml(path)`.

Only regular files of a bounded size are opened (a pipe would hang, a device never ends); nesting is bounded; YAML is
data without tags and aliases, which is all that permlab writes itself, so that no short text grows into a large one.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

LARGEST = 32 * 2**20
"""Bytes of a JSON file that is still read."""
LARGEST_YAML = 2**20
"""Bytes of a YAML file: configurations are a few kilobytes, and the safe reader is slow."""
LARGEST_ODD_YAML = 2**17
"""Bytes of a YAML file that only the slow reader can read without risk."""
DEEPEST = 100
"""Levels of nesting; ours have five."""
MOST_DIGITS = 300
"""Of a whole number: what has more cannot be compared with measured numbers."""
MOST_NODES = 20_000
"""Of a YAML file whose aliases are written out."""


class UnreadableError(ValueError):
    """A file that is not what it should be; the message is one line that names the file."""


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; a pipe would hang, a device never ends.

    Raises:
        FileNotFoundError: it is not there.
        UnreadableError: no regular file, or not allowed.
    """
    try:
        # Non-blocking, so that opening a pipe returns and can be refused.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnreadableError(f"{path.name} cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnreadableError(f"{path.name} is no regular file")
    return os.fdopen(descriptor, "rb")


def read_bytes(path: Path, largest: int = LARGEST) -> bytes:
    """Read a regular file.

    Raises:
        FileNotFoundError: it is not there.
        UnreadableError: no regular file, too large, or not allowed.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > largest:
            raise UnreadableError(f"{path.name} has {size:,} bytes; more than {largest:,} are not read")
        return file.read(largest + 1)


def parse_json(data: bytes | str, name: str = "the text") -> Any:
    """Parse JSON.

    Raises:
        UnreadableError: no JSON, or nested too deeply.
    """
    try:
        value = json.loads(data, parse_int=_whole)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error).splitlines()[0][:120]
        raise UnreadableError(f"{name} is no JSON ({reason})") from None
    _check_depth(value, name)
    return value


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def read_json_file(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError: it is not there.
        UnreadableError: as `read_bytes` and `parse_json`.
    """
    return parse_json(read_bytes(path), path.name)


def read_yaml(path: Path, *, aliases: bool = False) -> Any:
    """Read a YAML file of plain data; with `aliases` a person wrote it and may have said `*name` for what `&name` is.

    Raises:
        FileNotFoundError: it is not there.
        UnreadableError: as `read_bytes`; broken YAML, tags, aliases that are not allowed or grow, nested too deeply.
    """
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        def compose_node(self, parent: Any, index: Any) -> Any:
            if not aliases and self.check_event(yaml.AliasEvent):
                raise UnreadableError(f"{path.name} has an alias (*name); configurations of runs are plain data")
            return super().compose_node(parent, index)

        def construct_document(self, node: Any) -> Any:
            _check_growth(node, path.name)
            return super().construct_document(node)

    data = read_bytes(path, LARGEST_YAML)
    # Too deep a file ends libyaml's reader with a crash, so that only what is plainly shallow goes the fast way.
    loader = getattr(yaml, "CSafeLoader", Loader) if _shallow(data) else Loader
    if loader is Loader and len(data) > LARGEST_ODD_YAML:
        raise UnreadableError(f"{path.name} has {len(data):,} bytes, with aliases or lists more than is read")
    try:
        # Text first: YAML would otherwise guess the encoding from the first bytes.
        value = yaml.load(data.decode("utf-8-sig"), Loader=loader)
    except UnreadableError:
        raise
    except RecursionError:
        raise UnreadableError(f"{path.name} is nested too deeply") from None
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, AttributeError, LookupError) as error:
        raise UnreadableError(f"{path.name} is no YAML of plain data ({_first(error)})") from None
    _check_depth(value, path.name)
    return value


def _check_growth(node: Any, name: str) -> None:
    """Refuse aliases of what they stand in, and short texts that stand for long ones."""
    sizes: dict[int, int] = {}

    def size(each: Any) -> int:
        if id(each) not in sizes:
            sizes[id(each)] = MOST_NODES  # should it be met inside itself
            parts = each.value if isinstance(each.value, list) else ()
            sizes[id(each)] = 1 + sum(size(p) for part in parts for p in (part if isinstance(part, tuple) else (part,)))
        return sizes[id(each)]

    if size(node) > MOST_NODES:
        raise UnreadableError(f"{name} has an alias (*name) of itself, or stands for more than {MOST_NODES:,} values")


def _shallow(data: bytes) -> bool:
    """Whether a text cannot be nested deeply, by its brackets, indentation and lists in lists, and has no anchors."""
    opened = data.count(b"[") + data.count(b"{") + data.count(b"- - ") + data.count(b"? ")
    halves = b"\\uD" in data  # of letters, which libyaml refuses
    return opened < DEEPEST and b"&" not in data and b" " * DEEPEST not in data and not halves


def _first(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f", line {mark.line + 1}" if mark else ""
    return f"{(getattr(error, 'problem', None) or str(error) or type(error).__name__).splitlines()[0][:120]}{where}"


def _check_depth(value: Any, name: str) -> None:
    level: list[Any] = [value]
    for _ in range(DEEPEST):
        if any(isinstance(each, int) and abs(each) >= 10**MOST_DIGITS for each in level):
            raise UnreadableError(f"{name} has a number of more than {MOST_DIGITS} digits")
        level = [
            child
            for each in level
            if isinstance(each, (dict, list))
            for child in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return
    raise UnreadableError(f"{name} is nested more than {DEEPEST} levels deep")
