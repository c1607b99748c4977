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

from permlab.errors import UserError, check_choice, check_range
from permlab.merging.average import State
from permlab.merging.macs import MacCounter
from permlab.symmetry import ChannelGroup, Spec

BUDGETS = ("uniform", "prefix", "greedy", "qp")
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
    check_choice("budget method", method, BUDGETS)
    check_range("budget", budget, 1, 2)
    check_range("grid", grid, 1)
    check_range("starts", starts, 1)
    fixed = dict(fixed or {})
    free = [name for name in counter.spec.groups if name not in fixed]
    if not free and budget > 1:
        raise UserError(f"budget={budget:g} cannot be spent: no group of this network can keep units apart; use 1")
    if method in ("greedy", "qp"):
        missing = [name for name in free if name not in (gains or {})]
        if missing:
            raise UserError(f"budget method {method} needs the gain of every group; missing: {', '.join(missing)}")
    task = _Task(counter, budget, free, {name: float((gains or {}).get(name, 0.0)) for name in free})
    rows: list[dict[str, float]] = []
    if method == "uniform":
        ratios, solver = task.uniform(), "bisection"
    elif method == "prefix":
        ratios, solver = task.prefix(), "last group first"
    elif method == "greedy":
        ratios, solver = task.greedy(grid), f"greedy on a grid of {grid} steps"
    else:
        ratios, rows = task.quadratic(starts, seed)
        solver = f"SciPy SLSQP, {starts} starts, {int(sum(row['converged'] for row in rows))} converged"
    macs = counter.ratio(ratios)
    if macs < budget - 0.02:
        fixed["budget"] = f"{macs:.3f} of {budget:g} spent: " + (
            "every group that can is separate" if all(r == 1 for r in ratios.values()) else "whole units fit no better"
        )
    objective = sum(task.gains[name] * ratio for name, ratio in ratios.items())
    return Allocation(method, budget, macs, ratios, objective, solver, rows, fixed)


