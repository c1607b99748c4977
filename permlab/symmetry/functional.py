"""Run a module with the tensors of a state dict in place of its own: `call(model, state, (images,))`.

One module serves any number of state dicts, so no copy of the network is ever built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


def call(model: nn.Module, state: Mapping[str, Tensor], inputs: Sequence[Any] | Mapping[str, Any], **more: Any) -> Any:
    """The forward result of `model` with the tensors in `state`; gradients flow into `state`.

    Args:
        model: the module; its own tensors stay as they are. Buffers it updates in train mode are updated in `state`.
        state: tensors by name. Names that the model ties may appear once or several times; the first counts.
        inputs: positional arguments (a sequence) or keyword arguments (a mapping).
        more: further keyword arguments of the forward call.
    """
    args, kwargs = ((), dict(inputs)) if isinstance(inputs, Mapping) else (tuple(inputs), {})
    return torch.func.functional_call(model, without_duplicates(model, state), args, {**kwargs, **more})


def without_duplicates(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` with one name per tensor that the model ties, and without names that the model does not have."""
    owners: dict[str, int] = {}
    for name, tensor in [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]:
        owners[name] = id(tensor)
    kept: dict[int, str] = {}
    for name in state:
        if name in owners:
            kept.setdefault(owners[name], name)
    return {name: state[name] for name in kept.values()}


class KeepDouble(TorchFunctionMode):
    """Inside this context a module that casts to float32 (RMS norms, attention softmax) stays in float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Turn every request for float32 on a float64 computation into one for float64."""
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.float and args[0].dtype == torch.float64:
            return args[0]
        args = tuple(torch.float64 if value is torch.float32 else value for value in args)
        if kwargs.get("dtype") is torch.float32:
            kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)
