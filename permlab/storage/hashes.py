"""Hashes of files: `sha256_of([Path("model.safetensors")])`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

_BLOCK_BYTES = 1 << 22


def sha256_of(paths: Iterable[Path]) -> str:
    """Return the SHA-256 (hexadecimal) of files one after the other, in name order; as `cat FILES | sha256sum`."""
    digest = hashlib.sha256()
    for path in sorted(set(paths)):
        with path.open("rb") as handle:
            while block := handle.read(_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()