class _Task:
    """One allocation problem; ratios are dicts over the free groups."""

    def __init__(self, counter: MacCounter, budget: float, free: list[str], gains: dict[str, float]) -> None:
        self.counter, self.budget, self.free, self.gains = counter, budget, free, gains
        groups = counter.spec.groups
        self.units = {name: groups[name].units if isinstance(groups[name], ChannelGroup) else 1 for name in free}

    def fits(self, ratios: Mapping[str, float]) -> bool:
        return self.counter.ratio(ratios) <= self.budget + SLACK

    def floor(self, ratios: Mapping[str, float]) -> dict[str, float]:
        """Ratios rounded down to whole units."""
        return {name: int(ratios[name] * units + 1e-6) / units for name, units in self.units.items()}

    def largest(self, wanted: Callable[[float], dict[str, float]]) -> float:
        """The largest t in [0, 1] whose ratios `wanted(t)`, which grow with t, fit the budget."""
        if self.fits(wanted(1.0)):
            return 1.0
        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if self.fits(wanted(middle)) else (low, middle)
        return low

    def uniform(self) -> dict[str, float]:
        return self.floor_at(self.largest(self.floor_at))

    def floor_at(self, ratio: float) -> dict[str, float]:
        """The same ratio for all groups, in whole units."""
        return self.floor(dict.fromkeys(self.free, ratio))

    def prefix(self) -> dict[str, float]:
        """Groups in network order; from the last one backwards each is separate while the budget lasts."""
        ratios = dict.fromkeys(self.free, 0.0)
        for name in reversed(self.free):
            ratios = self.raise_one(ratios, name)
            if ratios[name] < 1:
                break
        return ratios

    def raise_one(self, ratios: dict[str, float], name: str) -> dict[str, float]:
        """Separate as many more whole units of one group as fit."""
        start = ratios[name]

        def at(t: float) -> dict[str, float]:
            return self.floor({**ratios, name: start + t * (1 - start)})

        return at(self.largest(at))

    def greedy(self, grid: int) -> dict[str, float]:
        """Steps of 1 / grid of a group (heads: whole groups), best gain per added cost first, then what still fits."""
        ratios, now = dict.fromkeys(self.free, 0.0), 1.0
        while True:
            moves = []
            for name in self.free:
                steps = grid if self.units[name] > 1 else 1
                if ratios[name] < 1 - SLACK:
                    moved = {**ratios, name: min(1.0, ratios[name] + 1 / steps)}
                    cost = self.counter.ratio(moved)
                    if cost <= self.budget + SLACK:
                        moves.append(
                            (
                                self.gains[name] * (moved[name] - ratios[name]) / max(cost - now, 1e-12),
                                name,
                                moved,
                                cost,
                            )
                        )
            if not moves:
                return self.fill(self.floor(ratios))
            _, _, ratios, now = max(moves, key=lambda move: move[0])

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

    def quadratic(self, starts: int, seed: int) -> tuple[dict[str, float], list[dict[str, float]]]:
        """Maximise sum of gain * ratio under the bilinear cost; the best whole-unit solution over all starts.

        Head groups are relaxed first, rounded (separate when above one half and the budget allows), and held while the
        rest is solved again.
        """
        rng = np.random.default_rng(seed)
        best: tuple[float, dict[str, float]] | None = None
        rows: list[dict[str, float]] = []
        for number in range(starts):
            first = np.zeros(len(self.free)) if number == 0 else rng.uniform(0, 1, len(self.free))
            solution, converged = self._slsqp(first, {})
            held = self._round_heads(solution)
            if held and converged:
                solution, converged = self._slsqp(np.array([solution[name] for name in self.free]), held)
            ratios = {name: held.get(name, ratio) for name, ratio in solution.items()}
            while converged and not self.fits(ratios):  # SLSQP meets its constraint to its own tolerance only
                ratios = {name: held.get(name, max(0.0, ratio * 0.999 - 1e-6)) for name, ratio in ratios.items()}
            ratios = self.fill(self.floor(ratios)) if converged else ratios
            value = sum(self.gains[name] * ratio for name, ratio in ratios.items())
            rows.append({"objective": value, "macs": self.counter.ratio(ratios), "converged": float(converged)})
            if converged and (best is None or value > best[0]):
                best = (value, ratios)
        if best is None:
            raise UserError(
                f"the quadratic programme converged from none of {starts} starts: use greedy, or more starts"
            )
        return best[1], rows

    def _slsqp(self, first: np.ndarray, held: Mapping[str, float]) -> tuple[dict[str, float], bool]:
        scale = max(map(abs, self.gains.values())) or 1.0
        gains = np.array([self.gains[name] for name in self.free]) / scale

        def named(x: np.ndarray) -> dict[str, float]:
            return {**dict(zip(self.free, np.clip(x, 0, 1).tolist())), **held}

        bounds = [(held.get(name, 0.0), held.get(name, 1.0)) for name in self.free]
        found = minimize(
            lambda x: -float(gains @ x),
            np.clip(first, *np.array(bounds).T),
            jac=lambda x: -gains,
            bounds=bounds,
            constraints=[{"type": "ineq", "fun": lambda x: self.budget - self.counter.ratio(named(x))}],
            method="SLSQP",
            options={"maxiter": 300, "ftol": 1e-10},
        )
        return named(found.x), bool(found.success)

    def _round_heads(self, solution: Mapping[str, float]) -> dict[str, float]:
        groups = self.counter.spec.groups
        heads = [name for name in self.free if not isinstance(groups[name], ChannelGroup)]
        held = dict.fromkeys(heads, 0.0)
        for name in sorted(heads, key=lambda each: -solution[each]):
            if solution[name] >= 0.5 and self.fits({**held, name: 1.0}):
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
    merged, separate = evaluate({}), evaluate(dict.fromkeys(groups, 1.0))
    gains = {}
    for name in groups:
        alone = evaluate({name: 1.0}) - merged
        last = separate - evaluate({other: 1.0 for other in groups if other != name})
        gains[name] = max(least, (2 - budget) * alone + (budget - 1) * last)
    return gains
