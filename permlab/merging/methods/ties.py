"""Baselines for models fine-tuned from one ancestor: `ties(base, [a, b], keep=0.2)`, `task_arithmetic(base, [a, b])`.

They add up task vectors (fine-tuned minus base) and know nothing of permutations: models trained from different
random starts have no common ancestor and no meaningful task vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from permlab.errors import UserError, check_range
from permlab.matching.activation import added
from permlab.merging.networks.states import State
from permlab.merging.setting import mixture_weights
from permlab.symmetry import check_same, wide


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


def elect(vectors: Sequence[Tensor], weights: Sequence[float] | None = None, *, mean: bool = True) -> Tensor:
    """Elect the sign of every entry of trimmed task vectors, and average the entries that carry it, or add them up."""
    shares = list(weights or [1.0] * len(vectors))
    # Signs and products throughout: comparisons take many times as long as arithmetic does.
    sign = added(share * vector for share, vector in zip(shares, vectors)).sign()  # step 2, elect: the larger total
    total, count = torch.zeros_like(sign), torch.zeros_like(sign)
    for share, vector in zip(shares, vectors):
        # Trimmed entries do not vote, and must not thin out the mean either.
        agrees = vector.sign().mul_(sign).clamp_(min=0)
        total.addcmul_(vector, agrees, value=share)
        count.add_(agrees, alpha=share)
    # step 3, disjoint merge: the mean of the entries that agree, 0 where there are none
    return total / count.add_(1 - count.sign().abs_()) if mean else total


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
