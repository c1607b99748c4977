"""Distances and inner products of networks in float64, read in pieces: `squared_norm(spec, a, b, permutation)`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from permlab.symmetry import Permutation, Spec, permuted_pieces, wide


def _rows(tensor: Tensor, start: int, stop: int) -> Tensor:
    return tensor[start:stop] if tensor.dim() else tensor


def squared_norm(spec: Spec, a: Mapping[str, Tensor], b: Mapping[str, Tensor], permutation: Permutation) -> float:
    """Sum of squared differences between A and permuted B over the matched tensors, added up in float64.

    Half precision is widened piece by piece.
    """
    total = 0.0
    for name in spec.matched():
        whole = a[name]
        for start, stop, moved in permuted_pieces(spec, name, b[name], permutation):
            difference = wide(_rows(whole, start, stop)) - wide(moved)
            total += float(torch.linalg.vector_norm(difference).double()) ** 2
    return total


def inner_product(
    spec: Spec, names: Iterable[str], a: Mapping[str, Tensor], b: Mapping[str, Tensor], permutation: Permutation
) -> float:
    """<A, permuted B> over some tensors, in float64."""
    total = 0.0
    for name in names:
        whole = a[name]
        for start, stop, moved in permuted_pieces(spec, name, b[name], permutation):
            total += float((_rows(whole, start, stop).double() * moved.double()).sum())
    return total
