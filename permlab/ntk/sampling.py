"""Ensembles drawn from the Gaussian process: `stopping_times(30, 2, 0.9, replicates=100)` gives 100 times "first N".

A replicate plays one published run: networks are added one by one and averaged, and the first N at which the accuracy
over a test set reaches the target is its stopping time. The outputs of one network at all test inputs share its
random weights, so each of the k coordinates is an independent Gaussian vector over the test inputs with the
covariance of `process`, and the sum over networks is a Gaussian random walk. For inputs with two ones the covariance
depends on the overlap only, and a sample is

    sqrt(c0) xi + sqrt(c1 - c0) (eta_i + eta_j) + sqrt(c2 - 2 c1 + c0) eps_ij        (c_o: covariance at overlap o),

which needs no matrix. Other test sets use a factor of the covariance matrix.

The walk is exact at every N it visits. With many test inputs it visits a coarse grid first and fills in, by Gaussian
bridges, only the intervals from whose ends the target is in reach (`REACH` below); the tests compare the result with
the dense walk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from permlab.errors import UserError, check_range
from permlab.ntk.inputs import draw_test_set, same_inputs
from permlab.ntk.kernels import first_layer_weight
from permlab.ntk.law import ensemble_size, posterior
from permlab.ntk.process import pair_covariance, posterior_covariance
from permlab.ntk.table import TESTS

DENSE_BELOW = 60
"""Test sets with fewer distinct inputs are walked at every N: their accuracy moves in steps too coarse for a margin."""
COARSE = 12
"""Coarse intervals up to the law's ensemble size."""
HEAD_START = 5
"""Coarse intervals joined into the first one; like every other it is filled in when its end is in reach."""
REACH = (0.08, 0.04)
"""An interval is filled in when the accuracy at an end is within this margin of the target (coarse, fine level)."""
REFINE = 4
"""Subintervals of an interval that is filled in."""

Progress = Callable[[int, int], None]


class OutputProcess:
    """Sums of independent networks' outputs at fixed inputs, for all k coordinates of several replicates.

    Inputs with a single 1 are training points: their outputs are right by construction and they are left out (`kept`).
    """

    def __init__(self, inputs: np.ndarray, parameterization: str | float, generator: torch.Generator) -> None:
        weight = first_layer_weight(parameterization)
        ones = inputs.sum(axis=1)
        self.kept = torch.from_numpy(ones > 1)
        inputs, ones = inputs[ones > 1], ones[ones > 1]
        self.k = inputs.shape[1]
        self.generator = generator
        self.on = torch.from_numpy(inputs.T.copy())
        law = posterior(self.k, ones, weight)
        self.drift = torch.from_numpy(np.where(inputs.T, law.mean_on, law.mean_off)).float()
        self._pairs = self._pair_deviations(inputs, weight) if len(inputs) and (ones == 2).all() else None
        if self._pairs is None:
            values, vectors = np.linalg.eigh(posterior_covariance(inputs, weight))
            # Near-parallel inputs make the covariance singular; negative eigenvalues are round-off and have no root.
            used = values > 1e-10 * values.max(initial=0.0)
            self._factor = torch.from_numpy((vectors[:, used] * np.sqrt(values[used])).T).float()

    def _pair_deviations(self, inputs: np.ndarray, weight: float) -> tuple[float, torch.Tensor, float] | None:
        """Standard deviations of the shared, per-position and per-input parts at m = 2; None if one is not real."""
        c0, c1, c2 = pair_covariance(self.k, 2, 2, [0, 1, 2], weight)
        # Pairs with so little overlap do not exist at k = 2 and 3: their covariances must not veto the decomposition.
        if self.k == 2:
            c0 = c1 = 0.0
        elif self.k == 3:
            c0 = 0.0 if c1 >= 0 else c0
        if min(c0, c1 - c0, c2 - 2 * c1 + c0) < 0:
            return None
        positions = torch.from_numpy(inputs.T.copy()).float() * math.sqrt(c1 - c0)
        return math.sqrt(c0), positions, math.sqrt(c2 - 2 * c1 + c0)

    def draw(self, replicates: int, networks: float) -> torch.Tensor:
        """Centred sum over `networks` networks (real: a time of the walk), float32 (replicates, k, count)."""
        count = self.on.shape[1]
        scale = math.sqrt(networks)
        if self._pairs is None:
            normal = self._normal(replicates, self.k, len(self._factor))
            return (normal @ self._factor).mul_(scale)
        shared, positions, own = self._pairs
        sample = self._normal(replicates, self.k, count).mul_(own * scale)
        common = self._normal(replicates, self.k, 1).mul_(shared * scale)
        # One effect per position, shared by all inputs with a one there: it correlates inputs that overlap.
        by_position = self._normal(replicates * self.k, self.k).mul_(scale)
        sample.view(-1, count).addmm_(by_position, positions)
        return sample.add_(common)

    def _normal(self, *shape: int) -> torch.Tensor:
        return torch.empty(shape).normal_(generator=self.generator)

    def right(self, total: torch.Tensor, networks: int) -> torch.Tensor:
        """Which test inputs have all k rounded outputs right, bool (replicates, count): centred sum + N * mean > 0."""
        return ((total > self.drift * -float(networks)) == self.on).all(dim=1)


