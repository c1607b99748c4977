"""TIES and DARE on plain tensors (arXiv 2306.01708 and 2311.03099), with the conventions of PEFT >= 0.21.

>>> merged = merge_ties([delta_1, delta_2], weights=[1.0, 1.0], density=0.2)

PEFT elects signs before the weights are applied and divides by the number of agreeing entries, weights not counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SIGN_METHODS = ("total", "frequency")


def magnitude_threshold(tensor: Tensor, density: float) -> Tensor:
    """Smallest magnitude among the int(density * numel) largest entries; infinity when none is kept."""
    keep = int(density * tensor.numel())
    if keep < 1:
        return torch.full((), float("inf"), dtype=tensor.dtype, device=tensor.device)
    return tensor.abs().flatten().kthvalue(tensor.numel() - keep + 1).values


def trim(tensor: Tensor, threshold: Tensor) -> Tensor:
    """Zero the entries whose magnitude is below `threshold` (equal ones stay)."""
    return torch.where(tensor.abs() >= threshold, tensor, torch.zeros_like(tensor))


def drop(tensor: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """DARE: keep every entry with probability `density` and divide the kept ones by it."""
    mask = torch.bernoulli(torch.full(tensor.shape, density), generator=generator).to(tensor)
    return tensor * mask / density


def elect_and_average(tensors: Sequence[Tensor], weights: Sequence[float], sign_method: str = "total") -> Tensor:
    """Elect a sign per entry, then average the weighted entries that carry it (the disjoint mean of TIES).

    Args:
        tensors: trimmed tensors of one shape.
        weights: one factor each, applied after the election.
        sign_method: "total" elects by the sum of the entries, "frequency" by the sum of their signs.
    """
    # One tensor at a time: stacking them would hold every update three times over.
    votes = torch.zeros_like(tensors[0])
    for tensor in tensors:
        votes += tensor if sign_method == "total" else tensor.sign()
    elected = torch.where(votes >= 0, 1.0, -1.0).to(votes)
    total, count = torch.zeros_like(votes), torch.zeros_like(votes)
    for tensor, weight in zip(tensors, weights):
        agrees = tensor.sign() == elected
        total += weight * tensor * agrees
        count += agrees
    return total / count.clamp_min(1)


def weighted_sum(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """sum_i w_i t_i."""
    total = torch.zeros_like(tensors[0])
    for tensor, weight in zip(tensors, weights):
        total = total + weight * tensor
    return total


def merge_ties(
    tensors: Sequence[Tensor], weights: Sequence[float], density: float, sign_method: str = "total"
) -> Tensor:
    """TIES: trim by magnitude, elect signs, disjoint mean."""
    kept = [trim(tensor, magnitude_threshold(tensor, density)) for tensor in tensors]
    return elect_and_average(kept, weights, sign_method)


def merge_dare(
    tensors: Sequence[Tensor],
    weights: Sequence[float],
    density: float,
    generator: torch.Generator,
    sign_method: str | None = None,
) -> Tensor:
    """DARE: random drop with rescaling, then a weighted sum, or the TIES election when `sign_method` is given."""
    kept = [drop(tensor, density, generator) for tensor in tensors]
    return elect_and_average(kept, weights, sign_method) if sign_method else weighted_sum(kept, weights)
