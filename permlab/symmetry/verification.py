"""Check that a spec leaves a network's function alone: `verify(spec, model, (images,))` runs before every use.

Structure alone is not trusted: a random element of every group is applied to a float64 copy of the network, group by
group and all together, and the outputs must not move (a correct permutation only reorders sums).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from permlab.errors import UserError
from permlab.symmetry.functional import KeepDouble, call
from permlab.symmetry.spec import Spec, apply, check_state

# Far above what reordered sums differ by in float64, far below what a wrong axis does.
TOLERANCE = 1e-9


def outputs(result: Any) -> list[Tensor]:
    """The floating-point tensors of a forward result, in order: a tensor, a tuple, a dict or a ModelOutput."""
    if isinstance(result, Tensor):
        return [result] if result.is_floating_point() else []
    if isinstance(result, Mapping):
        result = list(result.values())
    return [t for item in result for t in outputs(item)] if isinstance(result, list | tuple) else []


@torch.no_grad()
def verify(
    spec: Spec,
    model: nn.Module,
    inputs: Tensor | Sequence[Any] | Mapping[str, Any],
    *,
    seed: int = 0,
    tolerance: float = TOLERANCE,
) -> dict[str, float]:
    """Check every group of `spec` on `model`, alone and jointly.

    The copy runs in float64 and eval mode on the CPU. All its tensors are shaken a little first: freshly initialised
    norms (ones and zeros) would hide an axis that the spec forgot.

    Args:
        spec: the declared or inferred symmetry.
        model: the network; left untouched.
        inputs: of one forward call: a tensor, positional arguments (a sequence) or keyword arguments (a mapping).
        seed: of the random elements and of the shaking.
        tolerance: largest accepted change relative to the largest output.

    Returns:
        Relative change of the outputs for each group, and under "all groups" for a joint element.

    Raises:
        UserError: a group changes the function, or a tensor does not fit; names the group and its tensors.
    """
    inputs = (inputs,) if isinstance(inputs, Tensor) else inputs
    generator = torch.Generator().manual_seed(seed)
    check_state(spec, model.state_dict())
    shaken = shaken_copy(model, generator)
    state = shaken.state_dict()
    doubled = double_inputs(inputs)

    def run(tensors: Mapping[str, Tensor]) -> list[Tensor]:
        with KeepDouble():
            return outputs(call(shaken, tensors, doubled))

    reference = run(state)
    if not reference:
        raise UserError(f"the model ({spec.source}) returns no floating-point tensor, so nothing can be checked")
    scale = max(float(t.abs().max()) for t in reference) or 1.0
    changes: dict[str, float] = {}
    # Alone, to name the culprit; together, as groups share tensors and could be right one by one only.
    for name in [*spec.groups, "all groups"]:
        groups = spec.groups if name == "all groups" else [name]
        permuted = run(apply(spec, state, spec.random(generator, groups)))
        change = max(float((x - y).abs().max()) for x, y in zip(reference, permuted)) / scale
        changes[name] = change
        # Negated, so that NaN is refused too.
        if not change <= tolerance:
            raise UserError(_refusal(spec, name, change))
    return changes


def _refusal(spec: Spec, name: str, change: float) -> str:
    members = [] if name == "all groups" else list(dict.fromkeys(tensor for tensor, _, _ in spec.members(name)))
    more = f" and {len(members) - 3} more tensors" if len(members) > 3 else ""
    tensors = f" ({', '.join(members[:3])}{more})" if members else ""
    return (
        f"permuting {name}{tensors} changes the outputs by {change:.1e} of their size: the spec ({spec.source}) does "
        "not fit this model; pin the group with spec.pin(name, reason) or correct its axes"
    )


@torch.no_grad()
def shaken_copy(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """A float64 copy on the CPU in eval mode, every tensor moved a little."""
    shaken = copy.deepcopy(model).cpu().double().eval()
    _shake(shaken, generator)
    return shaken


def double_inputs(inputs: Sequence[Any] | Mapping[str, Any]) -> tuple[Any, ...] | dict[str, Any]:
    """The inputs of a forward call with their floating-point tensors in float64 on the CPU."""
    if isinstance(inputs, Mapping):
        return {key: _double(value) for key, value in inputs.items()}
    return tuple(_double(value) for value in inputs)


def _double(value: Any) -> Any:
    return value.detach().cpu().double() if isinstance(value, Tensor) and value.is_floating_point() else value


def _shake(model: nn.Module, generator: torch.Generator) -> None:
    """Move every floating-point tensor by about a tenth of its scale; variances stay positive."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        if name.endswith("running_var"):
            tensor.mul_((0.1 * noise).exp())
        # Rotary frequencies are a formula of the position, not weights.
        elif "inv_freq" not in name:
            scale = float(tensor.abs().mean()) or 1.0
            tensor.add_(noise, alpha=0.1 * scale)
