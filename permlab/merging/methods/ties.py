"""Baselines for models fine-tuned from one ancestor: `ties(base, [a, b], keep=0.2)`, `task_arithmetic(base, [a, b])`.

They add up task vectors (fine-tuned minus base) and know nothing of permutations: models trained from different
random starts have no common ancestor and no meaningful task vectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from permlab.errors import UserError, check_range
from permlab.matching.activation import added
from permlab.merging.networks.states import State
from permlab.merging.setting import Setting, mixture_weights
from permlab.merging.streaming import Piece, Pieces, Rule, ancestor_of
from permlab.selection import kth_magnitudes
from permlab.symmetry import check_same, wide

if TYPE_CHECKING:
    from permlab.merging.aligned import Aligned


def _check(base: State, states: Sequence[State]) -> None:
    if not states:
        raise UserError("no fine-tuned models given: task vectors need one or more")
    for number, state in enumerate(states):
        check_same(base, state, ("the base", f"model {chr(65 + number)}"))


def task_vectors(base: State, states: Sequence[State]) -> list[dict[str, Tensor]]:
    """State minus base for every floating-point tensor, in float32 or wider.

    Raises:
        UserError: a model differs from the base in names or shapes.
    """
    _check(base, states)
    # tau_k = theta_k - theta_0 (arXiv 2212.04089, section 2)
    return [{name: wide(state[name]) - wide(base[name]) for name in _floating(base)} for state in states]


def _floating(base: State) -> list[str]:
    return [name for name, value in base.items() if value.is_floating_point()]


def _add(base: State, change: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    return {
        name: (wide(value) + scale * change[name]).to(value.dtype) if name in change else value.clone()
        for name, value in base.items()
    }


def task_arithmetic(
    base: State, states: Sequence[State], scale: float | Sequence[float] | None = None
) -> dict[str, Tensor]:
    """base + sum_k scale_k (state_k - base) (task arithmetic, arXiv 2212.04089).

    Args:
        base, states: the common ancestor and K models fine-tuned from it.
        scale: one number for all, or one per model; default 1 / K, which is the plain average.

    Raises:
        UserError: a model differs from the base in names or shapes, or there is not one scale per model.
    """
    vectors = task_vectors(base, states)
    # 1 / K each turns task arithmetic into the plain average, the natural control.
    scales = [1 / len(states) if scale is None else scale] * len(states) if not isinstance(scale, Sequence) else scale
    if len(scales) != len(states):
        raise UserError(f"{len(scales)} scales given for {len(states)} models: give one per model")
    total = {name: added(factor * each[name] for factor, each in zip(scales, vectors)) for name in vectors[0]}
    return _add(base, total, 1.0)


def ties(
    base: State, states: Sequence[State], *, keep: float, scale: float = 1.0, weights: Sequence[float] | None = None
) -> dict[str, Tensor]:
    """Trim, elect signs, and average what agrees (TIES, arXiv 2306.01708).

    Each task vector keeps its `keep` share of largest entries over the whole model; each entry's sign is that of the
    sum of the trimmed vectors; the mean is over the entries with the elected sign. Where trimmed entries cancel exactly
    there is no sign to elect and the base stays.

    Args:
        keep: share of entries kept, in (0, 1].
        scale: factor on the merged task vector.
        weights: one per model, equal ones by default; a vector votes and counts with its weight.

    Raises:
        UserError: a model differs from the base, or `keep` or the weights are out of range.
    """
    mixture_weights(len(states), weights)
    check_range("keep", keep, 0, 1)
    if keep == 0:
        raise UserError("keep=0 would drop every change: give a share above 0, such as 0.2")
    vectors = task_vectors(base, states)
    for vector in vectors:
        _trim(vector, keep)  # step 1 of arXiv 2306.01708, trim
    merged: dict[str, Tensor] = {}
    for name in vectors[0]:
        merged[name] = elect([vector[name] for vector in vectors], weights)
    return _add(base, merged, scale)


def elect(vectors: Sequence[Tensor], weights: Sequence[float] | None = None) -> Tensor:
    """Elect the sign of every entry of trimmed task vectors, and average the entries that carry it."""
    stacked = torch.stack(list(vectors))
    share = torch.tensor(list(weights or [1.0] * len(vectors))).to(stacked).view(-1, *[1] * (stacked.dim() - 1))
    sign = (stacked * share).sum(0).sign()  # step 2, elect: the sign with the larger total
    # Trimmed entries do not vote, and must not thin out the mean either.
    agrees = (stacked.sign() == sign) & (stacked != 0)
    # step 3, disjoint merge: the mean of the entries that agree
    count = (share * agrees).sum(0)
    return (stacked * share * agrees).sum(0) / count.where(count > 0, 1.0)


def _kept(keep: float, entries: int) -> int:
    return max(1, round(keep * entries))


def _trim(vector: dict[str, Tensor], keep: float) -> None:
    """Set all but the largest `keep` share of the entries to 0, in place; entries equal to the threshold stay."""
    flat = torch.cat([value.abs().flatten() for value in vector.values()])
    kept = _kept(keep, flat.numel())
    # One threshold for the whole model, so layers that changed little may lose all; torch.quantile has a size limit.
    threshold = flat.kthvalue(flat.numel() - kept + 1).values
    for value in vector.values():
        value[value.abs() < threshold] = 0


def combine_task_arithmetic(networks: Aligned, setting: Setting) -> State:
    """`task_arithmetic` as a row of `COMBINES`: every change counts in full where no weights are given."""
    weights = setting.weights or [1.0] * len(networks.original)
    # Networks fine-tuned from one ancestor still have its order of units: nothing is permuted.
    return task_arithmetic(ancestor_of(setting), networks.original, weights)


def combine_ties(networks: Aligned, setting: Setting) -> State:
    """`ties` as a row of `COMBINES`."""
    weights = setting.weights or None
    return ties(ancestor_of(setting), networks.original, keep=setting.density, weights=weights)


def stream_task_arithmetic(read: Pieces, setting: Setting) -> Rule:
    """`task_arithmetic`, piece by piece."""
    factors = setting.weights or [1.0] * read.count

    def rule(piece: Piece) -> Tensor:
        assert piece.base is not None
        return piece.base + added(factor * change for factor, change in zip(factors, piece.changes))

    return rule


def stream_ties(read: Pieces, setting: Setting) -> Rule:
    """`ties`, piece by piece; the thresholds are counted out first, which reads all networks twice."""
    mixture_weights(read.count, setting.weights or None)
    # One type throughout, so that magnitudes of all tensors can be compared bit by bit.
    doubles = any(read.states[0][name].dtype == torch.float64 for name in read.floating)
    kind = torch.float64 if doubles else torch.float32

    def changes() -> Iterator[list[Tensor]]:
        for piece in read.all():
            yield [change.to(kind) for change in piece.changes]

    limits = kth_magnitudes(changes, partial(_kept, setting.density))

    def rule(piece: Piece) -> Tensor:
        assert piece.base is not None
        trimmed = [change.where(change.abs() >= limit, 0.0) for change, limit in zip(piece.changes, limits)]
        return piece.base + elect(trimmed, setting.weights or None)

    return rule
