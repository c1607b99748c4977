"""What Linear and convolution layers read and write, as matrices: `LayerReader(model).run(state, (images,))`.

A convolution is a linear map of the patches under its kernel, so one code serves both: inputs [P, D] with D = in
channels times kernel size, outputs [P, O], P = samples times positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from permlab.errors import caution
from permlab.merging.partial.macs import layer_kind
from permlab.symmetry import Spec
from permlab.symmetry.functional import call

Rows = tuple[Tensor, Tensor]
"""(inputs [P, D], outputs [P, O])."""


@dataclass(frozen=True)
class Layer:
    """One layer whose outputs are inputs times weights: `name`, tensors `weight` and `bias` (None without)."""

    name: str
    module: nn.Module
    kind: str

    @property
    def weight(self) -> str:
        """Name of the weight."""
        return f"{self.name}.weight" if self.name else "weight"

    @property
    def bias(self) -> str | None:
        """Name of the bias, if the layer has one."""
        return self.weight[:-6] + "bias" if self.module.bias is not None else None

    @property
    def out_axis(self) -> int:
        """Axis of the weight along output units."""
        return 1 if self.kind == "transposed" else 0

    @property
    def in_axis(self) -> int:
        """Axis of the weight along input units."""
        return 1 - self.out_axis

    @property
    def kernel(self) -> int:
        """Entries per input channel."""
        weight = self.module.get_parameter("weight")
        return weight.shape[2:].numel() if self.kind == "conv" else 1

    def matrix(self, weight: Tensor) -> Tensor:
        """[O, D] float64."""
        return weight.detach().double().movedim(self.out_axis, 0).flatten(1)

    def tensor(self, matrix: Tensor, like: Tensor) -> Tensor:
        """The inverse of `matrix`, with the shape and type of `like`."""
        # GPT-2 stores [in, out]: the algebra of least squares stays that of [out, in].
        matrix = matrix if self.out_axis == 0 else matrix.t()
        return matrix.reshape(like.shape).to(like)

    def rows(self, x: Tensor, y: Tensor) -> Rows:
        """The layer's input and output as matrices."""
        if self.kind != "conv":
            return x.flatten(0, -2), y.flatten(0, -2)
        module: Any = self.module
        if isinstance(module, nn.Conv1d):
            # unfold knows images only: a sequence is an image of height 1.
            x, kernel = x[:, :, None], (1, *module.kernel_size)
            padding, stride, dilation = (0, *module.padding), (1, *module.stride), (1, *module.dilation)
        else:
            kernel, padding, stride, dilation = module.kernel_size, module.padding, module.stride, module.dilation
        # A convolution is linear in the patches under its kernel, so Gram matrices are those of patches.
        patches = functional.unfold(x, kernel, dilation, padding, stride)
        return patches.transpose(1, 2).flatten(0, 1), y.flatten(2).transpose(1, 2).flatten(0, 1)


def layers_of(model: nn.Module, spec: Spec) -> tuple[list[Layer], dict[str, str]]:
    """(layers that least squares can solve, layers that it cannot -> why)."""
    found, skipped = [], {}
    tied = {*spec.tied, *spec.tied.values()}
    for name, module in model.named_modules():
        kind = layer_kind(module)
        if not kind:
            continue
        layer = Layer(name, module, kind)
        reason = _refusal(module, kind)
        # A tied weight has two inputs and two targets; fitting one would break the other.
        if layer.weight in tied:
            reason = "its weight is tied to another layer's"
        if reason:
            skipped[name] = reason
        else:
            found.append(layer)
    return found, skipped


def _refusal(module: nn.Module, kind: str) -> str:
    if kind != "conv":
        return ""
    if isinstance(module, nn.Conv3d):
        return "convolutions in three dimensions are averaged"
    if module.groups != 1:
        return "grouped convolutions are averaged"
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        return "only zero padding given in numbers can be unfolded"
    return ""


class LayerReader:
    """Reads inputs and outputs of layers in forward passes; many state dicts share one module."""

    def __init__(self, model: nn.Module, layers: Sequence[Layer]) -> None:
        self.model, self.layers = model, list(layers)

    @torch.no_grad()
    def run(
        self, state: Mapping[str, Tensor], inputs: Sequence[Any] | Mapping[str, Any]
    ) -> dict[str, list[tuple[Tensor, Tensor]]]:
        """Layer name -> (input, output) of every call of it, as the module sees them; `Layer.rows` unfolds them."""
        seen: dict[str, list[tuple[Tensor, Tensor]]] = {}
        handles = [
            layer.module.register_forward_hook(
                lambda _, args, out, name=layer.name: seen.setdefault(name, []).append((args[0], out))
            )
            for layer in self.layers
        ]
        training = self.model.training
        self.model.eval()
        try:
            call(self.model, state, inputs)
        finally:
            self.model.train(training)
            for handle in handles:
                handle.remove()
        return seen


def choose_rows(rows: Rows, limit: int, generator: torch.Generator) -> Tensor | None:
    """Index of `limit` rows drawn at random, or None when there are no more than that."""
    count = len(rows[0])
    return torch.randperm(count, generator=generator)[:limit].to(rows[0].device) if count > limit else None


def singular(gram: Tensor) -> bool:
    """Whether a Gram matrix [D, D] float64 has directions without data, to the rounding of its entries."""
    mean = float(gram.diagonal().mean())
    factor, failed = torch.linalg.cholesky_ex(gram + 1e-13 * mean * torch.eye(len(gram)).to(gram))
    return bool(failed) or float(factor.diagonal().min()) ** 2 <= 1e-10 * mean


def warn_of_singular(method: str, grams: Mapping[str, Tensor]) -> None:
    """Say which layers (name -> Gram matrix) have inputs that leave some directions of their weights open."""
    layers = [name for name, gram in grams.items() if singular(gram)]
    if layers:
        caution(
            f"{method}: the data do not span the inputs of {', '.join(layers[:4])}"
            f"{f' and {len(layers) - 4} more layers' if len(layers) > 4 else ''} (singular Gram matrices); in the "
            "directions without data the averaged weights stay"
        )


def solve_ridge(gram: Tensor, cross: Tensor, start: Tensor, ridge: float) -> Tensor:
    """W [O, D] with least |X W' - Y|^2 + s |W - start|^2, s = ridge times the mean diagonal of the Gram matrix.

    Args:
        gram: X'X [D, D] float64.
        cross: X'Y [D, O] float64.
        start: [O, D] float64, what the ridge pulls towards.
        ridge: 0 or more; at 0 a singular system gets the solution nearest to `start`.
    """
    # Relative to the mean squared input: one ridge suits layers of very different scales.
    pull = ridge * float(gram.diagonal().mean())
    # Solving for the change keeps `start` exact where it is already optimal.
    wanted = cross - gram @ start.t()
    if pull > 0:
        damped = gram + pull * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        # G + s I is positive definite: Cholesky is the cheapest solution, and its failure tells of rounding.
        factor, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            solved: Tensor = start + torch.cholesky_solve(wanted, factor).t()
            return solved
    # Directions without data stay as they were: the pseudoinverse changes `start` as little as possible.
    inverse: Tensor = torch.linalg.pinv(gram + pull * torch.eye(len(gram)).to(gram), hermitian=True)
    return start + (inverse @ wanted).t()
