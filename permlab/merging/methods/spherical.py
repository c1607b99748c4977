"""Averages along the sphere: `slerp(a, b, 0.3)` (Shoemake 1985), tensor by tensor as mergekit's `slerp` does it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from permlab.errors import UserError
from permlab.merging.networks.states import State
from permlab.merging.setting import Setting, mixture_weights
from permlab.merging.streaming import Piece, Pieces, Rule, Streamed

if TYPE_CHECKING:
    from permlab.merging.aligned import Aligned

PARALLEL = 0.9995
"""Cosine from which on the arc is a straight line but for rounding."""

CHUNK = 1 << 18
"""Entries that are held in double precision at a time."""


def arc(cosine: float, position: float) -> tuple[float, float]:
    """Factors of both ends at a position on the arc between two directions with this cosine."""
    if abs(cosine) > PARALLEL:
        return 1 - position, position
    angle = math.acos(cosine)
    return math.sin((1 - position) * angle) / math.sin(angle), math.sin(position * angle) / math.sin(angle)


def slerp(a: Tensor, b: Tensor, position: float) -> Tensor:
    """sin((1 - t) w) / sin(w) a + sin(t w) / sin(w) b, with w the angle between the tensors as vectors.

    Norms of the ends are interpolated along: of two tensors of one norm at a right angle the mean keeps the norm, where
    the straight average loses a factor of sqrt(2). Nearly parallel tensors are averaged.
    """
    one, other = arc(_cosine(*(float(x) for x in _products(a, b))), position)
    return one * a + other * b


def _products(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    total = torch.zeros(3, dtype=torch.float64, device=a.device)
    # A little at a time: doubles of whole pieces would be most of the memory of a merge.
    for one, other in zip(a.flatten().split(CHUNK), b.flatten().split(CHUNK)):
        one, other = one.double(), other.double()
        total += torch.stack([one @ other, one @ one, other @ other])
    return total[0], total[1], total[2]


def _cosine(inner: float, one: float, other: float) -> float:
    # A tensor of zeros has no direction: the straight line is all there is.
    return max(-1.0, min(1.0, inner / math.sqrt(one * other))) if one > 0 and other > 0 else 1.0


def stream_slerp(read: Pieces, setting: Setting) -> Rule:
    """`slerp` of every tensor of two networks, the second network's weight being the position.

    Raises:
        UserError: another number of networks.
    """
    if read.count != 2:
        raise UserError(f"slerp is the arc between two networks, not of {read.count}: use combine=average")
    position = mixture_weights(2, setting.weights or None)[1]
    sums: dict[str, list[float]] = {}
    for piece in read.all():
        held = sums.setdefault(piece.name, [0.0, 0.0, 0.0])
        for at, value in enumerate(_products(*piece.rows)):
            held[at] += float(value)
    factors: Mapping[str, tuple[float, float]] = {name: arc(_cosine(*held), position) for name, held in sums.items()}

    def rule(piece: Piece) -> Tensor:
        one, other = factors[piece.name]
        return one * piece.rows[0] + other * piece.rows[1]

    return rule


def combine_slerp(networks: Aligned, setting: Setting) -> State:
    """`slerp` as a row of `COMBINES`."""
    states = networks.trunks() if networks.heads else networks.states
    read = Pieces(networks.spec, states, [{} for _ in states])
    with torch.no_grad():
        return dict(Streamed(read, stream_slerp(read, setting)))
