"""Activation matching: `activation_matching(spec, model, a, b, batches)` (arXiv 2209.04836).

Units are matched by what they do on data. One streaming pass accumulates the products between the units of the models
and their moments; nothing of the activations is stored. Groups are independent: one assignment each.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from permlab.errors import UserError, check_range
from permlab.matching.assign import score, solve, tied, warn_of_ties
from permlab.matching.result import Matching
from permlab.matching.setting import MatchOptions, MatchSetting
from permlab.matching.table import SIMILARITIES
from permlab.matching.weight import Progress, check_models
from permlab.symmetry import HeadGroup, Permutation, Spec
from permlab.symmetry.taps import Recorder, taps

Key = tuple[str, str]
"""(group, space)."""


@dataclass
class Moments:
    """Streamed second moments of one group's space over K models with n units each.

    `products`: (k, l) with k < l (or k <= l when `within`) -> sum over positions of z_k z_l^T, [n, n] float64.
    `sums`, `squares`: [K, n] float64. `count`: positions seen.
    """

    sums: Tensor
    squares: Tensor
    products: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    count: int = 0

    def similarity(self, first: int, second: int, kind: str) -> Tensor:
        """[n, n] float64 similarity of the units of two models by a name of `SIMILARITIES`; larger is better.

        Raises:
            UserError: an unknown name.
        """
        found: Tensor = SIMILARITIES[kind].load()(self, first, second)
        return found

    def product(self, first: int, second: int) -> Tensor:
        """sum z_first z_second^T over the positions, whichever order it was accumulated in."""
        return self.products[first, second] if first <= second else self.products[second, first].t()


def inner(moments: Moments, first: int, second: int) -> Tensor:
    """E[z z'], [n, n]: its best assignment is the least-squares match (arXiv 2209.04836, section 3.1)."""
    return moments.product(first, second) / moments.count


def pearson(moments: Moments, first: int, second: int) -> Tensor:
    """Correlation, [n, n]; 0 for units that never vary."""
    means = moments.sums / moments.count
    spread = (moments.squares / moments.count - means.square()).clamp_min(0).sqrt()
    # Dead units: dividing rounding by rounding would give them arbitrary correlations.
    alive = spread > 1e-6 * (moments.squares / moments.count).sqrt().clamp_min(1e-30)
    covariance = moments.product(first, second) / moments.count - means[first][:, None] * means[second]
    safe = torch.where(alive, spread, torch.ones_like(spread))
    result = covariance / safe[first][:, None] / safe[second]
    return result * alive[first][:, None] * alive[second]


def distance(moments: Moments, first: int, second: int) -> Tensor:
    """Minus the Euclidean distance between two units' activation vectors over all positions, [n, n]."""
    # |z - z'|^2 = |z|^2 + |z'|^2 - 2 z.z': the moments suffice, no activations are kept (PLeaS matches by distance).
    squared = moments.squares[first][:, None] + moments.squares[second] - 2 * moments.product(first, second)
    # Rounding can turn the distance of two equal units negative.
    return -squared.clamp_min(0).sqrt()


def collect_moments(
    spec: Spec,
    model: nn.Module,
    states: Sequence[Mapping[str, Tensor]],
    batches: Iterable[Any],
    *,
    where: str = "post",
    within: bool = False,
    max_positions: int = 4096,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[Key, Moments]:
    """One pass over `batches` through every model; (group, space) -> Moments.

    Args:
        spec: the symmetry.
        model: a module of the architecture; it runs with the tensors of each state dict, in eval mode.
        states: K state dicts.
        batches: each a tensor, a tuple or list (its first item counts as the input), or a mapping of keyword arguments
            (labels in it are dropped).
        where: which activations, as in `permlab.symmetry.taps.taps`.
        within: also accumulate the products inside each model (ZipIt needs them).
        max_positions: positions (samples x places) used per batch and tap; more are drawn at random.
        seed: of that draw.
        progress: called with (batches done, batches) when `batches` has a length.

    Raises:
        UserError: no batch was given, or a group can be seen nowhere.
    """
    check_range("max_positions", max_positions, 1)
    recorder = Recorder(spec, model, taps(spec, model, where))
    generator = torch.Generator().manual_seed(seed)
    moments: dict[Key, Moments] = {}
    training = model.training
    # Statistics of a batch would make a unit's activation depend on its neighbours in the batch.
    model.eval()
    total = len(batches) if isinstance(batches, Sized) else 0
    try:
        for number, batch in enumerate(batches):
            inputs = as_inputs(batch)
            values = [recorder.run(state, inputs) for state in states]
            for tap in list(values[0]):
                rows = [value.pop(tap) for value in values]
                if rows[0].shape[1] > max_positions:
                    # One draw for all models: z_A z_B' pairs what the two do on the same input and place.
                    chosen = torch.randperm(rows[0].shape[1], generator=generator)[:max_positions]
                    rows = [row[:, chosen.to(row.device)] for row in rows]
                _accumulate(moments, (tap.group, tap.block.space), rows, within)
            if progress is not None and total:
                progress(number + 1, total)
    finally:
        model.train(training)
    if not moments:
        raise UserError("activation matching got no data: give at least one batch")
    unseen = set(spec.groups) - {group for group, _ in moments}
    if unseen:
        raise UserError(
            f"the activations of {', '.join(sorted(unseen))} are computed in a fused module and cannot be read: match "
            "by weights, or pin the group"
        )
    return moments


def as_inputs(batch: Any) -> tuple[Any, ...] | dict[str, Any]:
    """What the model is called with for one batch: labels are left out."""
    if isinstance(batch, Mapping):
        return {key: value for key, value in batch.items() if key != "labels"}
    return (batch,) if isinstance(batch, Tensor) else (batch[0],)


def added(tensors: Iterable[Tensor]) -> Tensor:
    """The sum of one or more tensors."""
    return functools.reduce(torch.add, tensors)


def _accumulate(moments: dict[Key, Moments], key: Key, rows: list[Tensor], within: bool) -> None:
    size, models = rows[0].shape[0], len(rows)
    if key not in moments:
        zeros = torch.zeros(models, size, dtype=torch.float64)
        moments[key] = Moments(zeros, zeros.clone())
    held = moments[key]
    held.count += rows[0].shape[1]
    for k, row in enumerate(rows):
        # float32 inside a batch, float64 across batches: rounding does not grow with the amount of data.
        held.sums[k] += row.sum(1).double().cpu()
        held.squares[k] += row.square().sum(1).double().cpu()
        # ZipIt compares units inside a model as well; one-to-one matching never does.
        for other in range(k if within else k + 1, models):
            product = (row @ rows[other].t()).double().cpu()
            if (k, other) in held.products:
                held.products[k, other] += product
            else:
                held.products[k, other] = product


def activation_matching(
    spec: Spec,
    model: nn.Module,
    states: Sequence[Mapping[str, Tensor]],
    batches: Iterable[Any],
    *,
    similarity: str = MatchOptions.similarity,
    where: str = "post",
    max_positions: int = 4096,
    max_sweeps: int = 50,
    seed: int = 0,
    progress: Progress | None = None,
) -> Matching:
    """Permute every model so that its units do on data what the units in the same slots of the others do.

    Two models: B to A. More: each to the sum of those before it, then each in turn to the sum of all others as they
    stand, until no assignment changes; the first model stays as it is.

    Args:
        similarity: inner (mean product; the least-squares match), pearson (correlation) or distance (minus the
            Euclidean distance). With more than two models similarities to the others are added.
        (the rest as in `collect_moments`)

    Raises:
        UserError: models that differ, an unknown similarity, no data.
    """
    SIMILARITIES.check("similarity", similarity)
    check_models(spec, list(states))
    begin = time.perf_counter()
    moments = collect_moments(
        spec, model, states, batches, where=where, max_positions=max_positions, seed=seed, progress=progress
    )
    result = match_moments(spec, moments, len(states), similarity, max_sweeps)
    result.seconds = time.perf_counter() - begin
    return result


def match_moments(
    spec: Spec, moments: Mapping[Key, Moments], models: int, similarity: str, max_sweeps: int = 50
) -> Matching:
    """The assignments of `activation_matching`, from moments that are already there."""
    result = Matching("activation", [spec.identity() for _ in range(models)], pinned=dict(spec.pinned))
    result.costs = [{} for _ in range(models)]
    result.scores = [{} for _ in range(models)]
    # Git Re-Basin, activation matching: groups do not depend on each other, so there are no sweeps over layers.
    for name, group in spec.groups.items():
        spaces = [space for (owner, space) in moments if owner == name]

        def against(k: int, others: list[int], name: str = name, spaces: list[str] = spaces) -> dict[str, Tensor]:
            return {
                space: added(
                    # Rows follow where the other model's units stand now; columns stay in this model's original frame.
                    moments[name, space].similarity(other, k, similarity)[
                        spec.groups[name].index(result.permutations[other], space)
                    ]
                    for other in others
                )
                for space in spaces
            }

        everyone = range(models)
        # Two models: one assignment is optimal. More wait for one another, as in MergeMany.
        for sweep in range(max_sweeps if models > 2 else 1):
            changed = False
            for k in range(1, models):
                # In the first sweep the later models are not aligned yet, so only the earlier ones count.
                costs = against(k, list(range(k)) if sweep == 0 else [other for other in everyone if other != k])
                found = solve(group, costs)
                result.solves += 1
                before = score(group, costs, result.permutations[k])
                # An equally good assignment is no progress: counting it would let the sweeps go round in circles.
                if score(group, costs, found.permutation) > before + 1e-9 * abs(before):
                    result.permutations[k].update(found.permutation)
                    changed = True
            if not changed:
                break
        for k in range(1, models):
            costs = against(k, [other for other in everyone if other != k])
            _fill(result, k, name, group, costs)
            result.objective += score(group, costs, result.permutations[k])
    ties = {name: max(tied(each[name]) for each in result.costs[1:]) for name in spec.groups}
    warn_of_ties(result.method, ties)
    result.sweeps = 1
    return result


def _fill(result: Matching, k: int, name: str, group: Any, costs: dict[str, Tensor]) -> None:
    """First-level cost and matched scores of one group of model k."""
    permutation: Permutation = result.permutations[k]
    if isinstance(group, HeadGroup):
        cost = solve(group, costs).cost
        # Heads move as wholes, so the first dim of a slot tells which head stands there.
        index = group.index(permutation, "key")[:: group.key_dim] // group.key_dim
    else:
        cost, index = costs["unit"].float(), permutation[name]
    result.costs[k][name] = cost
    result.scores[k][name] = cost[torch.arange(len(index)), index].clone()


def match_activation(
    spec: Spec, model: nn.Module | None, states: Sequence[Mapping[str, Tensor]], setting: MatchSetting
) -> Matching:
    """`activation_matching` as a row of `MATCHES`."""
    if model is None:
        raise UserError("activation matching runs the networks, which takes a module of their architecture")
    return activation_matching(
        spec,
        model,
        states,
        setting.batches,
        similarity=setting.similarity,
        seed=setting.seed,
        progress=setting.progress,
    )
