"""Fewer ranks for one adapter: LEGO against SVD, the strongest units and random units (`task.study=prune`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from permlab.adapters import Adapter, Factors, LegoRule, MemoryAdapter, MergeRule, applied, merge_adapters
from permlab.adapters.training import ask
from permlab.adapters.units import canonical_order
from permlab.data.adapter_tasks import Benchmark
from permlab.runs.run import Run


def prune_all(
    run: Run, base: Any, benchmark: Benchmark, adapters: Sequence[Adapter], seed: int
) -> list[dict[str, Any]]:
    """Score of every adapter on its own group at every rank, divided by its score at full rank."""
    rows = []
    with run.progress("pruning", len(adapters)) as bar:
        for index, (group, adapter) in enumerate(zip(benchmark.groups, adapters)):
            run.check_stop()
            full = max(info.rank for info in adapter.modules.values())
            with applied(base, adapter):
                best = ask(base, group.test, benchmark.metric)
            for k in sorted({1, *range(2, full, 2), full}):
                for method, pruned in pruned_adapters(adapter, k, seed).items():
                    with applied(base, pruned):
                        value = ask(base, group.test, benchmark.metric) / (best or 1.0)
                    rows.append({"group": group.name, "method": method, "rank": full, "k": k, "score": value})
            bar.update(index + 1)
    return rows


def pruned_adapters(adapter: Adapter, k: int, seed: int) -> dict[str, MemoryAdapter]:
    """One adapter at rank k by every rule."""
    rules = {
        f"lego, gauge {gauge}": MergeRule("lego", rank=k, lego=LegoRule(gauge=gauge), seed=seed)
        for gauge in ("none", "balanced", "svd")
    }
    plain = LegoRule(gauge="svd", param_reweight="none", output_reweight=False)
    rules["lego, gauge svd, no reweighting"] = dataclasses.replace(rules["lego, gauge svd"], lego=plain)
    rules["svd"] = MergeRule("svd", rank=k)
    found = {name: merge_adapters([adapter], rule).adapter for name, rule in rules.items()}
    generator = torch.Generator().manual_seed(seed)
    strongest, drawn = {}, {}
    for module in adapter.modules:
        part = adapter.load(module).folded()
        order = canonical_order(part.a, part.b.T)[:k]
        strongest[module] = Factors(part.a[order], part.b[:, order])
        chance = torch.randperm(part.rank, generator=generator)[:k]
        drawn[module] = Factors(part.a[chance], part.b[:, chance])
    found["strongest units"] = MemoryAdapter("strongest units", strongest, {})
    found["random units"] = MemoryAdapter("random units", drawn, {})
    return found
