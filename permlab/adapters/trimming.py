"""TIES and DARE on plain tensors (arXiv 2306.01708 and 2311.03099), with the conventions of PEFT >= 0.21.

>>> kept = [trim(delta, magnitude_threshold(delta, 0.2)) for delta in (delta_1, delta_2)]
>>> merged = elect_and_average(kept, weights=[1.0, 1.0])

PEFT elects signs before the weights are applied and divides by the number of agreeing entries, weights not counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from permlab.adapters.table import SIGN_METHODS


def magnitude_threshold(tensor: Tensor, density: float) -> Tensor:
    """Smallest magnitude among the int(density * numel) largest entries; infinity when none is kept (TIES, trim)."""
    # Rounded down as in PEFT, so that the same density keeps the same entries.
    keep = int(density * tensor.numel())
    if keep < 1:
        return torch.full((), float("inf"), dtype=tensor.dtype, device=tensor.device)
    return tensor.abs().flatten().kthvalue(tensor.numel() - keep + 1).values


def trim(tensor: Tensor, threshold: Tensor) -> Tensor:
    """Zero the entries whose magnitude is below `threshold` (equal ones stay)."""
    return torch.where(tensor.abs() >= threshold, tensor, torch.zeros_like(tensor))


def drop(tensor: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """Keep every entry with probability `density` and divide the kept ones by it."""
    # DARE: drop with probability p = 1 - density, rescale by 1 / (1 - p), which keeps the expectation.
    mask = torch.bernoulli(torch.full(tensor.shape, density), generator=generator).to(tensor)
    return tensor * mask / density


def magnitude_vote(tensor: Tensor) -> Tensor:
    """Every entry votes for its sign with its magnitude."""
    return tensor


def head_vote(tensor: Tensor) -> Tensor:
    """Every entry that is not zero has one vote."""
    return tensor.sign()


def elect_and_average(tensors: Sequence[Tensor], weights: Sequence[float], sign_method: str = "total") -> Tensor:
    """Elect a sign per entry, then average the weighted entries that carry it (TIES).

    Args:
        tensors: trimmed tensors of one shape.
        weights: one factor each, applied after the election.
        sign_method: a name of `table.SIGN_METHODS`: "total" elects by the sum of the entries, "frequency" by the sum
            of their signs.

    Raises:
        UserError: an unknown sign_method.
    """
    vote = SIGN_METHODS[sign_method].load()
    # One tensor at a time: stacking them would hold every update three times over.
    votes = torch.zeros_like(tensors[0])
    for tensor in tensors:
        votes += vote(tensor)
    # TIES, elect sign: gamma = sgn(sum of the trimmed entries); PEFT counts a tie as positive, and so do we.
    elected = torch.where(votes >= 0, 1.0, -1.0).to(votes)
    total, count = torch.zeros_like(votes), torch.zeros_like(votes)
    for tensor, weight in zip(tensors, weights):
        # TIES, disjoint merge: only entries that agree with gamma, divided by how many these are.
        agrees = tensor.sign() == elected
        total += weight * tensor * agrees
        count += agrees
    # TIES divides by the agreeing tasks, not by all: tasks that trimmed an entry do not shrink it.
    return total / count.clamp_min(1)


def weighted_sum(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """sum_i w_i t_i."""
    total = torch.zeros_like(tensors[0])
    for tensor, weight in zip(tensors, weights):
        total = total + weight * tensor
    return total
