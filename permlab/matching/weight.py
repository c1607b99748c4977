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
from permlab.matching.assign import gain, solve, tied, warn_of_ties
from permlab.matching.cost import CostBuilder
from permlab.matching.distance import squared_norm
from permlab.matching.memory import Memory
from permlab.matching.prices import Prices
from permlab.matching.result import Matching
from permlab.matching.setting import MatchOptions
from permlab.symmetry import ChannelGroup, HeadGroup, Permutation, Spec, check_same, check_state

ROUNDING = 3e-6
"""Relative error granted to entries of a float32 cost matrix; smaller gains are noise, not progress."""

LARGE_GROUP = 384
"""Groups of this many channels are assigned with prices kept from step to step."""

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
        tolerance: smallest gain that counts, relative to the squared norms of both models.
        seed: of the order of groups and of random starts.
        quadratic: what to do with a group on two axes of one tensor, a quadratic assignment problem: "linearise" solves
            the linearised one and accepts only steps that lower the true distance; "pin" leaves the group as it is.
        keep_costs: keep the final cost matrix of every group (n x n each).
        keep_scores: keep how well each slot is matched; without costs and scores the final matrices are not computed
            again, and units that look alike are not looked for.
        memory: what may be held beside the networks, and where products are taken (default: as much as a model).
        sparse: large groups move by sparse assignments, nearly optimal, before dense ones confirm the end. Without,
            every step is the optimal assignment of one group as in algorithm 1.
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
        objective = squared_norm(spec, a, b, permutation)
        descent.report(result, restart, objective)
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
        self.gained = 0.0
        self.permutation: Permutation = {}
        self.neighbours = builder.neighbours()
        self.prices = Prices()
        # What has to be looked at again; what no optimal assignment has closed yet.
        self.dirty, self.open = set(builder.groups), set(builder.groups)

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
                seen = all(term.others <= known for terms in builder.terms[name].values() for term in terms)
                permutation.update(self._solved(name, costs, permutation, quick=self.sparse and not seen))
                self.solves += 1
                if seen and name not in builder.quadratic:
                    # All its neighbours were settled before: until one of them moves it has nothing to gain.
                    self.dirty.discard(name)
                    self.open.discard(name)
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

        Large channel groups move by cheap sparse assignments while those help; every group ends on a dense assignment
        that finds nothing better, so the end is the same kind of local optimum.
        """
        builder, self.permutation = self.builder, permutation
        self._record()
        self.on_step("", permutation)
        while self.open and self.sweeps < max_sweeps and not stop():
            # Git Re-Basin, algorithm 1: a fresh random order of layers in every sweep.
            order = torch.randperm(len(builder.groups), generator=self.generator).tolist()
            full = not self.dirty
            for name in (builder.groups[i] for i in order):
                if name not in (self.open if full else self.dirty) or stop():
                    continue
                quick = self.sparse and not full and self._large(name)
                self.dirty.discard(name)
                # Only a dense assignment proves that a group has nothing to gain; a sparse one leaves it open.
                if not quick:
                    self.open.discard(name)
                if self.step(name, permutation, quick=quick):
                    self.on_step(name, permutation)
                    # All other groups see the cost of their last solve: skipping them is exact, no approximation.
                    self.dirty |= self.neighbours[name]
                    self.open |= self.neighbours[name]
                    # A late gain wakes the neighbours: back to cheap steps before the next dense pass.
                    if full:
                        break
            self.sweeps += 1
            self._record()
            if progress is not None:
                progress(self.sweeps, max_sweeps)

    def _large(self, name: str) -> bool:
        group = self.builder.spec.groups[name]
        return isinstance(group, ChannelGroup) and group.size >= LARGE_GROUP

    def _solved(self, name: str, costs: dict[str, Tensor], permutation: Permutation, *, quick: bool) -> Permutation:
        """Algorithm 1: argmax_P <A, pi(B)> in one group with all others held, a linear assignment problem."""
        if self._large(name):
            return {name: self.prices.assign(name, costs["unit"], permutation[name], quick=quick)}
        return solve(self.builder.spec.groups[name], costs).permutation

    def step(self, name: str, permutation: Permutation, *, quick: bool = False) -> float:
        """Solve one group given the others; the gain in <A, permuted B>, or 0 when the group stays as it is."""
        group = self.builder.spec.groups[name]
        costs = self.builder.costs(name, permutation)
        if not costs:
            return 0.0
        self.solves += 1
        new = self._solved(name, costs, permutation, quick=quick)
        better, scale = gain(group, costs, new, permutation)
        if name in self.builder.quadratic:
            # The cost is a linearisation: only the exact objective says whether the step is one upwards.
            moved = {**permutation, **new}
            better = self.builder.inner(name, moved) - self.builder.inner(name, permutation)
        # A relative bound where the published code has 1e-12 absolute, on which float32 noise keeps sweeping.
        if better <= max(self.tolerance * self.builder.norm, ROUNDING * scale):
            return 0.0
        self.gained += better
        permutation.update(new)
        return better

    def report(self, result: Matching, restart: int, objective: float) -> None:
        """Add this descent's trace and counts to a result.

        Args:
            result: what is added to.
            restart: number of the descent.
            objective: squared distance at its end, in float64: the sum of gains carries the rounding of float32 costs.
        """
        for row in self.trace:
            # |A - pi(B)|^2 = |A|^2 + |B|^2 - 2 <A, pi(B)>: a gain in the inner product counts twice
            distance = objective + 2 * (self.gained - row["objective"])
            result.trace.append({"restart": float(restart), **row, "objective": distance})
        result.solves += self.solves
        result.sweeps += self.sweeps

    def _record(self) -> None:
        self.trace.append(
            {
                "sweep": float(self.sweeps),
                "objective": self.gained,
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
