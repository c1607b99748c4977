"""TIES-Merging (arXiv 2306.01708): trim small entries, elect a sign per entry, average the entries that carry it.

>>> merged = merge_ties(updates, [1.0, 1.0], 16, MergeRule("ties", density=0.2), seed=0)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from permlab.adapters import trimming
from permlab.adapters.factors import Factors
from permlab.adapters.merge_rule import MergeRule
from permlab.adapters.table import TRIM_SPACES


def merge_ties(updates: Sequence[Factors], weights: Sequence[float], rank: int, rule: MergeRule, seed: int) -> Factors:
    """TIES on the updates or on the factors (`rule.trim_space`), then truncation to `rank` in delta space."""

    def cut(tensor: Tensor) -> Tensor:
        # TIES, trim: the largest share of a task's whole tensor; a limit per block of rows would keep other entries.
        return trimming.magnitude_threshold(tensor, rule.density)

    def merge(tensors: Sequence[Tensor], scale: Sequence[float], limits: Sequence[Tensor]) -> Tensor:
        kept = [trimming.trim(tensor, torch.as_tensor(limit)) for tensor, limit in zip(tensors, limits)]
        return trimming.elect_and_average(kept, scale, rule.sign_method)

    found: Factors = TRIM_SPACES[rule.trim_space].load()(updates, weights, rank, seed, merge, cut)
    return found
