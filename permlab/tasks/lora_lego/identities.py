"""What LEGO does exactly and what it cannot: identities, gauges, norms, seeds. `task.study=identities`, no training."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import torch

from permlab import figures
from permlab.adapters import Factors, LegoRule, MemoryAdapter, MergeRule, merge_adapters, relative_difference
from permlab.adapters.factors import concatenate, random_adapter
from permlab.config import Config
from permlab.runs.run import Run

SHAPES = {"attention": (96, 96), "mlp_up": (256, 96), "mlp_down": (96, 256)}
RANK = 8
CHANGES = ("permutation", "sign", "scale", "all three", "rotation")
TOLERANCE = 1e-4
Row = dict[str, Any]


def check_identities(config: Config, run: Run) -> None:
    """Four tables and one figure; `identities_held` counts what holds to float32 precision."""
    seed = config.seed
    identities = identity_rows(seed)
    run.table("identities", identities, title="Identities on random adapters, relative error of delta W")
    gauges = gauge_rows(seed)
    run.table("gauges", gauges, title="Merge with a copy of the same function, k = r: relative error of delta W")
    norms = norm_rows(seed)
    run.table("norms", norms, title="|merged| / mean |input| on random adapters")
    spread = seed_rows(seed)
    run.table("seeds", spread, title="Five k-means seeds: difference of the merged delta W")
    both = [row["both"] for row in norms]
    run.summary(
        identities_held=sum(row["holds"] for row in identities),
        identities=len(identities),
        worst_identity_error=max(row["error"] for row in identities if row["expected"]),
        balanced_gauge_error=max(v for row in gauges if row["merge"] == "lego, balanced" for v in _changes(row)[:4]),
        norm_ratio_lowest=min(both),
        norm_ratio_highest=max(both),
        seed_spread_unrelated=statistics.fmean(row["difference"] for row in spread if row["n_init"] == 10),
    )
    run.figure("gauges", draw_gauges(gauges))


def identity_rows(seed: int) -> list[Row]:
    """The five identities of the method, and linear averaging failing the second one."""
    first, second, third = (random_adapter(f"a{i}", SHAPES, RANK, 10 * seed + i, alpha=16.0) for i in range(3))
    small = random_adapter("small", SHAPES, 3, 10 * seed + 7, alpha=5.0)
    copy = rewrite(first, "permutation", seed)
    trio = [first, second, third]
    everything = merged(trio, rank=3 * RANK)
    joined = merge_adapters([first, small], MergeRule("cat")).adapter
    found = [
        ("one adapter, k = r, is that adapter", True, worst(merged([first]), first)),
        ("adapter + rank-permuted copy, k = r, is the adapter", True, worst(merged([first, copy]), first)),
        ("k = all units is the sum / sqrt(n)", True, worst(everything, total(trio, 3**-0.5))),
        ("concatenation is the sum, mixed ranks", True, worst(joined, total([first, small], 1.0))),
        ("order of adapters is irrelevant", True, worst(merged([third, first, second], 12), merged(trio, 12))),
        (
            "linear average of adapter + rank-permuted copy is the adapter",
            False,
            worst(merge_adapters([first, copy], MergeRule("linear")).adapter, first),
        ),
    ]
    return [
        {"identity": said, "error": error, "expected": expected, "holds": (error < TOLERANCE) == expected}
        for said, expected, error in found
    ]


def gauge_rows(seed: int) -> list[Row]:
    """Part d.5 of the method's analysis: which rewritings of the same update a merge does not see."""
    first = random_adapter("a", SHAPES, RANK, 10 * seed + 5)
    arms = {
        "linear: average of A and of B": MergeRule("linear", weights=(0.25, 0.25)),
        "lego, gauge none": MergeRule(lego=LegoRule(gauge="none")),
        "lego, gauge none, up to sign": MergeRule(lego=LegoRule(gauge="none", sign_invariant=True)),
        "lego, balanced": MergeRule(lego=LegoRule(gauge="balanced")),
        "lego, gauge svd": MergeRule(lego=LegoRule(gauge="svd")),
        "svd of the sum / 2": MergeRule("svd", rank=RANK, weights=(0.5, 0.5)),
    }
    rows = []
    for said, rule in arms.items():
        row: Row = {"merge": said}
        for change in CHANGES:
            row[change] = worst(merge_adapters([first, rewrite(first, change, seed)], rule).adapter, first)
        rows.append(row)
    return rows


