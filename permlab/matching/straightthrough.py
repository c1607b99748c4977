"""Straight-through matching: `straight_through(spec, model, a, b, batches)` (arXiv 2209.04836).

Free weights S are matched to B by weight matching at every step; the loss is taken at the midpoint of A and the
permuted B, and its gradient is passed straight through to S. With K models every model but the first has its own S, and
the point is drawn at random in the simplex they span.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from permlab.errors import UserError, check_choice, check_range
from permlab.matching.activation import as_inputs
from permlab.matching.cost import CostBuilder
from permlab.matching.result import Matching
from permlab.matching.setting import MatchOptions, MatchSetting
from permlab.matching.weight import Descent, Progress, check_models, finish
from permlab.symmetry import Permutation, Spec, permute_tensor
from permlab.symmetry.functional import call

Loss = Callable[[nn.Module, Mapping[str, Tensor], Any], Tensor]
STARTS = ("warm", "cold")


def classification_loss(model: nn.Module, state: Mapping[str, Tensor], batch: Any) -> Tensor:
    """Cross-entropy of one (inputs, labels) batch with the tensors in `state`."""
    return functional.cross_entropy(call(model, state, as_inputs(batch)), batch[1])


def straight_through(
    spec: Spec,
    model: nn.Module,
    states: Sequence[Mapping[str, Tensor]],
    batches: Sequence[Any],
    *,
    loss: Loss = classification_loss,
    steps: int = MatchOptions.steps,
    # Git Re-Basin's settings: SGD at 1e-2 with momentum 0.9.
    rate: float = 1e-2,
    momentum: float = 0.9,
    start: str = "warm",
    random_point: bool | None = None,
    evaluate_every: int = 20,
    max_sweeps: int = 20,
    seed: int = 0,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Matching:
    """Choose permutations by the loss of the merged network instead of the distance of the weights.

    Args:
        spec, states: the symmetry and two or more state dicts; the first model stays as it is.
        model: a module of the architecture, run in eval mode; BatchNorm statistics are averaged.
        batches: batches of (inputs, labels), used in turn; all of them are used to evaluate.
        loss: (model, state, batch) -> scalar.
        steps, rate, momentum: SGD on the free weights, which start at the first model ("warm") or random ("cold").
        random_point: draw the mixture from the simplex at every step (default: with 3 or more models), not the mean.
        evaluate_every: steps between evaluations of the mean of the models on all batches; the best permutations count.
        max_sweeps: of the weight matching inside every step, which starts from the last permutation.

    Returns:
        A Matching whose `objective` is the best loss of the mean; `trace` has one row per evaluation.

    Raises:
        UserError: models that differ, no batches, or a value out of range.
    """
    _check(spec, states, batches, start, (steps, evaluate_every))
    begin = time.perf_counter()
    search = _Search(spec, model, states, loss, max_sweeps, torch.Generator().manual_seed(seed))
    search.begin(start)
    optimizer = torch.optim.SGD([each for free in search.free for each in free.values()], lr=rate, momentum=momentum)
    # With more models random points push the whole hull down; its centre alone says little about the edges.
    random_point = len(states) > 2 if random_point is None else random_point
    stop, training = should_stop or (lambda: False), model.training
    result = Matching("straight_through", [], objective=float("inf"), pinned=dict(spec.pinned))
    model.eval()
    try:
        for step in range(steps + 1):
            # pi = weight matching of B to S, at every step: the only way in which S reaches the network.
            search.match()
            if step % evaluate_every == 0 or step == steps:
                search.keep_best(result, batches, step, begin)
            if step == steps or stop():
                break
            search.descend(optimizer, batches[step % len(batches)], random_point)
            if progress is not None:
                progress(step + 1, steps)
    finally:
        model.train(training)
    search.fill(result)
    result.seconds = time.perf_counter() - begin
    return result


def _check(spec: Spec, states: Sequence[Any], batches: Sequence[Any], start: str, counts: tuple[int, int]) -> None:
    check_models(spec, list(states))
    check_choice("start", start, STARTS)
    for key, value in zip(("steps", "evaluate_every"), counts):
        check_range(key, value, 1)
    if not len(batches):
        raise UserError("straight-through matching got no data: give at least one batch of (inputs, labels)")


class _Search:
    """Free weights, one set per model but the first, and the permutations they currently give."""

    def __init__(
        self,
        spec: Spec,
        model: nn.Module,
        states: Sequence[Mapping[str, Tensor]],
        loss: Loss,
        max_sweeps: int,
        generator: torch.Generator,
    ) -> None:
        self.spec, self.model, self.states, self.loss = spec, model, states, loss
        self.max_sweeps, self.generator = max_sweeps, generator
        self.names = [name for name in spec.matched() if states[0][name].is_floating_point()]
        self.free: list[dict[str, Tensor]] = []
        self.permutations: list[Permutation] = [spec.identity() for _ in states]
        self.solves = 0

    def begin(self, start: str) -> None:
        """Set S up; the first matching settles the groups outwards."""
        for k in range(1, len(self.states)):
            free = {}
            for name in self.names:
                value = self.states[0][name].detach().clone()
                if start == "cold":
                    # A cold start keeps the size of A's weights and forgets their direction.
                    scale = float(value.double().square().mean().sqrt())
                    value = torch.randn(value.shape, generator=self.generator).to(value) * scale
                free[name] = value.requires_grad_()
            self.free.append(free)
            descent = self._descent(k)
            self.permutations[k] = descent.start(None, 0)

    def _descent(self, k: int) -> Descent:
        free = {name: tensor.detach() for name, tensor in self.free[k - 1].items()}
        return Descent(CostBuilder(self.spec, free, self.states[k]), self.generator, 1e-9, 0.0)

    def match(self) -> None:
        """Weight matching of every model to its S, from the last permutation."""
        for k in range(1, len(self.states)):
            descent = self._descent(k)
            descent.run(self.permutations[k], self.max_sweeps, lambda: False)
            self.solves += descent.solves

    def descend(self, optimizer: torch.optim.Optimizer, batch: Any, random_point: bool) -> None:
        """One gradient step of the free weights on one batch."""
        optimizer.zero_grad()
        self.loss(self.model, self.point(random_point), batch).backward()
        optimizer.step()

    def point(self, random_point: bool) -> dict[str, Tensor]:
        """The merged weights, equal in value to a mixture of permuted models, with the gradient of the mixture in S."""
        count = len(self.states)
        weights = torch.full((count,), 1 / count)
        if random_point:
            # Normalised exponentials are uniform on the simplex; normalised uniforms would crowd its centre.
            draw = -torch.rand(count, generator=self.generator).clamp_min(1e-12).log()
            weights = draw / draw.sum()
        return self._mixture(weights.tolist(), with_gradient=True)

    def _mixture(self, weights: Sequence[float], *, with_gradient: bool) -> dict[str, Tensor]:
        merged: dict[str, Tensor] = {}
        for name, first in self.states[0].items():
            if not first.is_floating_point() or name in self.spec.tied:
                if name not in self.spec.tied:
                    merged[name] = first
                continue
            total = weights[0] * first.detach()
            for k in range(1, len(self.states)):
                moved = permute_tensor(self.spec, name, self.states[k][name].detach(), self.permutations[k])
                if with_gradient and name in self.free[k - 1]:
                    free = self.free[k - 1][name]
                    # Straight-through estimator: the value is pi(B), the gradient goes to S as if pi were not there.
                    moved = moved + (free - free.detach())
                total = total + weights[k] * moved
            merged[name] = total
        return merged

    @torch.no_grad()
    def keep_best(self, result: Matching, batches: Sequence[Any], step: int, begin: float) -> None:
        """Loss of the mean of the models over all batches; remember the permutations when it is the lowest."""
        state = self._mixture([1 / len(self.states)] * len(self.states), with_gradient=False)
        # On all batches: the best loss of one batch, as published, selects luck.
        value = sum(float(self.loss(self.model, state, batch)) for batch in batches) / len(batches)
        result.trace.append(
            {
                "sweep": float(step),
                "objective": value,
                "solves": float(self.solves),
                "seconds": time.perf_counter() - begin,
            }
        )
        if value < result.objective:
            result.objective = value
            result.permutations = [dict(permutation) for permutation in self.permutations]
        result.sweeps, result.solves = step, self.solves

    def fill(self, result: Matching) -> None:
        """Cost matrices of the chosen permutations, against the first model's weights."""
        result.costs, result.scores = [{}], [{}]
        for k in range(1, len(self.states)):
            one = Matching("weight", [{}, result.permutations[k]])
            # Scored against A, not S: partial merging averages A's units with B's.
            builder = CostBuilder(self.spec, self.states[0], self.states[k])
            finish(one, builder, result.permutations[k], keep_costs=True)
            result.costs.append(one.costs[-1])
            result.scores.append(one.scores[-1])


def match_straight_through(
    spec: Spec, model: nn.Module | None, states: Sequence[Mapping[str, Tensor]], setting: MatchSetting
) -> Matching:
    """`straight_through` as a row of `MATCHES`."""
    if model is None:
        raise UserError("straight-through matching runs the networks, which takes a module of their architecture")
    return straight_through(
        spec,
        model,
        states,
        setting.batches,
        steps=setting.steps,
        seed=setting.seed,
        progress=setting.progress,
        should_stop=setting.should_stop,
    )
