"""Add an adapter's updates to the weights of a model in memory, for as long as a block lasts.

>>> with applied(model, merged):
...     logits = model(ids).logits
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from permlab.adapters.factors import AdapterSource, Factors, ModuleInfo
from permlab.errors import UserError


@contextmanager
def applied(model: nn.Module, adapter: AdapterSource) -> Iterator[nn.Module]:
    """Model with `W + delta W` in every adapted module; the old weights are put back bit by bit afterwards.

    Raises:
        UserError: when the model lacks a module of the adapter, or has it in another shape.
    """
    saved: list[tuple[Tensor, Tensor]] = []
    try:
        with torch.no_grad():
            for module, info in adapter.modules.items():
                weight = _weight(model, module, adapter.name)
                delta = _shaped(adapter.load(module), info, weight, module, model)
                saved.append((weight, weight.detach().clone()))
                weight.add_(delta.to(weight))
        yield model
    finally:
        with torch.no_grad():
            for weight, old in saved:
                weight.copy_(old)


def _weight(model: nn.Module, module: str, adapter: str) -> Tensor:
    try:
        weight = model.get_submodule(module).weight
    except AttributeError:
        raise UserError(
            f"the model has no module {module}, which {adapter} adapts; is it the right base model?"
        ) from None
    return weight


def _shaped(update: Factors, info: ModuleInfo, weight: Tensor, module: str, model: nn.Module) -> Tensor:
    """Dense update in the layout of the weight: embeddings and transformers' Conv1D store (in, out)."""
    moved = Factors(update.a.to(weight.device), update.b.to(weight.device), update.scaling)
    delta = moved.delta()
    kind = type(model.get_submodule(module)).__name__
    if info.kind == "embedding" or kind == "Conv1D":
        delta = delta.T
    elif len(info.in_shape) > 1:
        delta = delta.reshape(info.d_out, *info.in_shape)
    if delta.shape != weight.shape:
        raise UserError(f"{module} is {tuple(weight.shape)} in the model and {tuple(delta.shape)} in the adapter")
    return delta
