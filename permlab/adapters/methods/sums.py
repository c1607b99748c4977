"""Sums: of A and of B (linear), of the updates (cat), and the best low-rank approximation of that (svd).

>>> merged = merge_svd([first.load("q_proj"), second.load("q_proj")], [1.0, 1.0], 16, MergeRule("svd"), seed=0)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from permlab.adapters.factors import Factors, concatenate
from permlab.adapters.merge_rule import MergeRule
from permlab.adapters.units import singular_form


def merge_linear(
    updates: Sequence[Factors], weights: Sequence[float], rank: int, rule: MergeRule, seed: int
) -> Factors:
    """Sum A and B separately, each with sqrt(weight * scaling), as PEFT's `linear`.

    The product holds the cross terms B_i A_j too: it is not the sum of the updates, and depends on the order of ranks.
    """
    parts = [update.folded(weight) for update, weight in zip(updates, weights)]
    a, b = (torch.stack([getattr(part, half) for part in parts]).sum(dim=0) for half in "ab")
    return Factors(a, b)


def merge_cat(updates: Sequence[Factors], weights: Sequence[float], rank: int, rule: MergeRule, seed: int) -> Factors:
    """The exact weighted sum of the updates (task arithmetic, arXiv 2212.04089); its rank is the sum of the ranks."""
    # No unit is averaged away, hence neither norm decay nor a reweighting against it; the price is the rank.
    return concatenate([update.folded(weight) for update, weight in zip(updates, weights)])


def merge_svd(updates: Sequence[Factors], weights: Sequence[float], rank: int, rule: MergeRule, seed: int) -> Factors:
    """The best rank-`rank` approximation of the weighted sum (Eckart-Young), from QR factors of the stacked units."""
    return singular_form(merge_cat(updates, weights, rank, rule, seed), rank)
