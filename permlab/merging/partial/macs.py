"""Multiply-accumulates of merged networks: `MacCounter(spec, model, (images,)).ratio({"layers.2": 0.5})`.

A layer of a network with ratios r costs (1 + r_in)(1 + r_out) - 2 r_in r_out times the base (PLeaS, arXiv 2407.02447):
the blocks between units of different models are 0 and are not counted. A dense forward pass of the merged
tensors multiplies those zeros too, (1 + r_in)(1 + r_out); both numbers are given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from permlab.merging.partial.layout import Layout
from permlab.symmetry import HeadGroup, Spec
from permlab.symmetry.functional import call


@dataclass(frozen=True)
class Macs:
    """Per sample: `block` without the zero blocks, `dense` with them, `base` of one original network."""

    block: float
    dense: float
    base: float

    @property
    def ratio(self) -> float:
        """`block` relative to one original network; 2 is the ensemble."""
        return self.block / self.base


def layer_kind(module: nn.Module) -> str:
    """linear, conv, transposed (the Linear of GPT-2 with weights [in, out]), or empty for other modules."""
    if isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return "conv"
    return "transposed" if type(module).__name__ == "Conv1D" and hasattr(module, "nf") else ""


class MacCounter:
    """Counts multiply-accumulates of every layout of one network.

    Linear and convolution layers are counted from their weights and the number of positions they are applied at, seen
    in one forward call; products between activations (attention) are measured with torch's counter and go with the
    head groups.

    Args:
        spec: the symmetry.
        model: the network.
        inputs: of one forward call; counts are per sample (first axis of the first tensor).
        heads: tensors of task heads, not counted: they are the same with every layout.
        fixed: groups that cannot grow (`not_separable`).
    """

    def __init__(
        self,
        spec: Spec,
        model: nn.Module,
        inputs: Sequence[Any] | Mapping[str, Any],
        *,
        heads: Sequence[str] = (),
        fixed: Sequence[str] = (),
    ) -> None:
        self.spec, self.model, self.inputs = spec, model, inputs
        self.state = {name: value.detach() for name, value in model.state_dict().items()}
        values = inputs.values() if isinstance(inputs, Mapping) else inputs
        self.batch = next(value.shape[0] for value in values if isinstance(value, Tensor))
        positions = self._positions()
        self.positions = {name: count for name, count in positions.items() if name not in heads}
        layers = sum(count * self.state[name].numel() for name, count in positions.items())
        # What no weight accounts for: products between activations, as in attention.
        rest = self._measure(self.state) - layers
        self.attention = self._attention(positions, rest, fixed) if rest > 0 else {}
        self.other = rest - sum(self.attention.values())
        self.base = self._count({}, dense=False)

    def _positions(self) -> dict[str, float]:
        """Weight -> positions per sample that its layer is applied at (a layer that is called twice counts twice)."""
        counts: dict[str, float] = {}
        handles = []

        def note(name: str, channels: int, output: Tensor) -> None:
            counts[name] = counts.get(name, 0.0) + output.numel() / channels / self.batch

        for name, module in self.model.named_modules():
            kind = layer_kind(module)
            if kind:
                weight = f"{name}.weight" if name else "weight"
                channels = module.weight.shape[1 if kind == "transposed" else 0]
                handles.append(module.register_forward_hook(lambda _, __, out, w=weight, c=channels: note(w, c, out)))
        try:
            self._run(self.state)
        finally:
            for handle in handles:
                handle.remove()
        return counts

    @torch.no_grad()
    def _run(self, state: Mapping[str, Tensor]) -> None:
        training = self.model.training
        self.model.eval()
        try:
            call(self.model, state, self.inputs)
        finally:
            self.model.train(training)

    def _measure(self, state: Mapping[str, Tensor]) -> float:
        """Multiply-accumulates per sample that torch counts in a forward pass (two operations each)."""
        # Fused attention is a black box to the counter; the plain formula is counted product by product.
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            self._run(state)
        return float(counter.get_total_flops()) / 2 / self.batch

    def measure(self, state: Mapping[str, Tensor]) -> float:
        """Multiply-accumulates per sample of a dense forward pass with any state dict, counted by torch."""
        return self._measure(state)

    def _attention(self, positions: Mapping[str, float], rest: float, fixed: Sequence[str]) -> dict[str, float]:
        """Head group -> its products between activations: what doubling its heads adds beyond the layers."""
        found = {}
        for name, group in self.spec.groups.items():
            if not isinstance(group, HeadGroup) or name in fixed:
                continue
            state = Layout(self.spec, self.model, ratios={name: 1.0}).merge([self.state, self.state])
            layers = sum(count * state[weight].numel() for weight, count in positions.items())
            found[name] = self._measure(state) - layers - rest
        return found

    def _axes(self, name: str, ratios: Mapping[str, float]) -> list[tuple[int, float]]:
        """(length, entries that both models share) of every axis of a weight."""
        result = []
        for axis, length in enumerate(self.state[name].shape):
            apart = 0.0
            for block in self.spec.axes.get(name, {}).get(axis, ()):
                size = self.spec.groups[block.group].spaces()[block.space] * block.inner * block.outer
                apart += ratios.get(block.group, 0.0) * size
            result.append((length, length - apart))
        return result

    def _count(self, ratios: Mapping[str, float], *, dense: bool) -> float:
        total = self.other
        for name, count in self.positions.items():
            whole, shared, grown = 1.0, 1.0, 1.0
            for length, merged in self._axes(name, ratios):
                whole *= length
                shared *= merged
                grown *= 2 * length - merged
            # Entries of A plus entries of B minus those that both have; for two axes the formula above.
            total += count * (grown if dense else 2 * whole - shared)
        # Heads of different models never attend to each other, so this part grows linearly.
        attention = sum(cost * (1 + ratios.get(name, 0.0)) for name, cost in self.attention.items())
        return float(total + attention)

    def count(self, ratios: Mapping[str, float]) -> Macs:
        """Costs at these ratios (group -> share kept separate); exact when every ratio is a whole number of units."""
        return Macs(self._count(ratios, dense=False), self._count(ratios, dense=True), self.base)

    def ratio(self, ratios: Mapping[str, float]) -> float:
        """Multiply-accumulates relative to one network, zero blocks left out."""
        return self._count(ratios, dense=False) / self.base
