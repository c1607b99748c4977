"""Networks in the tangent space of an ancestor: `linearised(model, base)`, trained and merged like any network.

f(x; t0 + tau) = f(x; t0) + J(x; t0) tau: changes of such networks add up exactly, so that task arithmetic disturbs no
task through another's curvature (arXiv 2305.12827, section 5). Tensors have the names and shapes of the network.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from permlab.errors import UserError


def linearised(model: nn.Module, base: Mapping[str, Tensor]) -> nn.Module:
    """A copy of a model that computes its first-order expansion around `base`.

    Args:
        model: any module whose forward pass torch differentiates; without running statistics.
        base: the point of expansion, by name of parameter.

    Raises:
        UserError: a model with BatchNorm, whose statistics are no parameters.
    """
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        raise UserError("a network with BatchNorm has no tangent network here: its statistics move while it is trained")
    inner = copy.deepcopy(model)
    start = {name: base[name].detach().clone() for name, _ in inner.named_parameters()}

    def forward(self: nn.Module, *inputs: Any) -> Tensor:
        here = dict(self.named_parameters())
        tangents = {name: here[name] - value.to(here[name]) for name, value in start.items()}
        at = {name: value.to(here[name]) for name, value in start.items()}
        expand: Any = torch.func.jvp
        outputs, slopes = expand(lambda values: torch.func.functional_call(inner, values, inputs), (at,), (tangents,))
        result: Tensor = outputs + slopes
        return result

    outer = copy.deepcopy(model)
    outer.__class__ = type(f"Linearised{type(model).__name__}", (type(model),), {"forward": forward})
    return outer
