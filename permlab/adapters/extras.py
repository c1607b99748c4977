"""Tensors beside the LoRA factors (modules_to_save, biases): `average("score.weight", tensors, weights)`.

Each rule takes the key, the tensors of the adapters that have it, all of one shape, and their weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from permlab.errors import UserError


def same(key: str, tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The tensor that all have.

    Raises:
        UserError: they differ.
    """
    # Equal bits, no tolerance: a part trained in full has no rank-one units, so no method here says how to merge it.
    if any(not torch.equal(tensor, tensors[0]) for tensor in tensors[1:]):
        raise UserError(f"{key} is trained in full and differs between adapters; set extra=average, first or drop")
    return tensors[0]


def average(key: str, tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The weighted mean, in the type of the first; weights that cancel count as their sum was 1."""
    total = sum(weights) or 1.0
    # bfloat16 has eight significant bits: adding weighted parts in it would round away the small ones.
    mean = torch.zeros_like(tensors[0], dtype=torch.float32)
    for weight, tensor in zip(weights, tensors):
        mean = mean + weight / total * tensor.float()
    return mean.to(tensors[0].dtype)


def first(key: str, tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The tensor of the first adapter that has it."""
    return tensors[0]
