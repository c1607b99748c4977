"""Tensors read a few rows at a time: `for start, stop, part in permuted_pieces(spec, "w", tensor, permutation)`.

Whole networks then need no more memory than a piece of one tensor: a memory-mapped file stays in the page cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from permlab.symmetry.spec import Spec

PIECE = 1 << 22
"""Entries of a piece: 16 MiB in float32."""


def row_ranges(shape: Sequence[int], entries: int = PIECE) -> list[tuple[int, int]]:
    """(first, last + 1) of the rows of each piece of a tensor, at most `entries` each and at least one row."""
    if not shape:
        return [(0, 1)]
    row = 1
    for length in shape[1:]:
        row *= length
    step = max(1, entries // max(1, row))
    return [(start, min(start + step, shape[0])) for start in range(0, shape[0], step)]


def permuted_pieces(
    spec: Spec, name: str, tensor: Tensor, permutation: Mapping[str, Tensor], entries: int = PIECE
) -> Iterator[tuple[int, int, Tensor]]:
    """`permute_tensor`, piece by piece: (first row, last + 1, these rows of the permuted tensor)."""
    from permlab.symmetry.spec import axis_index

    axes = spec.axes.get(spec.tied.get(name, name), {})
    found = ((axis, axis_index(spec, permutation, blocks, tensor.shape[axis])) for axis, blocks in axes.items())
    index = {axis: each.to(tensor.device) for axis, each in found if each is not None}
    for start, stop in row_ranges(tensor.shape, entries):
        if not tensor.dim():
            part = tensor
        else:
            part = tensor.index_select(0, index[0][start:stop]) if 0 in index else tensor[start:stop]
        for axis, chosen in index.items():
            if axis:
                part = part.index_select(axis, chosen)
        yield start, stop, part


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity; without a copy of all of it."""
    if not tensor.is_floating_point():
        return True
    pieces = (tensor[start:stop] if tensor.dim() else tensor for start, stop in row_ranges(tensor.shape))
    return all(bool(torch.isfinite(piece).all()) for piece in pieces)
