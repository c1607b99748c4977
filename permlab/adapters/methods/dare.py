"""DARE (arXiv 2311.03099): drop entries at random, rescale the others, add up; or elect signs as TIES does.

>>> merged = merge_dare(updates, [1.0, 1.0], 16, MergeRule("dare", density=0.5), seed=0)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from permlab.adapters import trimming
from permlab.adapters.factors import Factors
from permlab.adapters.merge_rule import MergeRule
from permlab.adapters.table import TRIM_SPACES


def merge_dare(updates: Sequence[Factors], weights: Sequence[float], rank: int, rule: MergeRule, seed: int) -> Factors:
    """DARE on the updates or on the factors (`rule.trim_space`), then truncation to `rank` in delta space.

    Masks are drawn in PEFT's order (adapter by adapter; in factor space all A, then all B), so the same seed gives
    PEFT's masks on a single module that fits in one block.
    """
    generator = torch.Generator().manual_seed(seed)

    def merge(tensors: Sequence[Tensor], scale: Sequence[float], _: Sequence[None]) -> Tensor:
        kept = [trimming.drop(tensor, rule.density, generator) for tensor in tensors]
        # dare_ties: DARE in the place of TIES' trim, then its election and disjoint mean.
        if rule.election:
            return trimming.elect_and_average(kept, scale, rule.sign_method)
        # dare_linear: the rescaling has kept the expectation of each update, so the plain sum needs no correction.
        return trimming.weighted_sum(kept, scale)

    found: Factors = TRIM_SPACES[rule.trim_space].load()(updates, weights, rank, seed, merge)
    return found
