"""Kept score against parameters, with the bound that no merge of so many ranks can pass.

>>> rows = pareto_rows(exam, adapters, scales=[0.7, 1.0], seed=0)

A merge of rank k in a module is at best the truncated SVD of the summed updates (Eckart and Young 1936), in the metric
of the weights or, where inputs are given, of the outputs on them. `energy` is the share of the sum's squares that a
merge has at its best scale, <S, M>^2 / (|S|^2 |M|^2) over all modules; `bound` is what its ranks allow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from permlab.adapters.allocation import kept_energy, spectrum
from permlab.adapters.benchmark.exam import Exam, scaled, tune
from permlab.adapters.benchmark.questions import PAD
from permlab.adapters.factors import AdapterSource, MemoryAdapter, inner
from permlab.adapters.merge import merge_adapters
from permlab.adapters.merge_rule import MergeRule
from permlab.adapters.moments import Moments, input_moments, whitened
from permlab.tables import Row

MULTIPLES = (0.25, 0.5, 1.0, 2.0, 3.0)
"""Ranks tried, as multiples of the adapters'; all units are the last."""
SHARES = (0.5, 0.8, 0.95)
"""Energies tried."""
BUDGETS = (0.1, 0.2, 0.35)
"""Shares of the pooled parameters tried."""


@dataclass(frozen=True)
class Line:
    """One line of the figure: a method with its ways to choose ranks."""

    label: str
    rules: tuple[MergeRule, ...]
    calibrated: bool = False


def lines(rank: int, count: int, n_init: int) -> list[Line]:
    """LEGO, matching and the SVD of the sum at fixed ranks; the SVD by energy, by budget, and on calibration inputs."""
    fixed = sorted({max(1, round(multiple * rank)) for multiple in MULTIPLES if multiple <= count} | {count * rank})
    apart = [k for k in fixed if k >= rank]
    return [
        Line("LEGO", tuple(MergeRule("lego", rank=k, n_init=n_init) for k in fixed)),
        Line("LEGO by matching", tuple(MergeRule("lego", rank=k, n_init=n_init, clustering="matching") for k in apart)),
        Line("svd of the sum", tuple(MergeRule("svd", rank=k) for k in fixed)),
        Line("svd, rank by energy", tuple(MergeRule("svd", rank=f"energy:{share}") for share in SHARES)),
        Line("svd, rank by budget", tuple(MergeRule("svd", rank=f"budget:{share}") for share in BUDGETS)),
        Line("svd, calibrated", tuple(MergeRule("svd", rank=k) for k in fixed), calibrated=True),
        Line("LEGO, calibrated", tuple(MergeRule("lego", rank=k, n_init=n_init) for k in fixed), calibrated=True),
    ]


def group_moments(exam: Exam, modules: Sequence[str]) -> dict[str, Moments]:
    """Second moments of the modules' inputs in the base, on the training questions of all groups."""
    rows = [group.train.ids for group in exam.groups]
    return input_moments(exam.model, modules, [(ids, ids != PAD) for ids in rows])


def pareto_rows(
    exam: Exam, adapters: Sequence[AdapterSource], scales: Sequence[float], seed: int, n_init: int = 3
) -> list[Row]:
    """One row per line and rank: `parameters` (share of the pooled ones), `score`, `energy`, `bound`."""
    modules = sorted(adapters[0].modules)
    moments = group_moments(exam, modules)
    rank = max(info.rank for adapter in adapters for info in adapter.modules.values())
    weights = [1.0] * len(adapters)
    metrics: dict[bool, Mapping[str, Moments] | None] = {False: None, True: moments}
    spectra = {on: {m: spectrum(whitened(adapters, metrics[on]), weights, m) for m in modules} for on in metrics}
    total = merge_adapters(adapters, MergeRule("cat")).adapter
    rows: list[Row] = []
    for line in lines(rank, len(adapters), n_init):
        metric = metrics[line.calibrated]
        for rule in line.rules:
            merged = merge_adapters(adapters, rule, seed=seed, moments=metric).adapter
            ranks = {module: info.rank for module, info in merged.modules.items()}
            value, kept = exam.ask(scaled(merged, tune(merged, exam, scales)), "test")
            row: Row = {"method": line.label, "rank": str(rule.rank), "parameters": _size(merged) / _size(total)}
            row |= {"score": value, "kept": kept, "energy": captured(merged, total, metric)}
            rows.append(row | {"bound": kept_energy(spectra[line.calibrated], ranks)})
    return rows


def captured(merged: AdapterSource, total: AdapterSource, moments: Mapping[str, Moments] | None = None) -> float:
    """Share of the squares of `total` that the best multiple of `merged` has."""
    left, right = whitened([merged, total], moments)
    products: dict[str, float] = {"cross": 0.0, "merged": 0.0, "total": 0.0}
    for module in total.modules:
        m, s = left.load(module), right.load(module)
        for name, pair in (("cross", (m, s)), ("merged", (m, m)), ("total", (s, s))):
            products[name] += inner(*pair)
    size = products["merged"] * products["total"]
    return products["cross"] ** 2 / size if size > 0 else 0.0


def _size(adapter: MemoryAdapter) -> int:
    """Parameters of the factors."""
    return sum(info.rank * (info.d_in + info.d_out) for info in adapter.modules.values())


def advantage(rows: Sequence[Row], better: str, than: str) -> dict[str, Any]:
    """Mean difference of score at equal ranks, and how many ranks both have."""
    own = {row["rank"]: row["score"] for row in rows if row["method"] == than}
    gaps = [row["score"] - own[row["rank"]] for row in rows if row["method"] == better and row["rank"] in own]
    return {"gap": sum(gaps) / len(gaps), "ranks": len(gaps)} if gaps else {"gap": 0.0, "ranks": 0}
