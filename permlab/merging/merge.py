"""One way to merge, carried out: `merge_arm(parse_arm("weight+reset"), spec, model, [a, b], Setting(batches)).state`.

An arm is a matching, a way to combine what was matched, and what is done to the statistics afterwards, written
`match[/combine][+renorm]`: `weight`, `activation/least_squares`, `identity+reset`, `zip`. A `Setting` holds the data
and numbers that all arms of a comparison share. The names are those of `permlab.merging.table`.

    setting = Setting(batches, seed=0)
    merged = merge_arm(parse_arm("activation/least_squares"), spec, model, [a, b], setting)
    merged.state, merged.matching.moved(), merged.macs
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from permlab import registry
from permlab.errors import UserError
from permlab.matching import Matching, match_networks
from permlab.matching.activation import as_inputs
from permlab.matching.table import MATCHES
from permlab.matching.zip import zip_states
from permlab.merging.aligned import Aligned
from permlab.merging.arm import Arm, check_arm
from permlab.merging.methods.average import align
from permlab.merging.methods.repair import reset_batchnorm
from permlab.merging.networks.rows import KnownRows
from permlab.merging.networks.states import State
from permlab.merging.partial.budget import Allocation, allocate, measured_gains, weight_gains
from permlab.merging.partial.layout import pair_scores
from permlab.merging.partial.macs import MacCounter
from permlab.merging.partial.separable import not_separable
from permlab.merging.setting import Setting
from permlab.merging.streaming import Streamed, stream
from permlab.merging.table import ALLOCATIONS, COMBINES, RENORMS
from permlab.symmetry import Spec


@dataclass
class Merged:
    """A merged network and how it came about.

    Attributes:
        state: its tensors; with task heads, without them.
        states: one per head: `state` under each network's own head; just `state` where there are no task heads.
        networks: what was combined.
        macs: multiply-accumulates relative to one network; `allocation`: where those above 1 went.
        seconds: of matching, combining and statistics.
    """

    state: dict[str, Tensor]
    states: list[dict[str, Tensor]]
    networks: Aligned
    macs: float = 1.0
    allocation: Allocation | None = None
    seconds: float = 0.0

    @property
    def aligned(self) -> Sequence[State]:
        """The networks in the common order of units (as trained for ZipIt)."""
        return self.networks.states

    @property
    def matching(self) -> Matching:
        """How the networks were matched."""
        return self.networks.matching

    @property
    def notes(self) -> dict[str, str]:
        """Layer or group -> what was done differently and why."""
        return self.networks.notes


def merge_arm(
    arm: Arm,
    spec: Spec,
    model: nn.Module,
    states: Sequence[State],
    setting: Setting,
    matching: Matching | None = None,
    ratios: Mapping[str, float] | None = None,
    counter: MacCounter | None = None,
) -> Merged:
    """Match, combine and renormalise.

    Args:
        arm: what to do.
        spec: verified symmetry of the architecture.
        model: a module of it.
        states: two or more networks as trained; with `setting.heads` each has a head of its own.
        setting: data and numbers.
        matching: one of the same networks that is there already, instead of `arm.match`.
        ratios: group -> share of units that are kept apart, instead of what `setting.budget` and `.allocation` give.
        counter: of the architecture's multiply-accumulates, where there is one already.

    Raises:
        UserError: an arm that does not fit the networks, or bad data.
    """
    check_arm(arm)
    begin = time.perf_counter()
    matching = matching or match_networks(arm.match, spec, model, states, setting)
    networks = align_networks(spec, model, states, matching, setting.heads)
    if setting.known is not None and not setting.known.ancestral:
        fill_rows(networks, setting.known)
    result = Merged({}, [], networks)
    if matching.apart:
        result.macs = _price_apart(networks, setting)
    elif ratios:
        keep_apart(networks, ratios)
        result.macs = (counter or _counter(networks, setting)[0]).ratio(ratios)
    elif setting.budget > 1:
        _spend(result, setting)
    result.state = dict(COMBINES[arm.combine].load()(networks, setting))
    if (known := setting.known) is not None:
        for name in known.tensors:
            result.state[name] = known.kept(0, result.state[name], [state[name] for state in networks.states])
    # Last: statistics are those of the very network that is handed on.
    result.state = renormalise(arm.renorm, networks, result.state, setting)
    result.states = under_heads(networks, result.state)
    result.seconds = time.perf_counter() - begin
    return result


def align_networks(
    spec: Spec, model: nn.Module | None, states: Sequence[State], matching: Matching, heads: Sequence[str] = ()
) -> Aligned:
    """Return networks in the common order of units that a matching gives; zipped ones stay as they are.

    Raises:
        UserError: the matching is between another number of networks.
    """
    # ZipIt has no common order of units: its merge and unmerge act on the networks as trained.
    moved = list(states) if matching.clusters else align(spec, states, matching)
    return Aligned(spec, model, states, moved, matching, heads, notes=dict(matching.notes))


def fill_rows(networks: Aligned, known: KnownRows) -> None:
    """Give networks in a common order of units the rows of embeddings that they lack, in place."""
    states = [dict(state) for state in networks.states]
    for name in known.tensors:
        for state, value in zip(states, known.filled(0, [state[name] for state in states])):
            state[name] = value
    networks.states = states


def keep_apart(networks: Aligned, ratios: Mapping[str, float] | None) -> Aligned:
    """Set the share of units of two networks that stay apart, group by group, and return the networks.

    Raises:
        UserError: another number of networks.
    """
    if ratios:
        networks.layout()  # refuses another number of networks
        first, second = networks.original
        # What heads for different labels do with a unit does not count.
        networks.scores = pair_scores(networks.spec.without(networks.heads), first, second, networks.matching)
        networks.ratios = ratios
    return networks


def under_heads(networks: Aligned, merged: State) -> list[dict[str, Tensor]]:
    """Return the merged trunk under each network's own head, or the merged network alone where heads are merged too."""
    if not networks.heads:
        return [dict(merged)]
    trunk = {name: value for name, value in merged.items() if name not in networks.heads}
    if networks.ratios:
        layout = networks.layout()
        return [layout.task_state(trunk, state, k) for k, state in enumerate(networks.states)]
    if not networks.matching.clusters:
        return [{**trunk, **{name: state[name] for name in networks.heads}} for state in networks.states]
    result = []
    count = len(networks.original)
    for k in range(count):
        # The head of one network, spread over the merged units: the other heads are 0, and the mean is undone.
        alone = [
            {name: state[name] if j == k else torch.zeros_like(state[name]) for name in networks.heads}
            for j, state in enumerate(networks.original)
        ]
        head = zip_states(networks.spec, networks.module, alone, networks.matching)
        result.append({**trunk, **{name: value * count for name, value in head.items()}})
    return result


