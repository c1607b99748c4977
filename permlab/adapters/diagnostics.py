"""How a merge relates to its inputs and to the seed of k-means.

>>> norm_ratio(merged, adapters), seed_spread(adapters, rule, seeds=[1, 2])
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence

import torch

from permlab.adapters.factors import AdapterSource, Factors, norm, relative_difference
from permlab.adapters.merge import MergeRule, merge_adapters


def module_norm_ratio(merged: AdapterSource, adapters: Sequence[AdapterSource], module: str) -> float:
    """|merged update| / mean |input update| of one module (Frobenius), over the adapters that have it."""
    inputs = [norm(adapter.load(module)) for adapter in adapters if module in adapter.modules]
    part = merged.load(module)
    return norm(Factors(part.a.cpu(), part.b.cpu(), part.scaling)) / max(statistics.fmean(inputs), 1e-30)


def norm_ratio(merged: AdapterSource, adapters: Sequence[AdapterSource]) -> float:
    """Mean of `module_norm_ratio` over the modules."""
    return statistics.fmean(module_norm_ratio(merged, adapters, module) for module in merged.modules)


def seed_spread(
    adapters: Sequence[AdapterSource], rule: MergeRule, seeds: Sequence[int], device: torch.device | str = "cpu"
) -> float:
    """Mean over modules and seeds of |delta W(seed) - delta W(rule.seed)| / |delta W(rule.seed)|.

    Large where units of different adapters have nothing in common and clustering is close to arbitrary.
    """
    first = merge_adapters(adapters, rule, device=device).adapter
    gaps = []
    for seed in seeds:
        other = merge_adapters(adapters, dataclasses.replace(rule, seed=seed), device=device).adapter
        gaps += [relative_difference(other.load(module), first.load(module)) for module in first.modules]
    return statistics.fmean(gaps)
