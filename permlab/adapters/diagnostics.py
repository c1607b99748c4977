"""How a merge relates to its inputs and to the seed of k-means.

>>> norm_ratio(merged, adapters), seed_spread(adapters, rule, seeds=[1, 2])
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from permlab.adapters.factors import AdapterSource, Factors, norm, relative_difference
from permlab.adapters.merge import merge_adapters
from permlab.adapters.merge_rule import MergeRule
from permlab.adapters.moments import Moments
from permlab.tables import Row


def module_norm_ratio(merged: AdapterSource, adapters: Sequence[AdapterSource], module: str) -> float:
    """|merged update| / mean |input update| of one module (Frobenius), over the adapters that have it."""
    # LoRA-LEGO's two reweightings are there to keep this ratio near 1: norm decay lowers it, added variance raises it.
    inputs = [norm(adapter.load(module)) for adapter in adapters if module in adapter.modules]
    part = merged.load(module)
    return norm(Factors(part.a.cpu(), part.b.cpu(), part.scaling)) / max(statistics.fmean(inputs), 1e-30)


def norm_ratio(merged: AdapterSource, adapters: Sequence[AdapterSource]) -> float:
    """Mean of `module_norm_ratio` over the modules."""
    return statistics.fmean(module_norm_ratio(merged, adapters, module) for module in merged.modules)


def seed_spread(
    adapters: Sequence[AdapterSource],
    rule: MergeRule,
    seeds: Sequence[int],
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    moments: Mapping[str, Moments] | None = None,
) -> float:
    """Mean over modules and other seeds of |delta W(other) - delta W(seed)| / |delta W(seed)|.

    Large where units of different adapters have nothing in common and clustering is close to arbitrary.
    """
    first = merge_adapters(adapters, rule, seed=seed, device=device, moments=moments).adapter
    gaps = []
    for another in seeds:
        other = merge_adapters(adapters, rule, seed=another, device=device, moments=moments).adapter
        # Compared as updates B A: which cluster got which number is arbitrary, their product is not.
        gaps += [relative_difference(other.load(module), first.load(module)) for module in first.modules]
    return statistics.fmean(gaps)


def module_rows(adapters: Sequence[AdapterSource], merged: AdapterSource, reports: Mapping[str, Any]) -> list[Row]:
    """Rank and norm of every merged module beside its inputs, and how its units were clustered where that is known."""
    rows = []
    for module, info in merged.modules.items():
        having = sum(module in adapter.modules for adapter in adapters)
        ratio = module_norm_ratio(merged, adapters, module)
        row: Row = {"module": module, "adapters": having, "rank": info.rank, "norm_ratio": ratio}
        if module in reports:
            shown = ("inertia_share", "mixed_share", "smallest", "largest")
            row |= {name: getattr(reports[module], name) for name in shown}
        rows.append(row)
    return rows
