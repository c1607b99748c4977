"""Loss barriers on the line between two networks: `barrier_curve(model, a, b, batches, points=25).loss_barrier`.

The barrier at a position is the loss there minus the same mixture of the endpoints' losses (arXiv 2209.04836); for
accuracy the sign is turned. It keeps its sign: a merged network better than both ends has a negative one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from permlab.errors import UserError, check_range
from permlab.matching import Matching
from permlab.matching.weight import Progress
from permlab.merging.measure.evaluate import (
    Score,
    Scorer,
    classification_score,
    eval_mode,
    evaluate,
    labels_of,
    logits_of,
    score_logits,
    temperature,
)
from permlab.merging.methods.average import align, average, interpolate
from permlab.merging.methods.repair import reset_batchnorm
from permlab.merging.networks.states import State
from permlab.symmetry import Spec


@dataclass(frozen=True)
class Curve:
    """Scores at `positions` (0 is A, 1 is B), which start with 0 and end with 1."""

    positions: list[float]
    loss: list[float]
    accuracy: list[float]

    def excess(self, values: Sequence[float]) -> list[float]:
        """Values minus the straight line between the first and the last."""
        return [value - (values[0] + at * (values[-1] - values[0])) for at, value in zip(self.positions, values)]

    @property
    def loss_barrier(self) -> float:
        """Largest excess loss between the ends (nats)."""
        # Both ends have excess 0 by definition and would hide a negative barrier.
        return max(self.excess(self.loss)[1:-1])

    @property
    def accuracy_barrier(self) -> float:
        """Largest loss of accuracy between the ends (0 to 1)."""
        return max(-value for value in self.excess(self.accuracy)[1:-1])

    def _middle(self) -> int:
        if 0.5 not in self.positions:
            raise UserError(f"the curve has {len(self.positions)} points and none in the middle: use an odd number")
        return self.positions.index(0.5)

    @property
    def midpoint_loss(self) -> float:
        """Loss of the average."""
        return self.loss[self._middle()]

    @property
    def midpoint_accuracy(self) -> float:
        """Accuracy of the average."""
        return self.accuracy[self._middle()]

    @property
    def midpoint_barrier(self) -> float:
        """Excess loss of the average."""
        return self.excess(self.loss)[self._middle()]


def positions_of(points: int | Sequence[float]) -> list[float]:
    """`points` equally spaced positions from 0 to 1, or the given ones checked.

    Raises:
        UserError: fewer than three, or not ascending from 0 to 1.
    """
    if isinstance(points, int):
        check_range("points", points, 3)
        return [number / (points - 1) for number in range(points)]
    values = [float(point) for point in points]
    if len(values) < 3 or values[0] != 0 or values[-1] != 1 or sorted(set(values)) != values:
        raise UserError(f"points={values}: positions must ascend from 0 to 1, with one in between at least")
    return values


def barrier_curves(
    model: nn.Module,
    a: State,
    b: State,
    sets: Mapping[str, Sequence[Any]],
    *,
    points: int | Sequence[float] = 11,
    scorer: Scorer = classification_score,
    reset: Sequence[Any] | None = None,
    renormalise: Callable[[dict[str, Tensor], float], State] | None = None,
    calibrate: Sequence[Any] | None = None,
    ends: Mapping[str, tuple[Score, Score]] | None = None,
    progress: Progress | None = None,
) -> dict[str, Curve]:
    """Loss and accuracy along the line from A to B, on several data sets at once.

    Args:
        model: a module of the architecture.
        a, b: state dicts in a common order of units.
        sets: name -> cached batches, e.g. {"train": ..., "test": ...}.
        points: number of positions, or the positions.
        scorer: what is measured.
        reset: training batches; BatchNorm statistics are measured again at every position between the ends, once for
            all sets.
        renormalise: (state, position) -> state, called at every position between the ends (REPAIR, for instance).
        calibrate: batches of (inputs, labels); at every position, ends included, the logits are divided by the
            temperature that suits these batches best. Not the test set.
        ends: scores of the two ends where they are known already.

    Returns:
        Name of the set -> Curve.

    Raises:
        UserError: bad positions, or empty batches.
    """
    positions = positions_of(points)
    scores: dict[str, list[Score]] = {name: [] for name in sets}
    for done, position in enumerate(positions):
        end = position in (0.0, 1.0)
        state: State = interpolate(a, b, position)
        if reset is not None and not end:
            # Statistics of an average are no average of statistics; the ends keep those they were trained with.
            state = reset_batchnorm(model, state, reset)
        if renormalise is not None and not end:
            state = renormalise(dict(state), position)
        # Ends included (arXiv 2510.08023 calibrates): else a barrier could fall by better confidence alone.
        heat = temperature(logits_of(model, state, calibrate), labels_of(calibrate)) if calibrate is not None else None
        for name, batches in sets.items():
            if end and ends is not None and name in ends and heat is None:
                score = ends[name][int(position)]
            elif heat is not None:
                score = score_logits(logits_of(model, state, batches) / heat, labels_of(batches))
            else:
                score = evaluate(model, state, batches, scorer)
            scores[name].append(score)
        if progress is not None:
            progress(done + 1, len(positions))
    return {
        name: Curve(positions, [score.loss for score in each], [score.accuracy for score in each])
        for name, each in scores.items()
    }


def barrier_curve(model: nn.Module, a: State, b: State, batches: Sequence[Any], **options: Any) -> Curve:
    """`barrier_curves` on one data set; the options are the same."""
    return barrier_curves(model, a, b, {"data": batches}, **options)["data"]


@dataclass(frozen=True)
class Taylor:
    """Second-order estimate of the midpoint barrier and its parts, beside the true one (nats)."""

    first: float
    second: float
    barrier: float

    @property
    def estimate(self) -> float:
        """First- plus second-order part."""
        return self.first + self.second


def taylor_estimate(
    model: nn.Module,
    a: State,
    b: State,
    batches: Sequence[Any],
    *,
    scorer: Scorer = classification_score,
) -> Taylor:
    """Estimate the barrier at the midpoint from both ends (arXiv 2402.04051, table 1).

    With mu = B - A, gradients g and Hessians H at the ends: (g_A - g_B) . mu / 4 + mu' (H_A + H_B) mu / 16, exact for a
    quadratic loss. The Hessian-vector product is taken as the second derivative along the line, exact and free of any
    Hessian. BatchNorm runs in eval mode, and its statistics move along the line with the weights, as they do in a
    barrier curve without reset.
    """
    # (g_A - g_B) . mu / 4 + mu' (H_A + H_B) mu / 16, from derivatives along the line (arXiv 2402.04051, table 1)
    slopes, curvatures = zip(*(_along(model, a, b, float(end), batches, scorer) for end in (0, 1)))
    ends = [evaluate(model, state, batches, scorer).loss for state in (a, b)]
    middle = evaluate(model, interpolate(a, b, 0.5), batches, scorer).loss
    return Taylor((slopes[0] - slopes[1]) / 4, sum(curvatures) / 16, middle - sum(ends) / 2)


class _PlainBatchNorm(TorchFunctionMode):
    """Inside this context BatchNorm in eval mode is a plain formula, differentiable in its running statistics."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace torch.nn.functional.batch_norm where it uses running statistics."""
        if func is not functional.batch_norm:
            return func(*args, **(kwargs or {}))
        given = inspect.signature(func).bind(*args, **(kwargs or {}))
        given.apply_defaults()
        x, mean, variance, weight, bias, training, _, eps = given.arguments.values()
        if training:
            return func(*args, **(kwargs or {}))
        shape = [1, -1] + [1] * (x.dim() - 2)
        x = (x - mean.view(shape)) * (variance + eps).rsqrt().view(shape)
        x = x if weight is None else x * weight.view(shape)
        return x if bias is None else x + bias.view(shape)


