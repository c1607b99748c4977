"""Means of state dicts: `average(align(spec, [a, b], matching))`, `interpolate(a, b, 0.3)`.

Plain averaging of permuted models is what arXiv 2209.04836 calls re-basin merging; without a permutation it is the
naive control.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from permlab.errors import UserError
from permlab.matching import Matching
from permlab.matching.zip import zip_states
from permlab.merging.networks.states import State
from permlab.merging.numbers import numbers_of
from permlab.merging.setting import Setting, mixture_weights
from permlab.symmetry import Spec, apply, check_same

if TYPE_CHECKING:
    from permlab.merging.aligned import Aligned
    from permlab.merging.streaming import Pieces, Rule


def align(spec: Spec, states: Sequence[State], matching: Matching) -> list[dict[str, Tensor]]:
    """Every model in the common order of units, tied names still tied.

    Raises:
        UserError: the matching is between another number of models, or came from ZipIt (use `zip_states`).
    """
    if len(states) != len(matching.permutations):
        raise UserError(f"{len(states)} models given, but the matching is between {len(matching.permutations)}")
    if matching.clusters:
        raise UserError("ZipIt merges units instead of permuting them: merge with permlab.matching.zip_states")
    return [apply(spec, state, permutation) for state, permutation in zip(states, matching.permutations)]


def average(
    states: Sequence[State], weights: Sequence[float] | None = None, *, tied: Mapping[str, str] | None = None
) -> dict[str, Tensor]:
    """The (weighted) mean of K state dicts, tensor by tensor.

    Args:
        states: K state dicts in a common order of units.
        weights: one number per model, scaled to sum to 1 (default: equal).
        tied: alias name -> name of the tensor it shares (`spec.tied`); the alias gets the merged tensor itself.

    Returns:
        A new state dict; integer tensors (counters) come from the first model; half precision is averaged in float32.

    Raises:
        UserError: the models differ in names or shapes, or the weights do not fit.
    """
    if not states:
        raise UserError("no models given: averaging needs one or more")
    for number, state in enumerate(states[1:], start=1):
        check_same(states[0], state, ("model A", f"model {chr(65 + number)}"))
    shares = mixture_weights(len(states), weights)
    result: dict[str, Tensor] = {}
    for name, first in states[0].items():
        canonical = (tied or {}).get(name, name)
        # A tied tensor is averaged once and then shared: two equal copies would no longer be tied.
        if canonical != name and canonical in states[0]:
            continue
        if not first.is_floating_point():
            result[name] = first.clone()
            continue
        result[name] = weighted_sum([state[name] for state in states], shares).to(first.dtype)
    for alias, canonical in (tied or {}).items():
        if alias in states[0] and canonical in result:
            result[alias] = result[canonical]
    return result


def weighted_sum(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """sum_k weights[k] * tensors[k], in float32 or wider, on the device of the first."""
    # Half-precision sums lose the small differences between networks that merging is about.
    wide = torch.promote_types(tensors[0].dtype, torch.float32)
    total = tensors[0].to(wide) * weights[0]
    for tensor, weight in zip(tensors[1:], weights[1:]):
        total = total.add_(tensor.to(total.device, wide), alpha=weight)
    return total


def interpolate(a: State, b: State, position: float) -> dict[str, Tensor]:
    """(1 - position) A + position B; exactly A at 0 and B at 1, and exactly A everywhere when B equals A."""
    return {
        name: torch.lerp(value, b[name], position) if value.is_floating_point() else value for name, value in a.items()
    }


def combine_average(networks: Aligned, setting: Setting) -> State:
    """`average` as a row of `COMBINES`; units that are to stay apart do."""
    if networks.ratios:
        return networks.layout(setting.weights).merge(networks.states)
    states = networks.trunks() if networks.heads else networks.states
    return average(states, setting.weights or None, tied=networks.spec.tied)


def stream_average(read: Pieces, setting: Setting) -> Rule:
    """`average`, piece by piece."""
    if setting.weights:
        mixture_weights(read.count, setting.weights)
    find = numbers_of(setting, read.count)
    return lambda piece: weighted_sum(piece.rows, find(piece.name).factors(read.count, normalize=True))


def combine_zipped(networks: Aligned, setting: Setting) -> State:
    """`zip_states` as a row of `COMBINES`: the mean of the units that ZipIt put together (arXiv 2305.03053)."""
    return zip_states(networks.spec, networks.module, networks.original, networks.matching)
