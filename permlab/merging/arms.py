"""One way to merge, carried out: `merge_arm(parse_arm("weight+reset"), spec, model, [a, b], Setting(batches)).state`.

An arm is a matching, a way to combine what was matched, and what is done to the statistics afterwards, written
`match[/combine][+renorm]`: `weight`, `activation/least_squares`, `identity+reset`, `zip/zip`. A `Setting` holds the
data and numbers that all arms of a comparison share.

    setting = Setting(batches, seed=0)
    merged = merge_arm(parse_arm("activation/least_squares"), spec, model, [a, b], setting)
    merged.state, merged.matching.moved(), merged.macs
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from permlab.arms import Arm, check_arm, parse_arm
from permlab.errors import UserError
from permlab.matching import (
    Matching,
    activation_matching,
    identity_matching,
    random_matching,
    straight_through,
    weight_matching,
    weight_matching_many,
    zip_matching,
    zip_states,
)
from permlab.matching.activation import as_inputs
from permlab.merging.ancestor import task_arithmetic, ties
from permlab.merging.average import State, align, average
from permlab.merging.budget import Allocation, allocate, measured_gains, weight_gains
from permlab.merging.heads import trunk_spec
from permlab.merging.layout import Layout, pair_scores
from permlab.merging.least_squares import least_squares
from permlab.merging.macs import MacCounter
from permlab.merging.regmean import regmean
from permlab.merging.renormalise import batchnorms, repair, reset_batchnorm
from permlab.merging.separable import not_separable
from permlab.symmetry import Spec

__all__ = ["Arm", "Merged", "Setting", "check_arm", "match_arm", "merge_arm", "parse_arm", "renormalise"]


@dataclass
class Setting:
    """What all arms of a comparison share.

    Attributes:
        batches: training batches for activations, Gram matrices, straight-through steps and statistics.
        own_batches: per network its own data (RegMean); default `batches` for each.
        seed: of random permutations, orders and draws.
        similarity, restarts, steps: of activation matching, weight matching, straight-through.
        weights: share of each network; None is equal (task arithmetic: 1 each).
        ridge: of least squares or RegMean; None takes the method's own.
        density: share of entries that TIES keeps.
        budget, allocation: multiply-accumulates relative to one network, and where what is above 1 goes.
        measure: accuracy of a merged network (one state per head) on data that is not tested on, for the gains of
            greedy and qp; None takes the distance of the weights instead.
        heads: tensors of task heads, where the networks have different labels: kept per network.
        ancestor: what all were fine-tuned from.
        progress, should_stop: of the long matchings.
    """

    batches: Sequence[Any]
    own_batches: Sequence[Sequence[Any]] | None = None
    seed: int = 0
    similarity: str = "inner"
    restarts: int = 1
    steps: int = 200
    weights: Sequence[float] | None = None
    ridge: float | None = None
    density: float = 0.2
    budget: float = 1.0
    allocation: str = "uniform"
    measure: Callable[[Sequence[State]], float] | None = None
    heads: Sequence[str] = ()
    ancestor: State | None = None
    progress: Callable[[int, int], None] | None = None
    should_stop: Callable[[], bool] | None = None


@dataclass
class Merged:
    """A merged network and how it came about.

    Attributes:
        state: its tensors; with task heads, without them.
        states: one per head: `state` under each network's own head; just `state` where there are no task heads.
        aligned: the networks in the common order of units (as trained for ZipIt).
        matching, allocation: how; `macs`: multiply-accumulates relative to one network.
        scores: group -> how well each slot is matched, where units were kept apart.
        notes: layer or group -> what was done differently and why.
        seconds: of matching, combining and statistics.
    """

    state: dict[str, Tensor]
    states: list[dict[str, Tensor]]
    aligned: list[State]
    matching: Matching
    macs: float = 1.0
    allocation: Allocation | None = None
    scores: dict[str, Tensor] | None = None
    notes: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def layout(self, spec: Spec, model: nn.Module, setting: Setting, weights: Sequence[float] | None = None) -> Layout:
        """The layout of a merge of two networks, `weights` in place of the setting's.

        Raises:
            UserError: another number of networks.
        """
        if len(self.aligned) != 2:
            raise UserError(
                f"{len(self.aligned)} networks: partial merging, least squares and REPAIR join two; use combine=average"
            )
        ratios = self.allocation.ratios if self.allocation else {}
        weights = setting.weights if weights is None else weights
        return Layout(spec, model, scores=self.scores, ratios=ratios, heads=setting.heads, weights=weights)


def match_arm(match: str, spec: Spec, model: nn.Module, states: Sequence[State], setting: Setting) -> Matching:
    """The matching of two or more networks by name.

    Raises:
        UserError: networks that differ, NaN, no data.
    """
    seed, watch = setting.seed, {"progress": setting.progress, "should_stop": setting.should_stop}
    if match == "identity":
        return identity_matching(spec, len(states))
    if match == "random":
        return random_matching(spec, len(states), seed)
    if match == "weight":
        trunk = trunk_spec(spec, setting.heads)
        if len(states) > 2:
            return weight_matching_many(trunk, states, seed=seed, **watch)
        return weight_matching(trunk, *states, restarts=setting.restarts, seed=seed, **watch)
    if match == "activation":
        return activation_matching(
            spec, model, states, setting.batches, similarity=setting.similarity, seed=seed, progress=setting.progress
        )
    if match == "straight_through":
        return straight_through(spec, model, states, setting.batches, steps=setting.steps, seed=seed, **watch)
    return zip_matching(spec, model, states, setting.batches, seed=seed, progress=setting.progress)


def merge_arm(
    arm: Arm,
    spec: Spec,
    model: nn.Module,
    states: Sequence[State],
    setting: Setting,
    matching: Matching | None = None,
) -> Merged:
    """Match, combine and renormalise.

    Args:
        arm: what to do.
        spec: verified symmetry of the architecture.
        model: a module of it.
        states: two or more networks as trained; with `setting.heads` each has a head of its own.
        setting: data and numbers.
        matching: one of the same networks that is there already, instead of `arm.match`.

    Raises:
        UserError: an arm that does not fit the networks, or bad data.
    """
    check_arm(arm)
    begin = time.perf_counter()
    matching = matching or match_arm(arm.match, spec, model, states, setting)
    aligned = list(states) if matching.clusters else align(spec, states, matching)
    result = Merged({}, [], aligned, matching, notes=dict(matching.notes))
    if setting.budget > 1:
        _spend(result, spec, model, states, setting)
    if arm.combine == "zip":
        result.state = zip_states(spec, model, states, matching)
    elif arm.combine in ("task_arithmetic", "ties"):
        result.state = _from_ancestor(arm.combine, states, setting)
    elif arm.combine == "regmean":
        data = setting.own_batches or [setting.batches] * len(states)
        options = {} if setting.ridge is None else {"ridge": setting.ridge}
        result.state = regmean(spec, model, aligned, data, heads=setting.heads, seed=setting.seed, **options)
    elif arm.combine == "least_squares":
        options = {} if setting.ridge is None else {"ridge": setting.ridge}
        layout = result.layout(spec, model, setting)
        fitted = least_squares(layout, model, aligned, setting.batches, seed=setting.seed, **options)
        result.state, result.notes = fitted.state, result.notes | fitted.notes
    elif len(states) == 2:
        result.state = result.layout(spec, model, setting).merge(aligned)
    else:
        shared = [{name: value for name, value in state.items() if name not in setting.heads} for state in aligned]
        result.state = average(shared, setting.weights, tied=spec.tied)
    if arm.renorm != "none":
        result.state = renormalise(arm.renorm, spec, model, result, setting)
    result.states = _under_heads(spec, model, states, result, setting)
    result.seconds = time.perf_counter() - begin
    return result


def _from_ancestor(combine: str, states: Sequence[State], setting: Setting) -> dict[str, Tensor]:
    if setting.ancestor is None:
        raise UserError(f"combine={combine} needs the network that all were fine-tuned from: give an ancestor")
    if combine == "ties":
        return ties(setting.ancestor, states, keep=setting.density)
    weights = [1.0] * len(states) if setting.weights is None else list(setting.weights)
    return task_arithmetic(setting.ancestor, states, weights)


def _under_heads(
    spec: Spec, model: nn.Module, states: Sequence[State], merged: Merged, setting: Setting
) -> list[dict[str, Tensor]]:
    """The merged trunk under each network's own head, or the merged network alone."""
    if not setting.heads:
        return [merged.state]
    trunk = {name: value for name, value in merged.state.items() if name not in setting.heads}
    if merged.allocation is not None:
        layout = merged.layout(spec, model, setting)
        return [layout.task_state(trunk, state, k) for k, state in enumerate(merged.aligned)]
    if not merged.matching.clusters:
        return [{**trunk, **{name: state[name] for name in setting.heads}} for state in merged.aligned]
    result = []
    for k in range(len(states)):
        # The head of one network, spread over the merged units: the other heads are 0, and the mean is undone.
        alone = [
            {name: state[name] if j == k else torch.zeros_like(state[name]) for name in setting.heads}
            for j, state in enumerate(states)
        ]
        head = zip_states(spec, model, alone, merged.matching)
        result.append({**trunk, **{name: value * len(states) for name, value in head.items()}})
    return result


