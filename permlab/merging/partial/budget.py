"""Spend a budget of multiply-accumulates on separate units: `allocate("greedy", counter, 1.5, gains=gains)`.

A budget is the cost relative to one network: 1 merges everything, 2 is the ensemble. Four allocators share one exact
accounting (PLeaS, arXiv 2407.02447, partial matching; the quadratic programme is solved with SciPy). Whatever is used
is named in the result; a solver that fails raises an error, and nothing takes its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import minimize

from permlab.errors import UserError, check_range
from permlab.merging.networks.states import State
from permlab.merging.partial.macs import MacCounter
from permlab.merging.table import ALLOCATIONS
from permlab.symmetry import ChannelGroup, Spec

SLACK = 1e-9


@dataclass
class Allocation:
    """Ratios in whole units and how they were found.

    Attributes:
        method: uniform, prefix, greedy or qp.
        budget: what was asked for; `macs`: what the ratios cost, never more.
        ratios: group -> share of units kept separate.
        objective: sum of gain times ratio (0 without gains).
        solver: what computed the ratios, with its settings.
        starts: one row per start of the quadratic programme: objective, macs, converged.
        notes: group -> why it is merged as a whole, and under "budget" why a part is left over.
    """

    method: str
    budget: float
    macs: float
    ratios: dict[str, float]
    objective: float
    solver: str
    starts: list[dict[str, float]] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)


def allocate(
    method: str,
    counter: MacCounter,
    budget: float,
    *,
    gains: Mapping[str, float] | None = None,
    fixed: Mapping[str, str] | None = None,
    grid: int = 10,
    starts: int = 8,
    seed: int = 0,
) -> Allocation:
    """Choose the ratio of every group for a budget.

    Args:
        method: uniform: one ratio for all; prefix: groups separate from the last backwards, the one at the border in
            part; greedy: grid steps by gain per cost; qp: the quadratic programme, SLSQP from several starts.
        counter: of the network.
        budget: allowed cost relative to one network, 1 to 2.
        gains: group -> what keeping all its units separate is worth (greedy and qp need it, see `measured_gains`).
        fixed: group -> why it must be merged (`not_separable`).
        grid: steps from ratio 0 to 1 of the greedy allocator.
        starts, seed: of the quadratic programme, which is not convex.

    Raises:
        UserError: a value out of range, gains missing, no group that can be separate, or no start that converges.
    """
    row = ALLOCATIONS[method]
    check_range("budget", budget, 1, 2)
    check_range("grid", grid, 1)
    check_range("starts", starts, 1)
    fixed = dict(fixed or {})
    free = [name for name in counter.spec.groups if name not in fixed]
    if not free and budget > 1:
        raise UserError(f"budget={budget:g} cannot be spent: no group of this network can keep units apart; use 1")
    if "gains" in row.needs:
        missing = [name for name in free if name not in (gains or {})]
        if missing:
            raise UserError(f"budget method {method} needs the gain of every group; missing: {', '.join(missing)}")
    worth = {name: float((gains or {}).get(name, 0.0)) for name in free}
    found: Solution = row.load()(Problem(counter, budget, free, worth, grid=grid, starts=starts, seed=seed))
    ratios = found.ratios
    macs = counter.ratio(ratios)
    if macs < budget - 0.02:
        fixed["budget"] = f"{macs:.3f} of {budget:g} spent: " + (
            "every group that can is separate" if all(r == 1 for r in ratios.values()) else "whole units fit no better"
        )
    objective = sum(worth[name] * ratio for name, ratio in ratios.items())
    return Allocation(method, budget, macs, ratios, objective, found.solver, found.starts, fixed)


@dataclass
class Solution:
    """Ratios of the groups that can be separate, what computed them, and one row per start of a search."""

    ratios: dict[str, float]
    solver: str
    starts: list[dict[str, float]] = field(default_factory=list)


@dataclass
class Problem:
    """One allocation problem; ratios are dicts over the free groups.

    Attributes:
        counter, budget: the exact price of ratios, and the most they may cost.
        free: groups that can be separate; `gains`: what that is worth.
        grid, starts, seed: of the greedy allocator and of the quadratic programme.
    """

    counter: MacCounter
    budget: float
    free: list[str]
    gains: dict[str, float]
    grid: int = 10
    starts: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        groups = self.counter.spec.groups
        # Attention heads are kept apart as a whole or not at all.
        self.units = {name: group.units if isinstance(group := groups[name], ChannelGroup) else 1 for name in self.free}

    def fits(self, ratios: Mapping[str, float]) -> bool:
        """Whether ratios are within the budget."""
        return self.counter.ratio(ratios) <= self.budget + SLACK

    def floor(self, ratios: Mapping[str, float]) -> dict[str, float]:
        """Ratios rounded down to whole units."""
        return {name: int(ratios[name] * units + 1e-6) / units for name, units in self.units.items()}

    def floor_at(self, ratio: float) -> dict[str, float]:
        """The same ratio for all groups, in whole units."""
        return self.floor(dict.fromkeys(self.free, ratio))

    def largest(self, wanted: Callable[[float], dict[str, float]]) -> float:
        """The largest t in [0, 1] whose ratios `wanted(t)`, which grow with t, fit the budget."""
        if self.fits(wanted(1.0)):
            return 1.0
        low, high = 0.0, 1.0
        # Cost grows with every ratio, so bisection finds the limit; 40 halvings go below any single unit.
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if self.fits(wanted(middle)) else (low, middle)
        return low

    def raise_one(self, ratios: dict[str, float], name: str) -> dict[str, float]:
        """Separate as many more whole units of one group as fit."""
        start = ratios[name]

        def at(t: float) -> dict[str, float]:
            return self.floor({**ratios, name: start + t * (1 - start)})

        return at(self.largest(at))

    def fill(self, ratios: dict[str, float]) -> dict[str, float]:
        """Spend what rounding left over, on the groups with the best gain per cost first."""
        now = self.counter.ratio(ratios)

        def worth(name: str) -> float:
            step = 1 / self.units[name]
            moved = {**ratios, name: ratios[name] + step}
            return self.gains[name] * step / max(self.counter.ratio(moved) - now, 1e-12)

        for name in sorted((name for name in self.free if ratios[name] < 1), key=worth, reverse=True):
            ratios = self.raise_one(ratios, name)
        return ratios

    def value(self, ratios: Mapping[str, float]) -> float:
        """Sum of gain times ratio: the objective of PLeaS (arXiv 2407.02447, section 3.3)."""
        return sum(self.gains[name] * ratio for name, ratio in ratios.items())


def uniform(problem: Problem) -> Solution:
    """One ratio for all groups."""
    return Solution(problem.floor_at(problem.largest(problem.floor_at)), "bisection")


def prefix(problem: Problem) -> Solution:
    """Groups in network order; from the last one backwards each is separate while the budget lasts.

    What ZipIt's partial zip does (arXiv 2305.03053): the first layers are merged, the last ones are not.
    """
    ratios = dict.fromkeys(problem.free, 0.0)
    for name in reversed(problem.free):
        ratios = problem.raise_one(ratios, name)
        if ratios[name] < 1:
            break
    return Solution(ratios, "last group first")


def greedy(problem: Problem) -> Solution:
    """Steps of 1 / grid of a group (heads: whole groups), best gain per added cost first, then what still fits."""
    ratios, now = dict.fromkeys(problem.free, 0.0), 1.0
    solver = f"greedy on a grid of {problem.grid} steps"
    while True:
        moves = []
        for name in problem.free:
            steps = problem.grid if problem.units[name] > 1 else 1
            if ratios[name] < 1 - SLACK:
                moved = {**ratios, name: min(1.0, ratios[name] + 1 / steps)}
                cost = problem.counter.ratio(moved)
                if cost <= problem.budget + SLACK:
                    gain = problem.gains[name] * (moved[name] - ratios[name])
                    moves.append((gain / max(cost - now, 1e-12), moved, cost))
        if not moves:
            return Solution(problem.fill(problem.floor(ratios)), solver)
        _, ratios, now = max(moves, key=lambda move: move[0])


def quadratic(problem: Problem) -> Solution:
    """Maximise sum of gain * ratio under the bilinear cost; the best whole-unit solution over all starts.

    Head groups are relaxed first, rounded (separate when above one half and the budget allows), and held while the
    rest is solved again.

    Raises:
        UserError: no start converged.
    """
    rng = np.random.default_rng(problem.seed)
    best: tuple[float, dict[str, float]] | None = None
    rows: list[dict[str, float]] = []
    for number in range(problem.starts):
        # The cost is bilinear, not convex: several starts, of which 0 is within every budget.
        first = np.zeros(len(problem.free)) if number == 0 else rng.uniform(0, 1, len(problem.free))
        solution, converged = _slsqp(problem, first, {})
        held = _round_heads(problem, solution)
        if held and converged:
            solution, converged = _slsqp(problem, np.array([solution[name] for name in problem.free]), held)
        ratios = {name: held.get(name, ratio) for name, ratio in solution.items()}
        while converged and not problem.fits(ratios):  # SLSQP meets its constraint to its own tolerance only
            ratios = {name: held.get(name, max(0.0, ratio * 0.999 - 1e-6)) for name, ratio in ratios.items()}
        ratios = problem.fill(problem.floor(ratios)) if converged else ratios
        value = problem.value(ratios)
        rows.append({"objective": value, "macs": problem.counter.ratio(ratios), "converged": float(converged)})
        if converged and (best is None or value > best[0]):
            best = (value, ratios)
    if best is None:
        raise UserError(
            f"the quadratic programme converged from none of {problem.starts} starts: use greedy, or more starts"
        )
    converged_starts = int(sum(row["converged"] for row in rows))
    return Solution(best[1], f"SciPy SLSQP, {problem.starts} starts, {converged_starts} converged", rows)


def _slsqp(problem: Problem, first: np.ndarray, held: Mapping[str, float]) -> tuple[dict[str, float], bool]:
    # SLSQP's tolerance is absolute: gains of tiny accuracies would count as converged at once.
    scale = max(map(abs, problem.gains.values())) or 1.0
    gains = np.array([problem.gains[name] for name in problem.free]) / scale

    def named(x: np.ndarray) -> dict[str, float]:
        return {**dict(zip(problem.free, np.clip(x, 0, 1).tolist())), **held}

    bounds = [(held.get(name, 0.0), held.get(name, 1.0)) for name in problem.free]
    found = minimize(
        lambda x: -float(gains @ x),
        np.clip(first, *np.array(bounds).T),
        jac=lambda x: -gains,
        bounds=bounds,
        constraints=[{"type": "ineq", "fun": lambda x: problem.budget - problem.counter.ratio(named(x))}],
        method="SLSQP",
        options={"maxiter": 300, "ftol": 1e-10},
    )
    return named(found.x), bool(found.success)


def _round_heads(problem: Problem, solution: Mapping[str, float]) -> dict[str, float]:
    groups = problem.counter.spec.groups
    heads = [name for name in problem.free if not isinstance(groups[name], ChannelGroup)]
    held = dict.fromkeys(heads, 0.0)
    for name in sorted(heads, key=lambda each: -solution[each]):
        # Heads are whole or not at all; the largest relaxed ratios get the budget first.
        if solution[name] >= 0.5 and problem.fits({**held, name: 1.0}):
            held[name] = 1.0
    return held


def weight_gains(spec: Spec, a: State, b: State, groups: Sequence[str]) -> dict[str, float]:
    """What each group's separation is worth when there is no data: how far its weights are apart (0 to 4).

    The squared distance of all tensors that the group's units read or write, relative to the mean squared norm of the
    two networks' tensors. A stand-in of ours for `measured_gains`, which needs labels.

    Args:
        spec, a, b: the symmetry and the two networks in a common order of units (`align`).
        groups: groups that can be separate.
    """
    gains = {}
    for name in groups:
        tensors = dict.fromkeys(tensor for tensor, _, _ in spec.members(name) if tensor not in spec.statistics)
        apart = sum(float((a[tensor].double() - b[tensor].double()).square().sum()) for tensor in tensors)
        norm = sum(float(state[tensor].double().square().sum()) for state in (a, b) for tensor in tensors) / 2
        gains[name] = apart / norm if norm else 0.0
    return gains


def measured_gains(
    groups: list[str], budget: float, evaluate: Callable[[Mapping[str, float]], float], *, least: float = 1e-5
) -> dict[str, float]:
    """What each group's separation is worth, from 2 G + 2 measured networks (arXiv 2407.02447).

    (2 - budget) * (value[only g separate] - value[all merged]) + (budget - 1) * (value[all separate] - value[only g
    merged]), at least `least`: near budget 1 the first difference counts, near 2 the second.

    Args:
        groups: groups that can be separate.
        budget: 1 to 2.
        evaluate: ratios -> accuracy (or any score, larger is better) of the merged network, on data that is not used
            for the final result.
    """
    check_range("budget", budget, 1, 2)
    # PLeaS measures one group at a time from both ends of the budget.
    merged, separate = evaluate({}), evaluate(dict.fromkeys(groups, 1.0))
    gains = {}
    for name in groups:
        alone = evaluate({name: 1.0}) - merged
        last = separate - evaluate({other: 1.0 for other in groups if other != name})
        # near budget 1 what a group gains alone counts, near 2 what the rest loses without it (arXiv 2407.02447)
        gains[name] = max(least, (2 - budget) * alone + (budget - 1) * last)
    return gains
