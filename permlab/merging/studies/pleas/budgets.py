"""Where a budget above one network goes: allocators at equal multiply-accumulates, `budget_rows(case)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from permlab.merging import ALLOCATIONS, allocate, measured_gains
from permlab.merging.methods.repair import batchnorms
from permlab.merging.studies.pleas.case import Case, State
from permlab.tables import Row

BUDGET_GRID = (1.2, 1.5, 1.8)


def budget_rows(case: Case, progress: Callable[[int], None] | None = None) -> list[Row]:
    """Least squares at equal exact budgets by allocator, and without a permutation; gains come from training images."""
    if not case.free:
        return []
    memory: dict[tuple[float, ...], float] = {}

    def measure(ratios: Mapping[str, float]) -> float:
        key = tuple(ratios.get(name, 0.0) for name in case.free)
        if key not in memory:
            _, states = _merged(case, "activation matching", ratios)
            found = case.scores(states, "train")
            memory[key] = found.get("joint", found["own"])
        return memory[key]

    rows: list[Row] = []
    for budget in BUDGET_GRID:
        gains = measured_gains(case.free, budget, measure)
        for match, methods in (("activation matching", ALLOCATIONS), ("no permutation", ("uniform", "prefix"))):
            for method in methods:
                plan = allocate(method, case.counter, budget, gains=gains, fixed=case.fixed, seed=case.seed % 2**32)
                _, states = _merged(case, match, plan.ratios)
                rows.append(
                    {
                        "pair": case.pair, "matching": match, "allocator": method, "budget": budget,
                        "macs": plan.macs, "dense_macs": case.counter.count(plan.ratios).dense / case.counter.base,
                        **case.scores(states), "solver": plan.solver, "note": plan.notes.get("budget", ""),
                        "ratios": " ".join(f"{name}={ratio:.3f}" for name, ratio in plan.ratios.items()),
                    }
                )  # fmt: skip
                if progress is not None:
                    progress(len(rows))
    return rows


def _merged(case: Case, match: str, ratios: Mapping[str, float]) -> tuple[State, list[State]]:
    """Least squares, with BatchNorm statistics measured again where there are any."""
    trunk, states = case.combine(match, "least squares", ratios)
    if batchnorms(case.model):
        layout, aligned = case.layout(match, ratios)
        trunk = case.reset(trunk, states)
        states = case.per_task(layout, trunk, aligned)
    return trunk, states