def renormalise(
    renorm: str,
    spec: Spec,
    model: nn.Module,
    merged: Merged,
    setting: Setting,
    state: State | None = None,
    weights: Sequence[float] | None = None,
) -> dict[str, Tensor]:
    """Reset BatchNorm statistics, or give units the statistics of the endpoints where there is no BatchNorm (REPAIR).

    Args:
        renorm: reset, rescale or reshift.
        merged: gives the aligned networks and the layout.
        state: the network to correct, default `merged.state`; `weights` its mixture, default `setting.weights`.

    Raises:
        UserError: without BatchNorm: more than two networks, or a ZipIt merge.
    """
    state = merged.state if state is None else state
    if renorm == "reset" and batchnorms(model):
        return reset_batchnorm(model, state, setting.batches)
    if merged.matching.clusters:
        raise UserError(f"renorm={renorm} on a network without BatchNorm needs pairs of units, which ZipIt has not")
    layout = merged.layout(spec, model, setting, weights)
    return repair(layout, model, merged.aligned, state, list(setting.batches), mode=renorm)


def _spend(merged: Merged, spec: Spec, model: nn.Module, states: Sequence[State], setting: Setting) -> None:
    """Allocate a budget above 1: `merged.allocation`, `.scores` and `.macs`."""
    merged.layout(spec, model, setting)  # refuses more than two networks
    inputs = _few(as_inputs(setting.batches[0]))
    fixed = not_separable(spec, model, inputs)
    counter = MacCounter(spec, model, inputs, heads=setting.heads, fixed=list(fixed))
    merged.scores = pair_scores(spec, *states, merged.matching)
    gains = None
    if setting.allocation in ("greedy", "qp"):
        free = [name for name in spec.groups if name not in fixed]
        gains = _gains(free, merged, spec, model, setting)
    merged.allocation = allocate(
        setting.allocation, counter, setting.budget, gains=gains, fixed=fixed, seed=setting.seed
    )
    merged.macs = merged.allocation.macs
    merged.notes |= merged.allocation.notes


def _few(inputs: Any, count: int = 8) -> Any:
    """The first samples of the inputs of one call: enough to count and to compare."""
    if isinstance(inputs, Mapping):
        return {key: value[:count] for key, value in inputs.items()}
    return tuple(value[:count] for value in inputs)


def _gains(free: list[str], merged: Merged, spec: Spec, model: nn.Module, setting: Setting) -> dict[str, float]:
    """What keeping each group apart is worth: measured on averages, or the distance of the weights."""
    measure = setting.measure
    if measure is None:
        return weight_gains(spec, *merged.aligned, free)

    def accuracy(ratios: Mapping[str, float]) -> float:
        layout = Layout(spec, model, scores=merged.scores, ratios=ratios, heads=setting.heads, weights=setting.weights)
        state = reset_batchnorm(model, layout.merge(merged.aligned), setting.batches)
        if not setting.heads:
            return measure([state])
        return measure([layout.task_state(state, each, k) for k, each in enumerate(merged.aligned)])

    return measured_gains(free, setting.budget, accuracy)
