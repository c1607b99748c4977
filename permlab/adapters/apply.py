"""Add an adapter's updates to the weights of a model in memory, for as long as a block lasts.

>>> with applied(model, merged):
...     logits = model(ids).logits
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from permlab.adapters.factors import AdapterSource, Factors, ModuleInfo
from permlab.errors import UserError


@contextmanager
def applied(model: nn.Module, adapter: AdapterSource) -> Iterator[nn.Module]:
    """Model with `W + delta W` in every adapted module; the old parameters are put back afterwards.

    A tied head keeps the old weight: LoRA on an embedding changes the embedding only.

    Raises:
        UserError: when the model lacks a module of the adapter, or has it in another shape.
    """
    saved: list[tuple[nn.Module, nn.Parameter]] = []
    try:
        for name, info in adapter.modules.items():
            module = _module(model, name, adapter.name)
            old = cast(nn.Parameter, module.weight)
            delta = _shaped(adapter.load(name), info, old, name, module)
            saved.append((module, old))
            # A new parameter, not an addition in place: tied modules share the old one.
            module.weight = nn.Parameter(old.detach() + delta.detach().to(old), requires_grad=False)
        yield model
    finally:
        for module, old in saved:
            module.weight = old


def _module(model: nn.Module, name: str, adapter: str) -> nn.Module:
    try:
        module = model.get_submodule(name)
    except AttributeError:
        raise UserError(
            f"the model has no module {name}, which {adapter} adapts; is it the right base model?"
        ) from None
    return module


def _shaped(update: Factors, info: ModuleInfo, weight: Tensor, name: str, module: nn.Module) -> Tensor:
    """Dense update in the layout of the weight: embeddings and transformers' Conv1D store (in, out)."""
    moved = Factors(update.a.to(weight.device), update.b.to(weight.device), update.scaling)
    with torch.no_grad():
        delta = moved.delta()
    if info.kind == "embedding" or type(module).__name__ == "Conv1D":
        delta = delta.T
    # B A is flattened over the kernel of a convolution, as LEGO's units are; the weight has its axes apart.
    elif len(info.in_shape) > 1:
        delta = delta.reshape(info.d_out, *info.in_shape)
    if delta.shape != weight.shape:
        raise UserError(f"{name} is {tuple(weight.shape)} in the model and {tuple(delta.shape)} in the adapter")
    return delta
