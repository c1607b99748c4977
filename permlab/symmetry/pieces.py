"""Tensors read a few rows at a time: `for start, stop in row_ranges(tensor.shape): tensor[start:stop]`.

Whole networks then need no more memory than a piece of one tensor: a memory-mapped file stays in the page cache.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

PIECE = 1 << 18
"""Entries of a piece: a mebibyte in float32, which stays in the processor's cache and is given out again and again,
where larger ones are taken from the system and cleared for every use."""


def row_ranges(shape: Sequence[int], entries: int = PIECE) -> list[tuple[int, int]]:
    """(first, last + 1) of the rows of each piece of a tensor, at most `entries` each and at least one row."""
    if not shape:
        return [(0, 1)]
    row = 1
    for length in shape[1:]:
        row *= length
    step = max(1, entries // max(1, row))
    return [(start, min(start + step, shape[0])) for start in range(0, shape[0], step)]


def wide(tensor: Tensor) -> Tensor:
    """In float32 or wider: half-precision sums lose the small differences between networks that matter here."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity; without a copy of all of it."""
    if not tensor.is_floating_point():
        return True
    pieces = (tensor[start:stop] if tensor.dim() else tensor for start, stop in row_ranges(tensor.shape))
    # A sum is finite unless an entry is not, or the entries are huge: then all are looked at.
    return all(bool(torch.isfinite(piece.sum())) or bool(torch.isfinite(piece).all()) for piece in pieces)
