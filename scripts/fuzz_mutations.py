"""Ways to spoil a file, for `scripts/torture_fuzz.py`: `mutate(path, random.Random(0), others)` says what it did.

A file that has a structure (JSON, YAML, the header of safetensors, gzip) is spoiled inside of it as often as in its
bytes: flipped bits alone would rarely come further than the first parser.
"""

from __future__ import annotations

import base64
import functools
import gzip
import json
import os
import pickle
import random
import re
import shutil
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from yaml import YAMLError

DEEP = 3_000
NASTY: tuple[Any, ...] = (
    1e308, -1e308, float("inf"), float("nan"), -1, 0, 1, 2**31, 2**63, 2**64, 10**7, 10**9, 10**400, 1e-320, None, True,
    "", " ", "\0", "\ud800", "\x1b[31mred\x1b]0;title\x07", "\u202egnp.evil\u2066", "x" * 100_000,
    "../../../etc/passwd", "/dev/zero", "${oc.env:HOME}", "=cmd|' /C calc'!A0", "(a+)+$",
    "F16", "NaN", "é", [], {}, [[]], [1] * 1000, ["a", None], {"": 1}, {"a": {"b": {}}},
    "auto", "1e9", [0, 10**12], [-1, -1], [2**63, 2**63],
)  # fmt: skip
"""Values that are put in the place of others."""
PIECES = (
    b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\x1b[2J", "\u202e".encode(), b"\r", b"\n\n", b"[" * DEEP, b'{"a":' * DEEP,
    b"9" * 5000, b"1e308", b"-1", b"9223372036854775808", b"NaN", b"null", b'""', b"---\n", b"&a [*a, *a]",
    b"!!python/x ", b"${oc.env:HOME}", b"\t", b",,,,", b'"', b"'", b"%", b"\x80\x04", b"<svg onload=x>", b"a" * 2**20,
    b"[SEP]" * 5000,
)  # fmt: skip
"""Bytes that are put in between."""


class Marker:
    """Unpickled, it makes a file: the sign that a pickle was executed."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (self.path,)


def mutate(path: Path, rng: random.Random, others: Sequence[Path], marker: Path, secret: Path) -> str:
    """Spoil one file in place.

    Args:
        path: the file.
        rng: decides everything.
        others: files that it may be swapped with.
        marker: what a pickle would make.
        secret: a file outside, for links.

    Returns:
        What was done, in a few words.
    """
    if rng.random() < 0.2:
        return _replace(path, rng, others, marker, secret)
    data = path.read_bytes()
    inside = _inside(path, data, rng) if rng.random() < 0.65 else None
    if inside is not None:
        spoiled, said = inside
    else:
        spoiled, said = spoil_bytes(data, rng)
    path.write_bytes(spoiled)
    return f"{path.name}: {said}"


def _replace(path: Path, rng: random.Random, others: Sequence[Path], marker: Path, secret: Path) -> str:
    """Put something else in the file's place."""
    way = rng.choice(
        ("gone", "empty", "pipe", "folder", "link out", "device", "loop", "swap", "pickle", "huge", "text")
    )
    if way == "swap" and others:
        other = rng.choice(list(others))
        data = other.read_bytes()
        path.write_bytes(data)
        return f"{path.name}: holds {other.name}"
    if way == "huge":
        with path.open("r+b") as file:
            file.truncate(3 * 2**30)
        return f"{path.name}: 3 GiB of zeros behind it"
    path.unlink()
    if way == "empty":
        path.write_bytes(b"")
    elif way == "pipe":
        os.mkfifo(path)
    elif way == "folder":
        path.mkdir()
    elif way == "link out":
        path.symlink_to(secret)
    elif way == "device":
        path.symlink_to("/dev/zero")
    elif way == "loop":
        path.symlink_to(path.name)
    elif way == "pickle":
        path.write_bytes(pickle.dumps(Marker(str(marker))))
    elif way == "text":
        path.write_text("\n".join(["hello"] * 5) + "\n")
    return f"{path.name}: {way}"


def spoil_bytes(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Flip, cut, double, drop or insert bytes."""
    way = rng.choice(("flip", "flip", "cut", "double", "drop", "insert", "insert", "end"))
    at = rng.randrange(len(data) + 1)
    if way == "flip" and data:
        spoiled = bytearray(data)
        count = rng.choice((1, 1, 4, 32))
        for _ in range(count):
            spoiled[rng.randrange(min(len(data), rng.choice((64, 4096, 2**40))))] ^= 1 << rng.randrange(8)
        return bytes(spoiled), f"{count} bits flipped"
    if way == "cut":
        return data[:at], f"cut at {at}"
    if way == "double":
        return data[:at] + data[max(0, at - rng.choice((8, 200, 10**6))) :], f"doubled at {at}"
    if way == "drop":
        return data[:at] + data[at + rng.choice((1, 8, 200)) :], f"bytes dropped at {at}"
    piece = rng.choice(PIECES)
    if way == "end":
        return data + piece, f"{piece[:12]!r} x {len(piece)} behind it"
    return data[:at] + piece + data[at:], f"{piece[:12]!r} x {len(piece)} at {at}"


def _inside(path: Path, data: bytes, rng: random.Random) -> tuple[bytes, str] | None:
    """Spoil a file within its structure, or return None where there is none to be found."""
    try:
        if path.suffix == ".gz":
            raw = gzip.decompress(data)
            if rng.random() < 0.2:
                return zlib_bomb(raw[:4], 3), "a gzip bomb"
            spoiled, said = spoil_bytes(raw, rng)
            return gzip.compress(spoiled, 1), f"unzipped: {said}"
        if path.suffix == ".safetensors":
            return _spoil_safetensors(data, rng)
        if path.suffix in (".jsonl", ".json"):
            lines = data.decode().splitlines() if path.suffix == ".jsonl" else [data.decode()]
            at = rng.randrange(len(lines))
            value, said = spoil_value(json.loads(lines[at]), rng)
            lines[at] = _dumped(value)
            return "\n".join([*lines, ""]).encode("utf-8", "surrogatepass"), said
        if path.suffix == ".yaml":
            return _spoil_yaml(data, rng)
    except (ValueError, IndexError, OSError, EOFError, zlib.error, YAMLError, RecursionError):  # spoiled before
        return None
    return None


def _dumped(value: Any) -> str:
    return re.sub(f'"{_HUGE_MARK}"', "9" * 401, json.dumps(value))


_HUGE_MARK = base64.b64encode(b"an integer of 401 digits").decode()
"""Python refuses to print such an integer."""


def spoil_value(value: Any, rng: random.Random) -> tuple[Any, str]:
    """Change one place of a JSON value: another value, a key less, a key twice, nested deeper."""
    places = list(_places(value))
    if not places or rng.random() < 0.05:
        return nasty(rng)
    holder, key = rng.choice(places)
    where = str(key)[:40]
    way = rng.random()
    if way < 0.1:
        del holder[key]
        return value, f"{where} is gone"
    if way < 0.2:
        deep: Any = holder[key]
        for _ in range(rng.choice((90, 200, 900))):
            deep = [deep] if rng.random() < 0.5 else {"a": deep}
        holder[key] = deep
        return value, f"{where} is deep"
    new, said = nasty(rng)
    if way < 0.3 and isinstance(holder, dict):
        holder[said if isinstance(new, (list, dict)) else str(new)[:5000]] = holder.pop(key)
        return value, f"{where} is called {said}"
    if way < 0.4 and isinstance(holder[key], (int, float)) and not isinstance(holder[key], bool):
        holder[key] = holder[key] * rng.choice((-1, 2, 1000, 10**6, 10**12))
        return value, f"{where} is {holder[key]}"
    holder[key] = new
    return value, f"{where} is {said}"


def nasty(rng: random.Random) -> tuple[Any, str]:
    """Return a value and what to call it."""
    value = rng.choice(NASTY)
    if value == 10**400:
        return _HUGE_MARK, "10^400"
    return value, ascii(value)[:40]


def _places(value: Any) -> Any:
    level = [value]
    while level:
        each = level.pop()
        items = each.items() if isinstance(each, dict) else enumerate(each) if isinstance(each, list) else ()
        for key, child in list(items)[:200]:
            yield each, key
            level.append(child)


def _spoil_safetensors(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    length = int.from_bytes(data[:8], "little")
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    way = rng.random()
    if way < 0.1:
        size = rng.choice((0, 1, 2**20, 2**32, 2**63, 2**64 - 1, length - 1, length + 1))
        return size.to_bytes(8, "little") + data[8:], f"header of {size} bytes"
    if way < 0.15:
        header |= {f"extra.{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(50_000)}
        said = "50,000 more tensors"
    elif way < 0.2:
        return _packed(b"[" * DEEP + b"]" * DEEP, rest), "deep header"
    elif way < 0.3:
        values = bytearray(rest)
        kind = rng.choice((b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff\xff\x7f\x7f", b"\1\0\0\0"))
        for at in range(0, len(values) - 3, rng.choice((4, 400))):
            values[at : at + 4] = kind
        return data[: 8 + length] + bytes(values), f"values {kind!r}"
    else:
        header, said = spoil_value(header, rng)
    return _packed(_dumped(header).encode(), rest), f"header: {said}"


def _packed(header: bytes, rest: bytes) -> bytes:
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + rest


def _spoil_yaml(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    import yaml

    way = rng.random()
    if way < 0.1:
        lines = ["a: &a0 [x, x, x, x, x, x, x, x, x]"] + [f"b{n}: &a{n} [{f'*a{n - 1}, ' * 9}]" for n in range(1, 9)]
        return data + b"\n" + "\n".join(lines).encode(), "an anchor bomb"
    if way < 0.2:
        deep = rng.choice((b"x: " + b"[" * 100_000, b"x: " + b"{a: " * 5000, b"&a [*a]\n", b"- " * 5000))
        return data + b"\n" + deep, f"{deep[:8]!r} x {len(deep)}"
    if way < 0.35:
        extra = rng.choice(
            (
                "hydra: {job_logging: {version: 1, handlers: {f: {class: logging.FileHandler, filename: ../leak}}}}",
                "hydra: {callbacks: {c: {_target_: os.system, command: touch ../leak}}}",
                "x: !!python/object/apply:os.mkdir [../leak]",
                "seed: ${oc.env:HOME}",
                "seed: ${oc.env:PERMLAB_FUZZ_SECRET}",
                "plugins: [os, antigravity]",
                "defaults: [../../x, _self_]",
                "? [a, b]\n: c",
            )
        )
        return data + b"\n" + extra.encode() + b"\n", extra[:60]
    value, said = spoil_value(yaml.safe_load(data), rng)
    text = yaml.safe_dump(value, allow_unicode=rng.random() < 0.5).replace(_HUGE_MARK, "9" * 401)
    # The comment with the package of the file stays in its place.
    head = b"\n".join(line for line in data.splitlines() if line.startswith(b"# @package"))
    return head + b"\n" + text.encode("utf-8", "surrogatepass"), said


@functools.cache
def zlib_bomb(start: bytes, axes: int) -> bytes:
    """Return a gzip file of a megabyte that unpacks to a gigabyte, with the head of an IDX file that is true."""
    side = 1024
    head = start[:3] + bytes([axes]) + b"".join(side.to_bytes(4, "big") for _ in range(axes))
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    parts = [packer.compress(head)]
    block = bytes(2**20)
    parts += [packer.compress(block) for _ in range(1024)]
    return b"".join([*parts, packer.flush()])


def copy_tree(source: Path, place: Path) -> None:
    """Copy a folder with its times."""
    shutil.copytree(source, place, symlinks=True)