def renormalise(
    renorm: str, networks: Aligned, state: State, setting: Setting, weights: Sequence[float] | None = None
) -> dict[str, Tensor]:
    """Mend the statistics of a merged network by a name of `RENORMS`.

    Args:
        renorm: none, reset, rescale or reshift.
        networks: what was combined.
        state: the network to correct.
        setting: its batches are run through.
        weights: the mixture that `state` is; default `setting.weights`.

    Raises:
        UserError: an unknown name; without BatchNorm: more than two networks, or a ZipIt merge.
    """
    row = RENORMS[renorm]
    if not row.changes:
        return dict(state)
    shares = setting.weights if weights is None else weights
    # Units that stay apart widen what the heads read: the trunk runs under one that fits, whose outputs do not matter.
    whole = under_heads(networks, state)[0] if networks.heads and networks.ratios else state
    found = row.load()(networks, whole, setting, shares)
    return {name: found[name] for name in state}


# ---- a budget above 1 ------------------------------------------------------------------------------------------------


def _counter(networks: Aligned, setting: Setting) -> tuple[MacCounter, dict[str, str]]:
    """(exact multiply-accumulates of every layout, groups that cannot keep units apart -> why)."""
    inputs = _few(as_inputs(setting.batches[0]))
    fixed = not_separable(networks.spec, networks.module, inputs)
    return MacCounter(networks.spec, networks.module, inputs, heads=networks.heads, fixed=list(fixed)), fixed


