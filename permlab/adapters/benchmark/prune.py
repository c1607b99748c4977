"""Fewer ranks for one adapter: LEGO against SVD, the strongest units and random units.

>>> pruned_adapters(adapter, k=4, seed=0)["strongest units"]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from permlab.adapters.apply import applied
from permlab.adapters.benchmark.questions import Benchmark
from permlab.adapters.factors import AdapterSource, Factors, MemoryAdapter
from permlab.adapters.files import Adapter
from permlab.adapters.merge import merge_adapters
from permlab.adapters.merge_rule import MergeRule
from permlab.adapters.training import ask
from permlab.adapters.units import canonical_order
from permlab.seeding import derived_seed
from permlab.tables import Row


@dataclass(frozen=True)
class Pruning:
    """A way to cut an adapter to rank k.

    Attributes:
        label: in tables and legends.
        color: of `figures.PALETTE`.
        prune: `(adapter, k, seed) -> the smaller adapter`.
        metric: its score at half the ranks is the metric `<metric>_half_rank` of a result; empty for none.
        dashed: drawn with a dashed line.
    """

    label: str
    color: str
    prune: Callable[[AdapterSource, int, int], MemoryAdapter]
    metric: str = ""
    dashed: bool = False


def by_merging(method: str, **settings: Any) -> Callable[[AdapterSource, int, int], MemoryAdapter]:
    """Cut by merging the adapter with nothing else."""

    def prune(adapter: AdapterSource, k: int, seed: int) -> MemoryAdapter:
        # LoRA-LEGO's pruning: a pool of one adapter and k < r, so similar ranks of its own are fused.
        return merge_adapters([adapter], MergeRule(method, rank=k, **settings), seed=seed).adapter

    return prune


def by_choosing(
    choose: Callable[[Factors, torch.Generator], Tensor],
) -> Callable[[AdapterSource, int, int], MemoryAdapter]:
    """Cut by keeping the first k units of an order."""

    def prune(adapter: AdapterSource, k: int, seed: int) -> MemoryAdapter:
        generator = torch.Generator().manual_seed(derived_seed(seed, "units"))
        tensors = {}
        for module in adapter.modules:
            part = adapter.load(module).folded()
            kept = choose(part, generator)[:k]
            tensors[module] = Factors(part.a[kept], part.b[:, kept])
        return MemoryAdapter(adapter.name, tensors)

    return prune


def strongest_first(part: Factors, generator: torch.Generator) -> Tensor:
    """By |a_i| |b_i|."""
    return canonical_order(part.a, part.b.T)


def any_order(part: Factors, generator: torch.Generator) -> Tensor:
    """At random: the control."""
    return torch.randperm(part.rank, generator=generator)


PRUNINGS = (
    Pruning("lego, gauge none", "grey", by_merging("lego", gauge="none"), "lego_gauge_none"),
    Pruning("lego, gauge balanced", "sky", by_merging("lego", gauge="balanced"), "lego_gauge_balanced"),
    Pruning("lego, gauge svd", "blue", by_merging("lego", gauge="svd"), "lego"),
    Pruning(
        "lego, gauge svd, no reweighting",
        "blue",
        by_merging("lego", gauge="svd", param_reweight="none", output_reweight=False),
        dashed=True,
    ),
    Pruning("svd", "orange", by_merging("svd"), "svd"),
    Pruning("strongest units", "green", by_choosing(strongest_first), "strongest"),
    Pruning("random units", "red", by_choosing(any_order), "random"),
)


def pruned_adapters(adapter: AdapterSource, k: int, seed: int) -> dict[str, MemoryAdapter]:
    """One adapter at rank k by every rule, by label."""
    return {each.label: each.prune(adapter, k, seed) for each in PRUNINGS}


def prune_all(base: Any, benchmark: Benchmark, adapters: Sequence[Adapter], seed: int) -> Iterator[list[Row]]:
    """Per adapter, its score on its own group at every rank, divided by its score at full rank."""
    for group, adapter in zip(benchmark.groups, adapters):
        full = max(info.rank for info in adapter.modules.values())
        with applied(base, adapter):
            best = ask(base, group.test, benchmark.metric)
        rows: list[Row] = []
        for k in sorted({1, *range(2, full, 2), full}):
            for label, pruned in pruned_adapters(adapter, k, seed).items():
                with applied(base, pruned):
                    value = ask(base, group.test, benchmark.metric) / (best or 1.0)
                rows.append({"group": group.name, "method": label, "rank": full, "k": k, "score": value})
        yield rows
