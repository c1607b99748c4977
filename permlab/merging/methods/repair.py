"""Statistics of merged networks: `reset_batchnorm(model, merged, batches)`, `repair(layout, model, states, ...)`.

Averaging units that agree only in part shrinks their variance. Networks with BatchNorm need their running statistics
measured again; others get the mean and deviation of every unit set to those of the endpoints (REPAIR, arXiv
2211.08403). Both help without any permutation too: report them with and without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from permlab.errors import UserError
from permlab.matching.activation import as_inputs
from permlab.merging.methods.grams import Layer, layers_of
from permlab.merging.networks.states import State
from permlab.merging.partial.layout import MERGED, Layout
from permlab.symmetry.functional import call

if TYPE_CHECKING:
    from permlab.merging.aligned import Aligned
    from permlab.merging.setting import Setting


def batchnorms(model: nn.Module) -> dict[str, _BatchNorm]:
    """Name -> BatchNorm module with running statistics."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    }


@torch.no_grad()
def reset_batchnorm(model: nn.Module, state: State, batches: Iterable[Any]) -> dict[str, Tensor]:
    """A copy of `state` whose BatchNorm statistics are the mean over `batches` of the merged network's own.

    All other modules stay in eval mode. A network without BatchNorm is returned as it is.

    Args:
        model: a module of the architecture.
        state: the merged state dict (of any layout).
        batches: training inputs (tensors, (inputs, labels) or mappings); large batches of similar size.

    Raises:
        UserError: no batches.
    """
    norms = batchnorms(model)
    result = dict(state)
    if not norms:
        return result
    for name in norms:
        mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        # New tensors: train mode writes them in place, and the caller's must stay.
        result[f"{name}.running_mean"] = torch.zeros_like(mean)
        result[f"{name}.running_var"] = torch.ones_like(variance)
        result[f"{name}.num_batches_tracked"] = torch.zeros((), dtype=torch.long, device=mean.device)
    modes = {module: module.training for module in model.modules()}
    momenta = {module: module.momentum for module in norms.values()}
    model.eval()
    try:
        for norm in norms.values():
            # Norms only: dropout in train mode would measure another network.
            norm.train()
            norm.momentum = None  # the plain mean over all batches
        for batch in batches:
            call(model, result, as_inputs(batch))
    finally:
        for norm, momentum in momenta.items():
            norm.momentum = momentum
        for module, mode in modes.items():
            module.training = mode
    if not int(result[f"{next(iter(norms))}.num_batches_tracked"]):
        raise UserError("resetting BatchNorm got no data: give at least one batch")
    return result


class _Statistics:
    """Streamed mean and deviation of every output unit of one layer."""

    def __init__(self) -> None:
        self.count = 0
        self.sums = self.squares = torch.zeros((), dtype=torch.float64)

    def add(self, rows: Tensor) -> None:
        rows = rows.double()
        self.count += len(rows)
        self.sums, self.squares = self.sums.to(rows) + rows.sum(0), self.squares.to(rows) + rows.square().sum(0)

    def result(self) -> tuple[Tensor, Tensor]:
        """(mean, deviation), float64 [O]."""
        mean = self.sums / self.count
        return mean, (self.squares / self.count - mean.square()).clamp_min(0).sqrt()


def _output_rows(layer: Layer, out: Tensor) -> Tensor:
    """[P, O] of a layer's output."""
    return out.movedim(1, -1).flatten(0, -2) if layer.kind == "conv" else out.flatten(0, -2)


