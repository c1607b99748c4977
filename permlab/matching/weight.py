"""Weight matching by coordinate descent: `weight_matching(spec, a, b)` (arXiv 2209.04836, algorithm 1).

Minimises the squared distance between A and the permuted B, one group at a time. A group is solved again only when a
neighbour has changed since; a step counts only when it lowers the distance by more than rounding can.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from permlab.errors import UserError, check_choice, check_range
from permlab.matching.assign import gain, improve, solve, tied, warn_of_ties
from permlab.matching.cost import CostBuilder, Memory
from permlab.matching.distance import squared_norm
from permlab.matching.result import Matching
from permlab.matching.setting import MatchOptions
from permlab.symmetry import ChannelGroup, HeadGroup, Permutation, Spec, check_same, check_state

ROUNDING = 3e-6
"""Relative error granted to entries of a float32 cost matrix; smaller gains are noise, not progress."""

LARGE_GROUP = 128
SETTLING = 0.4
"""A group of this many channels goes on with sparse assignments once a step moves less than this share of them."""

Progress = Callable[[int, int], None]
OnStep = Callable[[str, Permutation], None]
"""Called with the group that was just solved ("" at the start) and the permutation so far, not to be written to."""


def weight_matching(
    spec: Spec,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    *,
    start: Permutation | None = None,
    restarts: int = MatchOptions.restarts,
    max_sweeps: int = 100,
    tolerance: float = 1e-9,
    seed: int = 0,
    quadratic: str = "linearise",
    keep_costs: bool = True,
    keep_scores: bool = True,
    memory: Memory | None = None,
    sparse: bool = True,
    on_step: OnStep | None = None,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Matching:
    """Permute B towards A so that the sum of squared differences of their weights is small.

    Args:
        spec: the symmetry; verify it first.
        a, b: state dicts of the same architecture.
        start: a permutation to start the first descent from. Default: groups are first settled outwards from the
            tensors that no permutation touches, each from what is settled already.
        restarts: number of descents; the best counts. The second starts at the identity, later ones at random elements.
        max_sweeps: bound on passes over the groups per descent.
        tolerance: smallest gain that counts, relative to the objective.
        seed: of the order of groups and of random starts.
        quadratic: what to do with a group on two axes of one tensor, a quadratic assignment problem: "linearise" solves
            the linearised one and accepts only steps that lower the true distance; "pin" leaves the group as it is.
        keep_costs: keep the final cost matrix of every group (n x n each).
        keep_scores: keep how well each slot is matched; without costs and scores the final matrices are not computed
            again, and units that look alike are not looked for.
        memory: what may be held beside the networks, and where products are taken (default: as much as a model).
        sparse: large groups that have begun to settle move by cheap sparse assignments in between. Without, every step
            is the optimal assignment of one group as in algorithm 1.
        on_step: called at the start of every descent and after every step that counts.
        progress, should_stop: called with (sweeps, max_sweeps * restarts); true ends with the best permutation so far.

    Returns:
        A Matching whose `objective` is the final squared distance, and which never increases along `trace`.

    Raises:
        UserError: the models differ in names or shapes, hold NaN, or a number is out of range.
    """
    memory = memory or Memory()
    check_range("restarts", restarts, 1)
    check_range("max_sweeps", max_sweeps, 1)
    check_models(spec, [a, b])
    begin = time.perf_counter()
    full, (spec, pinned, notes) = spec, without_quadratic(spec, quadratic)
    builder = CostBuilder(spec, a, b, memory=memory)
    generator = torch.Generator().manual_seed(seed)
    result = Matching("weight", [], pinned=pinned, notes=notes, objective=float("inf"))
    stop = should_stop or (lambda: False)
    for restart in range(restarts):
        descent = Descent(builder, generator, tolerance, begin, sparse=sparse, on_step=on_step)
        permutation = descent.start(start, restart)
        descent.run(permutation, max_sweeps, stop, _shifted(progress, restart, restarts, max_sweeps))
        descent.report(result, restart)
        # Afresh in float64: the descent's own sum of gains carries the rounding of its float32 costs.
        objective = squared_norm(spec, a, b, permutation)
        # A sum of bilinear assignment problems is NP-hard: each descent ends in a local optimum, the best one counts.
        if objective < result.objective:
            result.objective, best = objective, permutation
        if stop():
            break
    result.permutations = [full.identity(), {**full.identity(), **best}]
    if keep_costs or keep_scores:
        finish(result, builder, best, keep_costs=keep_costs)
    result.seconds = time.perf_counter() - begin
    return result


def without_quadratic(spec: Spec, quadratic: str) -> tuple[Spec, dict[str, str], dict[str, str]]:
    """(spec to match with, pinned groups, notes): quadratic groups pinned in a copy of the spec, or noted."""
    check_choice("quadratic", quadratic, ("linearise", "pin"))
    found = spec.quadratic()
    if quadratic == "linearise" or not found:
        return spec, dict(spec.pinned), {name: f"{reason}; steps are linearised" for name, reason in found.items()}
    spec = copy.deepcopy(spec)
    for name, reason in found.items():
        spec.pin(name, f"{reason}; it is left as it is")
    return spec, dict(spec.pinned), {}


def _shifted(progress: Progress | None, restart: int, restarts: int, sweeps: int) -> Progress | None:
    return None if progress is None else lambda done, _: progress(restart * sweeps + done, restarts * sweeps)


def finish(result: Matching, builder: CostBuilder, permutation: Permutation, *, keep_costs: bool) -> None:
    """Fill in costs and scores of the last model at its final permutation, in its original frame."""
    costs, scores, ties = {}, {}, {}
    for name in builder.groups:
        group = builder.spec.groups[name]
        full = builder.costs(name, permutation)
        if isinstance(group, HeadGroup):
            cost, index = solve(group, full).cost, group.index(permutation, "key")[:: group.key_dim] // group.key_dim
        else:
            cost, index = full.get("unit", torch.zeros(group.size, group.size)), permutation[name]
        ties[name] = tied(cost) if full else 0
        scores[name] = cost[torch.arange(len(index)), index].clone()
        if keep_costs:
            costs[name] = cost
    warn_of_ties(result.method, ties)
    result.costs = [{} for _ in result.permutations[1:]] + [costs]
    result.scores = [{} for _ in result.permutations[1:]] + [scores]


class Descent:
    """One coordinate descent over the groups of a CostBuilder; the permutation is changed in place."""

    def __init__(
        self,
        builder: CostBuilder,
        generator: torch.Generator,
        tolerance: float,
        begin: float,
        *,
        sparse: bool = True,
        on_step: OnStep | None = None,
    ) -> None:
        self.builder, self.generator, self.tolerance, self.begin = builder, generator, tolerance, begin
        self.sparse, self.on_step = sparse, on_step or (lambda group, permutation: None)
        self.trace: list[dict[str, float]] = []
        self.solves = self.sweeps = 0
        self.permutation: Permutation = {}
        self.neighbours = builder.neighbours()
        self.settling: set[str] = set()

    def start(self, given: Permutation | None, restart: int) -> Permutation:
        """Where the descent begins: `given` or outwards first, then the identity, then random elements."""
        spec, groups = self.builder.spec, self.builder.groups
        identity = spec.identity()
        if restart == 0:
            return {**identity, **given} if given is not None else self.outwards(identity)
        return identity if restart == 1 else {**identity, **spec.random(self.generator, groups)}

    def outwards(self, permutation: Permutation) -> Permutation:
        """Settle groups one by one, each from the terms whose other groups are settled; best-determined first.

        From the identity the first steps of plain coordinate descent look at neighbours in an unrelated order, which
        adds noise only; here the first steps see the inputs and outputs of the network alone.
        """
        builder = self.builder
        # Groups of one unit have nothing to decide: what touches only them is settled from the start.
        known = set(builder.spec.groups) - set(builder.groups)
        left = list(builder.groups)
        while left:
            share = {name: self._share(name, known) for name in left}
            # A group that sees little of what is settled would fix its order by chance and pass it on.
            name = max(left, key=lambda each: share[each])
            costs = builder.costs(name, permutation, known=known if share[name] > 0 else None)
            if any(len(cost) for cost in costs.values()):
                permutation.update(solve(builder.spec.groups[name], costs).permutation)
                self.solves += 1
            known.add(name)
            left.remove(name)
        return permutation

    def _share(self, group: str, known: set[str]) -> float:
        """Share of a group's columns that only settled groups touch."""
        terms = [term for spaces in self.builder.terms[group].values() for term in spaces]
        total = sum(term.columns for term in terms)
        return sum(term.columns for term in terms if term.others <= known) / max(1, total)

    def run(
        self, permutation: Permutation, max_sweeps: int, stop: Callable[[], bool], progress: Progress | None = None
    ) -> None:
        """Sweep over the groups that may improve until none does; `permutation` is updated in place.

        Large channel groups that have begun to settle move by cheap sparse assignments while those help; every group
        ends on a dense assignment that finds nothing better, so the end is the same kind of local optimum.
        """
        builder, self.permutation = self.builder, permutation
        objective = squared_norm(builder.spec, builder.a, builder.b, permutation)
        self._record(objective)
        self.on_step("", permutation)
        dirty, open_ends = set(builder.groups), set(builder.groups)
        while open_ends and self.sweeps < max_sweeps and not stop():
            # Git Re-Basin, algorithm 1: a fresh random order of layers in every sweep.
            order = torch.randperm(len(builder.groups), generator=self.generator).tolist()
            full = not dirty
            for name in (builder.groups[i] for i in order):
                if name not in (open_ends if full else dirty) or stop():
                    continue
                quick = self.sparse and not full and name in self.settling
                dirty.discard(name)
                # Only a dense assignment proves that a group has nothing to gain; a sparse one leaves it open.
                if not quick:
                    open_ends.discard(name)
                improved = self.step(name, permutation, objective, quick=quick)
                if improved:
                    # |A - pi(B)|^2 = |A|^2 + |B|^2 - 2 <A, pi(B)>: a gain in the inner product counts twice
                    objective -= 2 * improved
                    self.on_step(name, permutation)
                    # All other groups see the cost of their last solve: skipping them is exact, no approximation.
                    dirty |= self.neighbours[name]
                    open_ends |= self.neighbours[name]
                    # A late gain wakes the neighbours: back to cheap steps before the next dense pass.
                    if full:
                        break
            self.sweeps += 1
            self._record(objective)
            if progress is not None:
                progress(self.sweeps, max_sweeps)

    def _large(self, name: str) -> bool:
        group = self.builder.spec.groups[name]
        return isinstance(group, ChannelGroup) and group.size >= LARGE_GROUP

    def step(self, name: str, permutation: Permutation, objective: float, *, quick: bool = False) -> float:
        """Solve one group given the others; the gain in <A, permuted B>, or 0 when the group stays as it is."""
        group = self.builder.spec.groups[name]
        # Updates in place pile up rounding: what a closing dense step is judged by is computed afresh.
        costs = self.builder.costs(name, permutation, fresh=not quick and self._large(name))
        if not costs:
            return 0.0
        self.solves += 1
        # Algorithm 1: argmax_P <A, pi(B)> in one group with all others held, a linear assignment problem.
        new = {name: improve(costs["unit"], permutation[name])} if quick else solve(group, costs).permutation
        better, scale = gain(group, costs, new, permutation)
        if name in self.builder.quadratic:
            # The cost is a linearisation: only the exact objective says whether the step is one upwards.
            moved = {**permutation, **new}
            better = self.builder.inner(name, moved) - self.builder.inner(name, permutation)
        # A relative bound where the published code has 1e-12 absolute, on which float32 noise keeps sweeping.
        if better <= max(self.tolerance * abs(objective), ROUNDING * scale):
            return 0.0
        if self._large(name):
            share = float((new[name] != permutation[name]).float().mean())
            (self.settling.add if share < SETTLING else self.settling.discard)(name)
        permutation.update(new)
        return better

    def report(self, result: Matching, restart: int) -> None:
        """Add this descent's trace and counts to a result."""
        result.trace += [{"restart": float(restart), **row} for row in self.trace]
        result.solves += self.solves
        result.sweeps += self.sweeps

    def _record(self, objective: float) -> None:
        self.trace.append(
            {
                "sweep": float(self.sweeps),
                "objective": objective,
                "solves": float(self.solves),
                "seconds": time.perf_counter() - self.begin,
            }
        )


def check_models(spec: Spec, states: list[Mapping[str, Tensor]]) -> None:
    """Refuse fewer than two models, and models that differ in names or shapes or hold NaN.

    Raises:
        UserError: saying which model and what.
    """
    if len(states) < 2:
        raise UserError(f"{len(states)} model given: matching needs two or more")
    for number, state in enumerate(states):
        check_same(states[0], state, ("model A", f"model {chr(65 + number)}"))
        check_state(spec, state, f"model {chr(65 + number)}")
