"""Factors of changes learnt without labels (AdaMerging): `combine=adamerging`, a row of `COMBINES`.

    permlab task=merge 'task.domains=[original,inverted]' task.match=identity task.combine=adamerging
    learnt(module, base, changes, [images], layers=True).factors

The merge is base + sum_k f_k tau_k with one factor per network, or per network and tensor; the factors start at 0.3 and
go down the gradient of the entropy of the outputs, which foretells the loss where nobody labels (arXiv 2310.02575).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from permlab.errors import UserError
from permlab.matching.activation import added, as_inputs
from permlab.merging.measure.evaluate import eval_mode, logits_in
from permlab.merging.networks.states import State
from permlab.merging.setting import Setting
from permlab.merging.streaming import ancestor_of
from permlab.symmetry import wide
from permlab.symmetry.functional import call

if TYPE_CHECKING:
    from permlab.merging.aligned import Aligned

START, RATE = 0.3, 0.01
"""Where factors start, as in the paper; Adam's rate, ten times the paper's, for fewer steps."""


@dataclass
class Task:
    """Unlabelled data of one task.

    Attributes:
        batches: inputs, or pairs whose second entry is not looked at.
        head: tensors that the task has to itself.
    """

    batches: Sequence[Any]
    head: Mapping[str, Tensor]


@dataclass
class Learnt:
    """What was learnt: factors [networks, 1 or tensors], and the entropy at every step, in nats."""

    factors: Tensor
    entropy: list[float]


def entropy(module: nn.Module, state: State, inputs: Any, head: Mapping[str, Tensor]) -> Tensor:
    """Mean entropy of the outputs of a network, in nats; gradients flow into `state`."""
    logs = logits_in(call(module, {**state, **head}, as_inputs(inputs))).log_softmax(-1)
    return -(logs.exp() * logs).sum(-1).mean()


def moved(base: State, changes: Sequence[State], factors: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """base + sum_k f_k tau_k for the tensors `names`, with factors [networks, 1 or len(names)]."""
    own = factors.expand(len(changes), len(names))
    return {
        name: wide(base[name]) + added(own[k, at] * change[name] for k, change in enumerate(changes))
        for at, name in enumerate(names)
    }


def learnt(
    module: nn.Module,
    base: State,
    changes: Sequence[State],
    tasks: Sequence[Task],
    *,
    layers: bool = True,
    steps: int = 200,
    fixed: Mapping[str, Tensor] | None = None,
) -> Learnt:
    """Factors with less entropy, by Adam; they stay between 0 and 1.

    Args:
        module: of the architecture, run in eval mode.
        base, changes: the ancestor, and what every network changed in its parameters.
        tasks: entropies are added up over them; every step reads one batch of each.
        layers: one factor per network and tensor (layer-wise), otherwise one per network (task-wise).
        steps: of Adam.
        fixed: tensors that have no factor, such as running statistics.

    Raises:
        UserError: no data.
    """
    if not tasks or not all(task.batches for task in tasks):
        raise UserError("adamerging lowers the entropy of outputs on data: give a data set")
    names = list(changes[0])
    factors = torch.full((len(changes), len(names) if layers else 1), START, requires_grad=True)
    optimizer = torch.optim.Adam([factors], lr=RATE)
    seen: list[float] = []
    with eval_mode(module):
        for step in range(steps):
            state = {**(fixed or {}), **moved(base, changes, factors, names)}
            total = added(entropy(module, state, task.batches[step % len(task.batches)], task.head) for task in tasks)
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            with torch.no_grad():
                factors.clamp_(0, 1)
            seen.append(float(total.detach()))
    return Learnt(factors.detach(), seen)


def combine_adamerging(networks: Aligned, setting: Setting) -> State:
    """`learnt` as a row of `COMBINES`: labels of the training batches are not looked at.

    Networks with heads of their own have the entropy under each head on its own data.
    """
    base, module = ancestor_of(setting), networks.module
    trunks = networks.trunks() if networks.heads else [dict(state) for state in networks.states]
    names = [name for name, _ in module.named_parameters() if name in trunks[0]]
    changes = [{name: wide(trunk[name]) - wide(base[name]) for name in names} for trunk in trunks]
    # Running statistics have no gradient: their mean.
    fixed = {
        name: added(wide(trunk[name]) for trunk in trunks) / len(trunks) if value.is_floating_point() else value
        for name, value in trunks[0].items()
        if name not in names
    }
    heads = [{name: state[name] for name in networks.heads} for state in networks.states]
    data = setting.data_of(len(trunks)) if networks.heads or setting.own_batches else [setting.batches]
    tasks = [Task(batches, head) for batches, head in zip(data, heads)]
    layers = setting.coefficients == "layers"
    with torch.enable_grad():
        found = learnt(module, base, changes, tasks, layers=layers, steps=setting.steps, fixed=fixed)
    for k, factors in enumerate(found.factors):
        told = f"{float(factors.mean()):.2f} ({float(factors.min()):.2f} to {float(factors.max()):.2f})"
        networks.notes[f"factor of network {k + 1}"] = told
    result = {**fixed, **moved(base, changes, found.factors, names)}
    return {name: result[name].to(value.dtype) for name, value in trunks[0].items()}