@contextmanager
def _hooked(layers: Sequence[Layer], change: Callable[[Layer, Tensor], Tensor | None]) -> Iterator[None]:
    handles = [
        layer.module.register_forward_hook(lambda _, __, out, layer=layer: change(layer, out)) for layer in layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def repaired_layers(layout: Layout, model: nn.Module, inputs: Any, state: State) -> list[Layer]:
    """Layers that write units which can be permuted, except those whose output goes straight into a BatchNorm."""
    # Averaging collapses the variance of matched units; outputs in a fixed order, logits say, are left alone.
    layers = [
        layer for layer in layers_of(model, layout.spec)[0] if layer.out_axis in layout.writes.get(layer.weight, ())
    ]
    outputs: dict[int, str] = {}
    held: list[Tensor] = []
    before_norm: set[str] = set()

    def note(layer: Layer, out: Tensor) -> None:
        outputs[id(out)] = layer.name
        # Kept alive, so that no later tensor gets the same id.
        held.append(out)

    handles = [
        # BatchNorm normalises its input anyway: there a reset does what REPAIR does.
        module.register_forward_pre_hook(lambda _, args: before_norm.add(outputs.get(id(args[0]), "")))
        for module in batchnorms(model).values()
    ]
    try:
        with _hooked(layers, note), torch.no_grad():
            call(model, state, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return [layer for layer in layers if layer.name not in before_norm]


@torch.no_grad()
def repair(
    layout: Layout,
    model: nn.Module,
    states: Sequence[State],
    merged: State,
    batches: Sequence[Any],
    *,
    means: bool = True,
    deviations: bool = True,
) -> dict[str, Tensor]:
    """Give every unit of the merged network the statistics of the endpoints, folded into the weights.

    The goal of a merged unit is the weighted mean of its two units' means and of their deviations; a unit kept from one
    model has that model's. While the statistics of the merged network are measured, earlier layers are corrected
    already. Layers before a BatchNorm are left alone, and its running statistics are measured again at the end.

    Args:
        layout: of the merged network (`Layout(spec, model)` for a plain average).
        model: a module of the architecture.
        states: the two endpoints in A's order of units (`align`).
        merged: the merged state dict.
        batches: training inputs, gone through twice.
        means: set the mean of every unit, which shifts biases.
        deviations: set the deviation of every unit, which multiplies weights and biases.

    Raises:
        UserError: no batches, or a layer without bias that is to be shifted.
    """
    if not len(batches):
        raise UserError("REPAIR got no data: give at least one batch")
    training = model.training
    model.eval()
    try:
        layers = repaired_layers(layout, model, as_inputs(batches[0]), states[0])
        rigid = [layer.name for layer in layers if layer.bias is None]
        if rigid and means:
            raise UserError(f"{rigid[0]} has no bias to shift: rescale only")
        goals = _goals(layout, model, layers, states, batches)
        wanted = (means, deviations)
        result = _fold(layers, merged, _measure_corrected(model, layers, merged, batches, goals, wanted), goals, wanted)
    finally:
        model.train(training)
    # The corrected layers feed norms further on, whose statistics are stale now.
    return reset_batchnorm(model, result, batches)


Goals = dict[str, tuple[Tensor, Tensor]]
Wanted = tuple[bool, bool]
"""Whether means are set, whether deviations are."""


def _goals(
    layout: Layout, model: nn.Module, layers: Sequence[Layer], states: Sequence[State], batches: Sequence[Any]
) -> Goals:
    """Layer -> (mean, deviation) that each unit of the merged network should have."""
    found = []
    for state in states:
        held = {layer.name: _Statistics() for layer in layers}

        def note(layer: Layer, out: Tensor, held: dict[str, _Statistics] = held) -> None:
            held[layer.name].add(_output_rows(layer, out))

        with _hooked(layers, note):
            for batch in batches:
                call(model, state, as_inputs(batch))
        found.append({name: each.result() for name, each in held.items()})
    goals: Goals = {}
    for layer in layers:
        mixed: list[Tensor] = []
        for part in (0, 1):
            for k, each in enumerate(found):
                value = each[layer.name][part]
                places = layout.places(layer.weight, layer.out_axis, len(value))
                share = torch.where(places.kind == MERGED, layout.weights[k], 1.0).to(value)
                total = value.new_zeros(len(places.kind)) if not k else mixed.pop()
                index = places.index[k].to(value.device)
                # REPAIR: (1 - a) mean_A + a mean_B, and the deviations (not variances) likewise.
                mixed.append(total.index_add_(0, index, value * share[index]))
        goals[layer.name] = (mixed[0], mixed[1])
    return goals


def _correction(mean: Tensor, deviation: Tensor, goal: tuple[Tensor, Tensor], wanted: Wanted) -> tuple[Tensor, Tensor]:
    """(factor, shift) per unit: the corrected output is factor * output + shift."""
    goal_mean, goal_deviation = goal
    means, deviations = wanted
    ones = torch.ones_like(mean)
    # A unit that never varies cannot be rescaled to one that does.
    alive = deviation > 1e-9
    factor = torch.where(alive, goal_deviation / deviation.clamp_min(1e-9), ones) if deviations else ones
    # (x - mean) / deviation * goal deviation + goal mean, as an affine map (REPAIR, arXiv 2211.08403)
    return factor, goal_mean - factor * mean if means else torch.zeros_like(mean)


def _measure_corrected(
    model: nn.Module, layers: Sequence[Layer], merged: State, batches: Sequence[Any], goals: Goals, wanted: Wanted
) -> Goals:
    """Statistics of the merged network with every layer's outputs corrected batch by batch, as BatchNorm would."""
    held = {layer.name: _Statistics() for layer in layers}

    def correct(layer: Layer, out: Tensor) -> Tensor:
        rows = _output_rows(layer, out)
        held[layer.name].add(rows)
        own = _Statistics()
        own.add(rows)
        # As the BatchNorm that REPAIR inserts: what a layer is measured on has been corrected before it.
        factor, shift = _correction(*own.result(), goals[layer.name], wanted)
        shape = [1, -1] + [1] * (out.dim() - 2) if layer.kind == "conv" else [-1]
        return out * factor.to(out).view(shape) + shift.to(out).view(shape)

    with _hooked(layers, correct):
        for batch in batches:
            call(model, merged, as_inputs(batch))
    return {name: each.result() for name, each in held.items()}


def _fold(layers: Sequence[Layer], merged: State, measured: Goals, goals: Goals, wanted: Wanted) -> dict[str, Tensor]:
    result = dict(merged)
    for layer in layers:
        factor, shift = _correction(*measured[layer.name], goals[layer.name], wanted)
        weight = merged[layer.weight]
        # factor * (W x + b) + shift folded into W and b: the merged network costs no more than before.
        result[layer.weight] = layer.tensor(layer.matrix(weight) * factor[:, None], weight)
        if layer.bias:
            bias = merged[layer.bias]
            result[layer.bias] = (bias.double() * factor + shift).to(bias)
    return result


def renorm_reset(networks: Aligned, state: State, setting: Setting, weights: Sequence[float]) -> State:
    """Row "reset" of `RENORMS`: BatchNorm statistics measured again, or REPAIR where there are none."""
    if batchnorms(networks.module):
        return reset_batchnorm(networks.module, state, setting.batches)
    return _repair(networks, state, setting, weights)


def renorm_rescale(networks: Aligned, state: State, setting: Setting, weights: Sequence[float]) -> State:
    """Row "rescale" of `RENORMS`: REPAIR of the deviations only."""
    return _repair(networks, state, setting, weights, means=False)


def renorm_reshift(networks: Aligned, state: State, setting: Setting, weights: Sequence[float]) -> State:
    """Row "reshift" of `RENORMS`: REPAIR of the means only."""
    return _repair(networks, state, setting, weights, deviations=False)


def _repair(networks: Aligned, state: State, setting: Setting, weights: Sequence[float], **which: bool) -> State:
    if networks.matching.clusters:
        raise UserError("REPAIR needs pairs of units, which ZipIt has not, and the network has no BatchNorm to reset")
    batches = list(setting.batches)
    return repair(networks.layout(weights), networks.module, networks.states, state, batches, **which)
