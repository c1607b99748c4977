"""Where a budget above one network goes: allocators at equal multiply-accumulates, `budget_rows(subject)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from permlab.matching.table import MATCHES
from permlab.merging.measure.subject import Subject
from permlab.merging.methods.repair import batchnorms
from permlab.merging.networks.states import State
from permlab.merging.partial.budget import allocate, measured_gains
from permlab.merging.studies.pleas.arms import RESET, PartialArm
from permlab.merging.studies.pleas.scores import scores
from permlab.merging.table import ALLOCATIONS
from permlab.tables import Row

BUDGET_GRID = (1.2, 1.5, 1.8)


def planned_budgets() -> list[tuple[str, str, float]]:
    """(matching, allocator, budget) of every row; without a permutation there are no gains to measure."""
    plain = [name for name, row in ALLOCATIONS.items() if "gains" not in row.needs]
    allocators = {"activation": list(ALLOCATIONS), "identity": plain}
    return [(match, each, budget) for budget in BUDGET_GRID for match, own in allocators.items() for each in own]


def budget_rows(subject: Subject, progress: Callable[[int], None] | None = None) -> list[Row]:
    """Least squares at equal exact budgets by allocator, and without a permutation.

    What keeping a group apart is worth is measured on training images, with merges that keep single groups apart
    (arXiv 2407.02447 chooses the widths of layers by a quadratic programme over such measurements).

    Args:
        subject: two networks and the sets of their tasks (`pleas.scores`).
        progress: called with the number of rows done.
    """
    if not subject.free:
        return []
    memory: dict[tuple[float, ...], float] = {}

    def measure(ratios: Mapping[str, float]) -> float:
        # The 2 G + 2 networks are the same for every budget; only their weighting changes.
        key = tuple(ratios.get(name, 0.0) for name in subject.free)
        if key not in memory:
            # On training images: gains chosen on the test set would leak into the comparison.
            found = scores(subject, fitted(subject, "activation", ratios), "train")
            memory[key] = found.get("joint", found["own"])
        return memory[key]

    gains = {budget: measured_gains(subject.free, budget, measure) for budget in BUDGET_GRID}
    rows: list[Row] = []
    for match, allocator, budget in planned_budgets():
        plan = allocate(
            allocator, subject.counter, budget, gains=gains[budget], fixed=subject.fixed,
            seed=subject.setting.seed % 2**32,
        )  # fmt: skip
        rows.append(
            {
                "pair": subject.pair, "matching": MATCHES[match].title, "allocator": allocator, "budget": budget,
                "macs": plan.macs, "dense_macs": subject.counter.count(plan.ratios).dense / subject.counter.base,
                **scores(subject, fitted(subject, match, plan.ratios)), "solver": plan.solver,
                "note": plan.notes.get("budget", ""),
                "ratios": " ".join(f"{name}={ratio:.3f}" for name, ratio in plan.ratios.items()),
            }
        )  # fmt: skip
        if progress is not None:
            progress(len(rows))
    return rows


def fitted(subject: Subject, match: str, ratios: Mapping[str, float]) -> Sequence[State]:
    """Least squares, with BatchNorm statistics measured again where there are any: `Merged.states`."""
    merged = PartialArm(match, "least_squares", ratios=ratios).merge(subject)
    # After the fit, as in the published scripts: the averaged statistics belong to no network.
    if batchnorms(subject.model):
        return subject.renormalise(RESET, merged.networks, merged.state)
    return merged.states
