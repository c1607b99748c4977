"""Averages along the sphere: `slerp(a, b, 0.3)` (Shoemake 1985), tensor by tensor as mergekit's `slerp` does it.

All of them are linear in the tensors, with factors that hang on their inner products only: one pass takes those, the
next adds up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from permlab.errors import UserError
from permlab.matching.activation import added
from permlab.merging.networks.states import State
from permlab.merging.numbers import numbers_of
from permlab.merging.setting import Setting, mixture_weights
from permlab.merging.streaming import MakeRule, Piece, Pieces, Rule, Streamed, ancestor_of

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
    one, other = arc(cosine_of(gram([a, b]), 0, 1), position)
    return one * a + other * b


def gram(tensors: Sequence[Tensor]) -> Tensor:
    """Inner products [K, K] of tensors as vectors, in float64."""
    total = torch.zeros(len(tensors), len(tensors), dtype=torch.float64, device=tensors[0].device)
    # A little at a time: doubles of whole pieces would be most of the memory of a merge.
    for parts in zip(*(each.flatten().split(CHUNK) for each in tensors)):
        rows = [part.double() for part in parts]
        for i, one in enumerate(rows):
            for j, other in enumerate(rows[: i + 1]):
                total[i, j] += one @ other
    return (total.tril() + total.tril(-1).t()).cpu()


def grams(read: Pieces, *, changes: bool = False) -> dict[str, Tensor]:
    """Name -> inner products of all networks' tensors, or of their changes since the ancestor."""
    found: dict[str, Tensor] = {}
    for piece in read.all():
        part = gram(piece.changes if changes else piece.rows)
        found[piece.name] = found[piece.name] + part if piece.name in found else part
    return found


def cosine_of(products: Tensor, i: int, j: int) -> float:
    """Cosine between two of the tensors whose inner products are given."""
    one, other, inner = (float(products[at]) for at in ((i, i), (j, j), (i, j)))
    # A tensor of zeros has no direction: the straight line is all there is.
    return max(-1.0, min(1.0, inner / math.sqrt(one * other))) if one > 0 and other > 0 else 1.0


def stream_slerp(read: Pieces, setting: Setting) -> Rule:
    """`slerp` of every tensor of two networks, the second network's weight being the position.

    Raises:
        UserError: another number of networks.
    """
    if read.count != 2:
        raise UserError(f"slerp is the arc between two networks, not of {read.count}: use combine=multi_slerp")
    find, products = numbers_of(setting, 2), grams(read)

    def rule(piece: Piece) -> Tensor:
        position = mixture_weights(2, find(piece.name).weights or None)[1]
        one, other = arc(cosine_of(products[piece.name], 0, 1), position)
        return one * piece.rows[0] + other * piece.rows[1]

    return rule


def barycentre(products: Tensor, weights: Sequence[float]) -> list[float]:
    """Factors of K tensors in their mean on the sphere, seen from their straight mean: norms are averaged by weight.

    The directions u_k are looked at from m = sum w_k u_k / |sum w_k u_k|: t = sum_k w_k (u_k - (u_k m) m) lies in the
    tangent space there, and exp_m(t) = cos|t| m + sin|t| t / |t|. Seen from a mean that is weighted alike, t is 0 but
    for rounding, and the mean direction is m itself.

    Args:
        products: inner products [K, K].
        weights: K numbers that sum to 1.
    """
    norms = [math.sqrt(max(0.0, float(value))) for value in products.diagonal()]
    length = math.sqrt(
        max(
            0.0,
            sum(
                w * v * cosine_of(products, i, j)
                for i, w in enumerate(weights)
                for j, v in enumerate(weights)
                if norms[i] and norms[j]
            ),
        )
    )
    mean = sum(weight * norm for weight, norm in zip(weights, norms))
    if not length:  # opposite directions have no mean: the straight one is 0 as well
        return list(weights)
    return [mean * weight / (length * norm) if norm else 0.0 for weight, norm in zip(weights, norms)]


def stream_multi_slerp(read: Pieces, setting: Setting) -> Rule:
    """The mean direction of every tensor of all networks, at the mean of their norms."""
    find, products = numbers_of(setting, read.count), grams(read)

    def rule(piece: Piece) -> Tensor:
        factors = barycentre(products[piece.name], mixture_weights(read.count, find(piece.name).weights or None))
        return added(factor * row for factor, row in zip(factors, piece.rows))

    return rule


def stream_model_stock(read: Pieces, setting: Setting) -> Rule:
    """Between the ancestor and the mean, as far as the angle between the networks says (arXiv 2403.19522).

    theta = t mean + (1 - t) ancestor, with t = k cos / (1 + (k - 1) cos) and the mean cosine between two changes.

    Raises:
        UserError: one network, which makes no angle.
    """
    if read.count < 2:
        raise UserError("model_stock reads the angle between networks: give two or more")
    products = grams(read, changes=True)

    def rule(piece: Piece) -> Tensor:
        assert piece.base is not None
        pairs = [cosine_of(products[piece.name], i, j) for i in range(read.count) for j in range(i)]
        cosine = sum(pairs) / len(pairs)
        share = read.count * cosine / (1 + (read.count - 1) * cosine)
        return piece.base + share / read.count * added(piece.changes)

    return rule


def combine_slerp(networks: Aligned, setting: Setting) -> State:
    """`slerp` as a row of `COMBINES`."""
    return _combine(stream_slerp, networks, setting)


def combine_multi_slerp(networks: Aligned, setting: Setting) -> State:
    """`stream_multi_slerp` as a row of `COMBINES`."""
    return _combine(stream_multi_slerp, networks, setting)


def combine_model_stock(networks: Aligned, setting: Setting) -> State:
    """`stream_model_stock` as a row of `COMBINES`."""
    read = Pieces(networks.spec, networks.original, [{} for _ in networks.original], ancestor_of(setting))
    with torch.no_grad():
        return dict(Streamed(read, stream_model_stock(read, setting)))


def _combine(make: MakeRule, networks: Aligned, setting: Setting) -> State:
    states = networks.trunks() if networks.heads else networks.states
    read = Pieces(networks.spec, states, [{} for _ in states])
    with torch.no_grad():
        return dict(Streamed(read, make(read, setting)))