def _along(
    model: nn.Module, a: State, b: State, position: float, batches: Sequence[Any], scorer: Scorer
) -> tuple[float, float]:
    """First and second derivative of the mean loss in the position on the line from A to B."""
    slope, curvature, count = 0.0, 0.0, 0
    # Fused attention has no second derivative; the plain formula has.
    with eval_mode(model), sdpa_kernel(SDPBackend.MATH), _PlainBatchNorm():
        for batch in batches:
            at = torch.tensor(position, dtype=torch.float64, requires_grad=True)
            state = {
                name: value.detach() + at.to(value) * (b[name] - value).detach() if value.is_floating_point() else value
                for name, value in a.items()
            }
            loss, _, samples = scorer(model, state, batch)
            # d/dt L(A + t mu) = g . mu, and once more mu' H mu: no Hessian is formed.
            (first,) = torch.autograd.grad(loss, at, create_graph=True)
            # A loss that is linear along the line has a slope that does not depend on the position.
            second = torch.autograd.grad(first, at, allow_unused=True)[0] if first.requires_grad else None
            slope, count = slope + float(first.detach()), count + samples
            curvature += 0.0 if second is None else float(second)
    return slope / count, curvature / count


Matcher = Callable[[Spec, State, State], Matching]


def three_models(
    spec: Spec,
    model: nn.Module,
    states: Sequence[State],
    batches: Sequence[Any],
    match: Matcher,
    *,
    match_all: Callable[[Spec, Sequence[State]], Matching] | None = None,
    points: int | Sequence[float] = 3,
    reset: Sequence[Any] | None = None,
    scorer: Scorer = classification_score,
) -> list[dict[str, float | str]]:
    """Are B and C connected once each is matched to A? (arXiv 2402.04051, table 3.)

    Args:
        states: the three networks A, B, C as trained.
        match: two-model matching: (spec, first, second) -> Matching of the second to the first.
        match_all: K-model matching, for one more row.
        points, reset, scorer: as in `barrier_curves`.

    Returns:
        Rows with pair ("a-b", "a-c", "b-c"), arm ("naive", "anchor": both matched to A, "direct": C matched to B,
        "all": `match_all`), loss_barrier, accuracy_barrier; and a row "a-b-c" with the loss and accuracy of the mean of
        all three for the arms that give one order.

    Raises:
        UserError: not three models.
    """
    if len(states) != 3:
        raise UserError(f"{len(states)} models given: this analysis needs three")
    first, second, third = states
    # pi_b(B) and pi_c(C) are each found against A alone: nothing has pulled them towards each other.
    anchored = [first, *(align(spec, [first, other], match(spec, first, other))[1] for other in (second, third))]
    arms: list[tuple[str, Sequence[State]]] = [("naive", states), ("anchor", anchored)]
    if match_all is not None:
        arms.append(("all", align(spec, states, match_all(spec, states))))
    options = {"points": points, "reset": reset, "scorer": scorer}
    rows: list[dict[str, float | str]] = []

    def add(pair: str, arm: str, one: State, other: State) -> None:
        curve = barrier_curve(model, one, other, batches, **options)
        rows.append(
            {"pair": pair, "arm": arm, "loss_barrier": curve.loss_barrier, "accuracy_barrier": curve.accuracy_barrier}
        )

    for arm, (x, y, z) in arms:
        for pair, one, other in (("a-b", x, y), ("a-c", x, z), ("b-c", y, z)):
            add(pair, arm, one, other)
        mean = average([x, y, z], tied=spec.tied)
        score = evaluate(model, mean if reset is None else reset_batchnorm(model, mean, reset), batches, scorer)
        rows.append({"pair": "a-b-c", "arm": arm, "loss": score.loss, "accuracy": score.accuracy})
    # The control of the anchor: what matching B and C themselves would have reached.
    add("b-c", "direct", second, align(spec, [second, third], match(spec, second, third))[1])
    return rows
