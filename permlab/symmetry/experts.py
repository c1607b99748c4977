"""Mixtures of experts as matrices: `model = flat_experts(MixtralForCausalLM.from_pretrained("DIR"))`.

    spec = declare_huggingface(model.config, model.state_dict())
    matching = weight_matching(spec, model.state_dict(), other.state_dict())
    folded_experts(average(align(spec, states, matching)))     # the names and shapes that transformers has

`transformers` stacks the experts of a layer: gate_up_proj [E, 2 I, width], down_proj [E, width, I]. Here the experts
stand below each other, gate_proj and up_proj [E I, width], and beside each other, down_proj [width, E I]. Experts and
the units inside each are then what heads and the value dims inside each are: whole experts move with their row of the
router, units move inside an expert, which `HeadGroup` says.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from permlab.symmetry.groups import HeadGroup

PARTS = ("gate_proj.weight", "up_proj.weight", "down_proj.weight")
"""Names of the matrices, below `...experts.`."""


def expert_group(name: str, experts: int, units: int) -> HeadGroup:
    """Permutations of experts, and of the units inside each: spaces head [E], value and output [E units]."""
    return HeadGroup(name, experts, 1, 1, units)


class FlatExperts(nn.Module):
    """The experts of a layer as three matrices.

    Args:
        inner: the module of `transformers`, with gate_up_proj [E, 2 I, width] and down_proj [E, width, I].
    """

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.count = inner.gate_up_proj.shape[0]
        if hasattr(inner, "config"):
            # The fused product of transformers has no float64, in which symmetries are verified.
            inner.config._experts_implementation = "eager"
        # In a list: its stacked tensors are no parameters of this module.
        self._inner = [inner]
        for name, value in unstacked(inner.gate_up_proj.detach(), inner.down_proj.detach()).items():
            rows, columns = value.shape
            layer = nn.Linear(columns, rows, bias=False, device="meta")
            layer.weight = nn.Parameter(value)
            setattr(self, name.partition(".")[0], layer)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the stacked experts give."""
        # Not by get_parameter: inside a functional call they are plain tensors.
        own = {name: getattr(getattr(self, name.partition(".")[0]), "weight") for name in PARTS}  # noqa: B009  typed
        return torch.func.functional_call(self._inner[0], stacked(own, self.count), args, kwargs)


def unstacked(gate_up: Tensor, down: Tensor) -> dict[str, Tensor]:
    """`PARTS` of stacked tensors."""
    width = gate_up.shape[2]
    gate, up = gate_up.chunk(2, dim=1)
    rows = (gate.reshape(-1, width), up.reshape(-1, width), down.permute(1, 0, 2).reshape(width, -1))
    return {name: value.contiguous() for name, value in zip(PARTS, rows)}


def stacked(parts: Mapping[str, Tensor], experts: int) -> dict[str, Tensor]:
    """gate_up_proj and down_proj of `PARTS`."""
    gate, up, down = (parts[name] for name in PARTS)
    shape = (experts, -1, gate.shape[1])
    return {
        "gate_up_proj": torch.cat([gate.view(shape), up.view(shape)], dim=1),
        "down_proj": down.view(len(down), experts, -1).permute(1, 0, 2).contiguous(),
    }


def flat_experts(model: nn.Module) -> nn.Module:
    """Return a copy of a model whose experts are matrices; it computes what the model does. Others are not copied."""
    if not any(_stacks(name, module) for name, module in model.named_modules()):
        return model
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if _stacks(name, module):
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, FlatExperts(module))
    return model


def _stacks(name: str, module: Any) -> bool:
    return name.endswith(".experts") and hasattr(module, "gate_up_proj") and hasattr(module, "down_proj")


def folded_experts(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict of a flat model as `transformers` has it; there are as many experts as rows of the router."""
    result: dict[str, Tensor] = {}
    for name, value in state.items():
        before, found, part = name.rpartition("experts.")
        # A shared expert is one MLP and stays as it is.
        if not found or part not in PARTS or before.endswith("shared_"):
            result[name] = value
        elif part == PARTS[0]:
            own = {each: state[f"{before}experts.{each}"] for each in PARTS}
            folded = stacked(own, len(state[f"{before}gate.weight"]))
            result |= {f"{before}experts.{key}": tensor for key, tensor in folded.items()}
    return result
