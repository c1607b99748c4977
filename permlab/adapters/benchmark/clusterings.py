"""How far k-means is from groups of one unit per adapter, and how much a merge depends on the seed.

>>> rows = clustering_rows(seed=0)          # sets of random adapters x ways to group their units

Three sets of four adapters, k = r: unrelated; one adapter with its ranks permuted, flipped and rescaled ("planted": the
right groups are known, and the merge must be that adapter); the same with noise on every entry.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import torch
from torch import Tensor

from permlab.adapters.benchmark.identities import RANK, REWRITINGS, SHAPES, adapters_of, rewrite
from permlab.adapters.factors import Factors, MemoryAdapter, relative_difference
from permlab.adapters.kmeans import Clusters
from permlab.adapters.merge_rule import MergeRule
from permlab.adapters.methods.lego import gram_of, rebuild
from permlab.adapters.table import CLUSTERINGS
from permlab.adapters.units import Pool, pool_units
from permlab.seeding import derived_seed
from permlab.tables import Row

COUNT, SEEDS, NOISE = 4, 20, 0.5
"""Adapters of a set; seeds of a clustering; noise as a share of the entries of a unit (root mean square)."""
ALL_THREE = next(rewriting for rewriting in REWRITINGS if rewriting.label == "all three")


def sets_of(seed: int) -> dict[str, list[MemoryAdapter]]:
    """Name -> adapters."""
    first = adapters_of(seed, 1)[0]
    copies = [rewrite(first, ALL_THREE, derived_seed(seed, "copy", index)) for index in range(COUNT - 1)]
    planted = [first, *copies]
    noisy = [_with_noise(adapter, derived_seed(seed, "noise", index)) for index, adapter in enumerate(planted)]
    return {"unrelated": adapters_of(seed, COUNT), "planted": planted, "planted, noise": noisy}


def clustering_rows(seed: int) -> list[Row]:
    """One row per set and clustering, means over modules and over `SEEDS` seeds.

    `purity`: share of units that lie in the commonest group, by matching, of their cluster (matching: of its first
    seed); `one_adapter`: share of clusters with units of one adapter only; `doubled`: with two or more units of one;
    `seed_spread`: |delta W(seed) - delta W(first seed)| / |delta W(first seed)|; `error`: of the merge of the first
    seed against the planted adapter, None for unrelated ones.
    """
    rows: list[Row] = []
    for name, adapters in sets_of(seed).items():
        planted = None if name == "unrelated" else adapters_of(seed, 1)[0]
        for clustering in CLUSTERINGS:
            found = [_module_row(adapters, module, clustering, seed, planted) for module in SHAPES]
            columns = [column for column, value in found[0].items() if value is not None]
            means = {column: statistics.fmean(row[column] for row in found) for column in columns}
            rows.append({"adapters": name, "clustering": clustering, "error": None} | means)
    return rows


def _module_row(
    adapters: Sequence[MemoryAdapter], module: str, clustering: str, seed: int, planted: MemoryAdapter | None
) -> Row:
    rule = MergeRule("lego", rank=RANK, clustering=clustering)
    pool = pool_units([adapter.load(module) for adapter in adapters], [1.0] * len(adapters), rule.gauge)
    seeds = [derived_seed(seed, "clustering", index) for index in range(SEEDS)]
    found, matched = _grouped(pool, clustering, rule, seeds), _grouped(pool, "matching", rule, seeds[:1])
    merges = [rebuild(pool, found.one(index), RANK, rule) for index in range(SEEDS)]
    counts = [_counts(found.labels[index], pool.owner) for index in range(SEEDS)]
    return {
        "purity": statistics.fmean(_purity(found.labels[index], matched.labels[0]) for index in range(SEEDS)),
        "one_adapter": statistics.fmean(float(((part > 0).sum(1) == 1).float().mean()) for part in counts),
        "doubled": statistics.fmean(float((part > 1).any(1).float().mean()) for part in counts),
        "seed_spread": statistics.fmean(relative_difference(other, merges[0]) for other in merges[1:]),
        "error": None if planted is None else relative_difference(merges[0], planted.load(module)),
    }


def recovery(rows: Sequence[Row]) -> dict[str, float]:
    """Numbers of a result: errors of the planted recovery, and k-means beside matching."""
    found = {(row["adapters"], row["clustering"]): row for row in rows}
    numbers = {f"planted_error_{name}": found["planted", name]["error"] for name in ("kmeans", "matching")}
    for name in ("kmeans", "matching"):
        numbers[f"seed_spread_{name}"] = found["unrelated", name]["seed_spread"]
        numbers[f"purity_{name}"] = found["planted, noise", name]["purity"]
    return numbers


def _grouped(pool: Pool, clustering: str, rule: MergeRule, seeds: Sequence[int]) -> Clusters:
    gram = gram_of(pool, rule.features).expand(len(seeds), -1, -1)
    owners = pool.owner.expand(len(seeds), -1)
    found: Clusters = CLUSTERINGS[clustering].load()(
        gram, owners, RANK, seeds, n_init=rule.n_init, signed=rule.sign_invariant
    )
    return found


def _counts(labels: Tensor, owner: Tensor) -> Tensor:
    """(clusters, adapters): units of each adapter in each cluster."""
    return torch.bincount(labels * COUNT + owner, minlength=RANK * COUNT).reshape(RANK, COUNT)


def _purity(labels: Tensor, reference: Tensor) -> float:
    """Share of the units that lie in the commonest reference group of their cluster; 1 for equal partitions."""
    table = torch.bincount(labels * RANK + reference, minlength=RANK**2).reshape(RANK, RANK)
    return float(table.amax(1).sum()) / len(labels)


def _with_noise(adapter: MemoryAdapter, seed: int) -> MemoryAdapter:
    generator = torch.Generator().manual_seed(seed)

    def noisy(part: Tensor, axis: int) -> Tensor:
        size = part.square().mean(dim=axis, keepdim=True).sqrt()
        return part + NOISE * size * torch.randn(part.shape, generator=generator)

    # By its own size in every unit: in the balanced gauge the noise of small ones would be blown up.
    tensors = {n: Factors(noisy(part.a, 1), noisy(part.b, 0), part.scaling) for n, part in adapter.tensors.items()}
    return MemoryAdapter(adapter.name, tensors)
