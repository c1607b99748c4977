"""Distances and inner products of networks in float64, read in pieces: `squared_norm(spec, a, b, permutation)`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from permlab.symmetry import Permutation, Spec, permuted_pieces, row_ranges, wide


def rows_of(tensor: Tensor, start: int, stop: int) -> Tensor:
    """A view of some rows of a tensor; of all of it where it has no rows."""
    return tensor[start:stop] if tensor.dim() else tensor


def squared_norm(spec: Spec, a: Mapping[str, Tensor], b: Mapping[str, Tensor], permutation: Permutation) -> float:
    """Sum of squared differences between A and permuted B over the matched tensors, added up in float64.

    Half precision is widened piece by piece.
    """
    total = 0.0
    for name in spec.matched():
        whole = a[name]
        for start, stop, moved in permuted_pieces(spec, name, b[name], permutation):
            difference = wide(rows_of(whole, start, stop)) - wide(moved)
            total += float(torch.linalg.vector_norm(difference).double()) ** 2
    return total


def squared_size(state: Mapping[str, Tensor], names: Iterable[str]) -> float:
    """Sum of the squares of some tensors, in float64."""
    pieces = (rows_of(state[name], *rows).double() for name in names for rows in row_ranges(state[name].shape))
    return sum(float(piece.square().sum()) for piece in pieces)


def inner_product(
    spec: Spec, names: Iterable[str], a: Mapping[str, Tensor], b: Mapping[str, Tensor], permutation: Permutation
) -> float:
    """<A, permuted B> over some tensors, in float64."""
    total = 0.0
    for name in names:
        whole = a[name]
        for start, stop, moved in permuted_pieces(spec, name, b[name], permutation):
            total += float((rows_of(whole, start, stop).double() * moved.double()).sum())
    return total
