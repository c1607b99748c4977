"""Where the units of a group can be seen in a forward pass: `taps(spec, model)`.

A tap is an input or output of a module whose weight the group permutes: the input of a layer shows units after the
activation function, the output of a layer before it. Nothing is listed by hand; the spec and the module types decide.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from permlab.errors import UserError, check_choice
from permlab.symmetry.functional import call
from permlab.symmetry.groups import HeadGroup
from permlab.symmetry.spec import Block, Spec

PLACES = ("post", "pre", "all")


@dataclass(frozen=True)
class Tap:
    """`side` ("input" or "output") of module `module`, units of `block` along `axis` of that tensor."""

    group: str
    module: str
    side: str
    axis: int
    block: Block


def taps(spec: Spec, model: nn.Module, where: str = "post") -> dict[str, list[Tap]]:
    """Group -> its taps.

    Args:
        spec: the symmetry.
        model: a module with the spec's tensor names.
        where: "post": inputs of the layers that read the group (after activation functions; for a residual stream after
            its norms); "pre": outputs of the layers that write it; "all": both. Head groups always use queries, keys,
            values and the output projection's input. A group without taps of the wanted kind uses the other kind.

    Raises:
        UserError: a group can be seen nowhere.
    """
    check_choice("where", where, PLACES)
    modules = dict(model.named_modules())
    result: dict[str, list[Tap]] = {}
    for name, group in spec.groups.items():
        seen = [
            tap
            for tensor, axis, block in spec.members(name)
            if tensor.endswith("weight")
            for tap in _of_axis(name, modules.get(tensor.rpartition(".")[0]), tensor.rpartition(".")[0], axis, block)
        ]
        wanted = {"post": ("input",), "pre": ("output",), "all": ("input", "output")}[where]
        if isinstance(group, HeadGroup):
            wanted = ("input", "output")
        # A group at the end of a network may be written but never read by a layer: better its other side than none.
        result[name] = [tap for tap in seen if tap.side in wanted] or seen
        if not seen:
            raise UserError(
                f"the units of group {name} pass through no Linear, convolution or embedding module, so their "
                "activations cannot be read: match by weights, or pin the group"
            )
    return result


def _of_axis(group: str, module: nn.Module | None, name: str, axis: int, block: Block) -> list[Tap]:
    if isinstance(module, nn.Linear):
        return [Tap(group, name, "output" if axis == 0 else "input", -1, block)]
    if isinstance(module, nn.Embedding):
        return [Tap(group, name, "output", -1, block)] if axis == 1 else []
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        # A depthwise filter reads the very channels that it writes.
        sides = ("output", "input") if axis == 0 and module.groups > 1 else ("output" if axis == 0 else "input",)
        return [Tap(group, name, side, 1, block) for side in sides]
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):  # transformers' transposed Linear
        return [Tap(group, name, "output" if axis == 1 else "input", -1, block)]
    return []


def unfold_activation(value: Tensor, axis: int, block: Block, size: int) -> Tensor:
    """[size, positions] float32: one row per unit, one column per sample and position."""
    # Places and samples alike are observations of a unit (activation matching of convolutions).
    value = value.detach().movedim(axis, 0).narrow(0, block.offset, block.outer * size * block.inner)
    value = value.reshape(block.outer, size, block.inner, -1).transpose(0, 1)
    return value.reshape(size, -1).float()


class Recorder:
    """Reads all taps of a model in one forward pass; several state dicts share one module.

    Layers that read the same tensor (queries, keys and values, say) count it once.
    """

    def __init__(self, spec: Spec, model: nn.Module, chosen: Mapping[str, Sequence[Tap]]) -> None:
        self.spec, self.model = spec, model
        self.taps = [tap for group in chosen.values() for tap in group]
        self.skipped: set[Tap] | None = None
        self.values: dict[Tap, Tensor] = {}

    @contextmanager
    def _hooks(self) -> Iterator[None]:
        modules = dict(self.model.named_modules())
        handles = []

        def keep(tap: Tap, value: Any) -> None:
            if self.skipped is None or tap not in self.skipped:
                self.values[tap] = value if isinstance(value, Tensor) else value[0]

        for tap in self.taps:
            module = modules[tap.module]
            if tap.side == "input":
                handles.append(module.register_forward_pre_hook(lambda _, args, tap=tap: keep(tap, args[0])))
            else:
                handles.append(module.register_forward_hook(lambda _, __, out, tap=tap: keep(tap, out)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def run(self, state: Mapping[str, Tensor], inputs: Sequence[Any] | Mapping[str, Any]) -> dict[Tap, Tensor]:
        """Tap -> [size, positions] of one batch."""
        self.values = {}
        with self._hooks():
            call(self.model, state, inputs)
        if self.skipped is None:
            self.skipped = self._repeated()
        values, self.values = self.values, {}
        return {
            tap: unfold_activation(value, tap.axis, tap.block, self.spec.groups[tap.group].spaces()[tap.block.space])
            for tap, value in values.items()
            if tap not in self.skipped
        }

    def _repeated(self) -> set[Tap]:
        seen, repeated = set(), set()
        for tap, value in self.values.items():
            # q, k and v read one stream: three copies of it would outweigh the other layers of the group.
            key = (tap.group, tap.block, value.data_ptr(), tuple(value.shape))
            if key in seen:
                repeated.add(tap)
            seen.add(key)
        return repeated