def _accuracy(process: OutputProcess, total: torch.Tensor, networks: int, weights: torch.Tensor) -> torch.Tensor:
    right = process.right(total, networks)
    # Inputs with a single one are training points, right by construction: they count without being drawn.
    trained = weights[:, ~process.kept].sum(dim=1)
    return (right * weights[:, process.kept]).sum(dim=1) + trained


@dataclass
class _Walk:
    """A batch of replicates on its way: sums at time `now`, accuracy there, and who still runs."""

    process: OutputProcess
    weights: torch.Tensor
    target: float
    stops: torch.Tensor
    cap: int

    def run(self, stride: int) -> None:
        """Walk on a grid of `stride` until every replicate has reached the target (or the cap: its stop stays 0)."""
        alive = torch.arange(len(self.weights))
        total = torch.zeros(len(alive), *self.process.drift.shape)
        accuracy = torch.zeros(len(alive))
        now = 0
        while len(alive) and now < self.cap:
            following = now + (stride if now or stride == 1 else HEAD_START * stride)
            reached = self.process.draw(len(alive), following - now).add_(total)
            next_accuracy = _accuracy(self.process, reached, following, self.weights[alive])
            if stride > 1:
                self._fill(now, following, (total, accuracy), (reached, next_accuracy), alive, 0)
            done = (next_accuracy >= self.goal) & (self.stops[alive] == 0)
            self.stops[alive[done]] = following
            running = self.stops[alive] == 0
            alive, total, accuracy, now = alive[running], reached[running], next_accuracy[running], following

    @property
    def goal(self) -> float:
        # Weights are float32 multiples of 1/tests: 0.9 of 1,000 tests must count as reached at 900 right answers.
        return self.target - 1e-6

    def _fill(
        self,
        start: int,
        end: int,
        left: tuple[torch.Tensor, torch.Tensor],
        right: tuple[torch.Tensor, torch.Tensor],
        ids: torch.Tensor,
        level: int,
    ) -> None:
        """Visit points strictly inside (start, end) for replicates in reach of the target; record the first hits."""
        margin = REACH[min(level, len(REACH) - 1)]
        # A first hit may hide between two ends that both miss the target, hence the margin; far below it none does.
        near = torch.maximum(left[1], right[1]) >= self.goal - margin
        ids, total, final = ids[near], left[0][near], right[0][near]
        accuracy, last = left[1][near], right[1][near]
        step = max(1, (end - start) // REFINE)
        now = start
        while len(ids) and now < end:
            following = min(now + step, end)
            if following == end:
                reached, next_accuracy = final, last
            else:
                # Gaussian bridge: given both ends, the middle is normal around the chord with this variance.
                share = (following - now) / (end - now)
                spread = (following - now) * (end - following) / (end - now)
                reached = torch.lerp(total, final, share).add_(self.process.draw(len(ids), spread))
                next_accuracy = _accuracy(self.process, reached, following, self.weights[ids])
            if following - now > 1:
                self._fill(now, following, (total, accuracy), (reached, next_accuracy), ids, level + 1)
            # The finer level has been searched already: a stop found there is earlier and stands.
            hit = (next_accuracy >= self.goal) & (self.stops[ids] == 0)
            self.stops[ids[hit]] = following
            rest = self.stops[ids] == 0
            ids, total, final = ids[rest], reached[rest], final[rest]
            accuracy, last, now = next_accuracy[rest], last[rest], following


def stopping_times(
    k: int,
    ones: int,
    target: float,
    parameterization: str | float = "standard",
    *,
    test: str = "random",
    tests: int = 1_000,
    replicates: int = 200,
    seed: int = 0,
    dense: bool = False,
    progress: Progress | None = None,
) -> np.ndarray:
    """First N at which the accuracy over a test set reaches the target, once per replicate.

    Args:
        k: input size, at least 2.
        ones: number of ones of the test inputs (`single` and `random`).
        target: accuracy to reach. For `all` the run stops when every one of the 2^k - 1 inputs is right.
        parameterization: as in `law.posterior`.
        test: `single`, `random` or `all` (see `inputs.draw_test_set`).
        tests: draws of a `random` test set; a fresh set for every replicate (for every batch of
            them above `inputs.WHOLE_CLASS` inputs).
        replicates: number of simulated runs.
        seed: with k and ones, fixes every draw.
        dense: visit every N, also where the coarse grid would do.
        progress: called with (replicates done, replicates).

    Returns:
        int64 (replicates,), sorted.

    Raises:
        UserError: bad sizes, or a run that passes 100 times the law's ensemble size without reaching the target.
    """
    check_range("target", target, 0.0, 1.0, open_interval=True)
    every = TESTS.check("test", test).every
    goal = 1.0 if every else target
    # Sets only stride and cap; inputs with two ones are the hard ones at the sizes that can be enumerated.
    expected = int(ensemble_size(k, 2 if every else ones, target, parameterization))
    rng = np.random.default_rng([seed, k, ones])
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    found: list[torch.Tensor] = []
    process: OutputProcess | None = None
    for first, size in _batches(k, replicates):
        test_set = draw_test_set(k, ones, test, tests, size, rng)
        if process is None or len(test_set.inputs) != process.kept.numel() or not same_inputs(k, ones, test):
            process = OutputProcess(test_set.inputs, parameterization, generator)
        stride = 1 if dense or len(test_set.inputs) < DENSE_BELOW else max(1, expected // COARSE)
        walk = _Walk(process, test_set.weights, goal, torch.zeros(size, dtype=torch.int64), cap=100 * expected + 1000)
        walk.run(stride)
        if (walk.stops == 0).any():
            raise UserError(
                f"a sampled run at k={k} passed {walk.cap} networks below target={target}: lower the target"
            )
        found.append(walk.stops)
        if progress is not None:
            progress(first + size, replicates)
    return np.sort(torch.cat(found).numpy())


def _batches(k: int, replicates: int) -> list[tuple[int, int]]:
    """(first, size) of the batches of replicates: at most 16, fewer when k is large (memory)."""
    size = max(1, min(16, 16_000 // k))
    return [(first, min(size, replicates - first)) for first in range(0, replicates, size)]


def accuracy_curves(
    k: int,
    ones: int,
    networks: Sequence[int],
    parameterization: str | float = "standard",
    *,
    test: str = "random",
    tests: int = 1_000,
    replicates: int = 200,
    seed: int = 0,
    progress: Progress | None = None,
) -> np.ndarray:
    """Accuracy over the test set after each number of networks, float64 (replicates, len(networks)).

    Arguments as in `stopping_times`; `networks` must be increasing and positive.

    Raises:
        UserError: bad sizes, or `networks` not increasing from at least 1.
    """
    steps = np.diff(np.concatenate([[0], np.asarray(networks, dtype=np.int64)]))
    if not len(steps) or not (steps > 0).all():
        raise UserError(f"networks={list(networks)} must be increasing numbers of at least 1")
    rng = np.random.default_rng([seed, k, ones])
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    curves = np.zeros((replicates, len(steps)))
    for first, size in _batches(k, replicates):
        test_set = draw_test_set(k, ones, test, tests, size, rng)
        process = OutputProcess(test_set.inputs, parameterization, generator)
        total = torch.zeros(size, *process.drift.shape)
        for column, (step, now) in enumerate(zip(steps, networks)):
            # Sums of independent networks are a random walk: n further networks are one draw of n times the variance.
            total += process.draw(size, float(step))
            curves[first : first + size, column] = _accuracy(process, total, int(now), test_set.weights).numpy()
        if progress is not None:
            progress(first + size, replicates)
    return curves