def norm_rows(seed: int) -> list[Row]:
    """Norm of the merge relative to its inputs, with each reweighting on and off."""
    switches = {
        "both": LegoRule(),
        "parameter_only": LegoRule(output_reweight=False),
        "output_only": LegoRule(param_reweight="none"),
        "none": LegoRule(param_reweight="none", output_reweight=False),
    }
    rows = []
    for count in (2, 4, 6):
        adapters = [random_adapter(f"a{i}", SHAPES, RANK, 10 * seed + i) for i in range(count)]
        for k in sorted({4, 8, 16, count * RANK}):
            row: Row = {"adapters": count, "k": k}
            for name, lego in switches.items():
                reports = merge_adapters(adapters, MergeRule(rank=k, lego=lego)).reports.values()
                row[name] = statistics.fmean(report.norm_ratio for report in reports)
            rows.append(row)
    return rows


def seed_rows(seed: int) -> list[Row]:
    """Four unrelated adapters, k = r: how much the merge depends on the seed of k-means."""
    adapters = [random_adapter(f"a{i}", SHAPES, RANK, 10 * seed + i) for i in range(4)]
    rows = []
    for n_init in (1, 10, 50):
        lego = LegoRule(n_init=n_init)
        merges = [merge_adapters(adapters, MergeRule(rank=RANK, lego=lego, seed=s)) for s in range(5)]
        gaps = [worst(other.adapter, merges[0].adapter, statistics.fmean) for other in merges[1:]]
        inertia = [statistics.fmean(report.inertia_share for report in merge.reports.values()) for merge in merges]
        rows.append(
            {"n_init": n_init, "difference": statistics.fmean(gaps), "inertia_share": statistics.fmean(inertia)}
        )
    return rows


def merged(adapters: Sequence[MemoryAdapter], rank: int | None = None) -> MemoryAdapter:
    """LEGO with the settings of the paper."""
    return merge_adapters(adapters, MergeRule(rank=rank)).adapter


def total(adapters: Sequence[MemoryAdapter], factor: float) -> MemoryAdapter:
    """The sum of the updates times `factor`."""
    tensors = {}
    for module in SHAPES:
        part = concatenate([adapter.load(module) for adapter in adapters])
        tensors[module] = Factors(part.a, part.b, factor)
    return MemoryAdapter("sum", tensors)


def worst(left: MemoryAdapter, right: MemoryAdapter, over: Any = max) -> float:
    """Largest (or mean) relative difference over the modules."""
    return float(over(relative_difference(left.load(module), right.load(module)) for module in SHAPES))


def rewrite(source: MemoryAdapter, change: str, seed: int) -> MemoryAdapter:
    """The same updates with other factors."""
    generator = torch.Generator().manual_seed(seed + 99)
    tensors = {}
    for module, part in source.tensors.items():
        a, b, rank = part.a, part.b, part.rank
        if change in ("permutation", "all three"):
            order = torch.randperm(rank, generator=generator)
            a, b = a[order], b[:, order]
        if change in ("sign", "all three"):
            sign = torch.randint(0, 2, (rank,), generator=generator).float() * 2 - 1
            a, b = a * sign[:, None], b * sign
        if change in ("scale", "all three"):
            scale = torch.exp(0.7 * torch.randn(rank, generator=generator))
            a, b = a * scale[:, None], b / scale
        if change == "rotation":
            turn = torch.linalg.qr(torch.randn(rank, rank, generator=generator))[0]
            a, b = turn @ a, b @ turn.T
        tensors[module] = Factors(a, b, part.scaling)
    return MemoryAdapter(change, tensors)


def draw_gauges(rows: Sequence[Row]) -> Any:
    """Heat map of the gauge table."""
    fig, ax = figures.new(width=2, height=2.2)
    values = [_changes(row) for row in rows]
    image = figures.heat_map(ax, values, [row["merge"] for row in rows], list(CHANGES))
    ax.set_xlabel("how the copy differs")
    fig.colorbar(image, ax=ax, label="relative error of delta W")
    return fig


def _changes(row: Row) -> list[float]:
    return [row[change] for change in CHANGES]