def _price_apart(networks: Aligned, setting: Setting) -> float:
    """Multiply-accumulates of a partial zip.

    Raises:
        UserError: more than two networks, or a layer that mixes all units, so that they cannot stay apart.
    """
    apart = networks.matching.apart
    if len(networks.original) != 2:
        raise UserError(f"zip_stop keeps units of two networks apart, not of {len(networks.original)}: drop zip_stop")
    counter, fixed = _counter(networks, setting)
    for name in apart:
        if name in fixed:
            raise UserError(f"zip_stop={apart[0]}: units of {name} cannot stay apart: {fixed[name]}")
    return counter.ratio(dict.fromkeys(apart, 1.0))


def _spend(merged: Merged, setting: Setting) -> None:
    """Decide where a budget above 1 goes: `merged.allocation`, `.macs`, and the ratios of the networks."""
    networks = merged.networks
    networks.layout()  # refuses more than two networks
    counter, fixed = _counter(networks, setting)
    gains = None
    if "gains" in ALLOCATIONS[setting.allocation].needs:
        gains = _gains([name for name in networks.spec.groups if name not in fixed], networks, setting)
    merged.allocation = allocate(
        setting.allocation, counter, setting.budget, gains=gains, fixed=fixed, seed=setting.seed
    )
    keep_apart(networks, merged.allocation.ratios)
    merged.macs = merged.allocation.macs
    networks.notes |= merged.allocation.notes


def _few(inputs: Any, count: int = 8) -> Any:
    """The first samples of the inputs of one call: enough to count and to compare."""
    if isinstance(inputs, Mapping):
        return {key: value[:count] for key, value in inputs.items()}
    return tuple(value[:count] for value in inputs)


def _gains(free: list[str], networks: Aligned, setting: Setting) -> dict[str, float]:
    """What keeping each group apart is worth: measured on averages, or the distance of the weights."""
    measure = setting.measure
    if measure is None:
        first, second = networks.states
        return weight_gains(networks.spec, first, second, free)

    def accuracy(ratios: Mapping[str, float]) -> float:
        trial = keep_apart(replace(networks), ratios)
        # Averages stand in for fitted networks: PLeaS's gains take 2 G + 2 of them.
        state = trial.layout(setting.weights).merge(networks.states)
        return measure(under_heads(trial, reset_batchnorm(networks.module, state, setting.batches)))

    return measured_gains(free, setting.budget, accuracy)


def combine_stored(arm: Arm, spec: Spec, states: Sequence[State], matching: Matching, setting: Setting) -> Streamed:
    """Combine networks that are read from files, a few rows at a time as the merge is read.

    Every tensor has the number type that it has in the first network.

    Args:
        arm: one that streams (`MatchRow.streams`, `CombineRow.streams`); nothing is run, so nothing is renormalised.
        spec: verified symmetry of the architecture.
        states: two or more networks as stored, views of their files.
        matching: of these networks.
        setting: its weights, ancestor and density.

    Raises:
        UserError: an arm that runs the networks.
    """
    check_arm(arm)
    row = COMBINES[arm.combine]
    if not (MATCHES[arm.match].streams and row.streams) or RENORMS[arm.renorm].changes:
        raise UserError(f"{arm.text} runs the networks, which cannot be done on stored tensors alone")
    networks = Aligned(spec, None, states, states, matching)
    return stream(registry.load(row.stream), networks, setting, "ancestor" in row.needs)
