"""What the rows of methods name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from permlab.adapters.factors import Factors


def combine_larger(networks: Any, setting: Any) -> dict[str, Tensor]:
    """Of every entry the one with the larger magnitude."""
    merged = {}
    for name in networks.states[0]:
        values = torch.stack([state[name] for state in networks.states])
        merged[name] = values.gather(0, values.abs().argmax(0, keepdim=True))[0]
    return merged


def merge_first(updates: Sequence[Factors], weights: Sequence[float], rank: int, rule: Any, seed: int) -> Factors:
    """The first update, with as many ranks as asked for."""
    first = updates[0].folded(weights[0])
    a, b = first.a.new_zeros(rank, first.a.shape[1]), first.b.new_zeros(first.b.shape[0], rank)
    kept = min(rank, first.rank)
    a[:kept], b[:, :kept] = first.a[:kept], first.b[:, :kept]
    return Factors(a, b)


def exchange_halves(kind: int, keys: Any, ordering: Any) -> list[int]:
    """Piece indices: the second half, then the first, unless the text is read as it is."""
    indices, middle = list(range(len(keys))), len(keys) // 2
    return [*indices[middle:], *indices[:middle]] if kind else indices
