"""What a stream of trained networks says about the law: `EnsembleStatistics(problem, weights, 0.9, block=58)`.

Networks arrive in chunks of outputs (members, tests, k), in the order of their index, and leave three independent
readings behind; nothing that grows with the number of networks is kept except the stopping times.

* stopping times: networks are averaged one by one; when the accuracy over the test set reaches the target the count
  is recorded and the average starts again, so n networks give about n / N independent runs of the published
  experiment;
* success: after every `block` networks the average is tested and starts again; the mean accuracy estimates the law's
  success probability at N = block, and its spread over blocks gives the standard error;
* moments: mean and variance of the on and off outputs, from which the law's expression gives an ensemble size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from permlab.ntk.finite import Problem
from permlab.ntk.law import size_from_signal
from permlab.tables import spread

PATH = 2
"""Blocks of networks over which the accuracy after every further network is kept."""


@dataclass(frozen=True)
class Moments:
    """Output moments of single networks, pooled over test inputs and coordinates."""

    mean_on: float
    mean_off: float
    """NaN when every bit of every input is one."""
    variance: float
    """Variance over networks, the mean over inputs and coordinates."""


@dataclass
class EnsembleStatistics:
    """Streaming statistics of trained networks on one problem.

    Raises (from `update`): nothing; outputs that are not finite count as wrong.
    """

    problem: Problem
    weights: torch.Tensor
    """float (tests,): share of the test draws that fall on each distinct input; sums to 1."""
    target: float
    """Accuracy that ends a run."""
    block: int
    """Networks averaged for each success reading."""
    seen: int = 0
    """Networks so far."""
    stops: list[int] = field(default_factory=list)
    """Stopping times so far."""
    accuracies: list[float] = field(default_factory=list)
    """Accuracy of every finished block."""
    path: list[float] = field(default_factory=list)
    """Accuracy of the average of the first 1, 2, ... networks, up to `PATH` blocks of them: one published curve."""

    def __post_init__(self) -> None:
        self.right = torch.from_numpy(self.problem.answers)
        self.weights = self.weights.double()
        zeros = torch.zeros(self.right.shape, dtype=torch.float64)
        self.total, self.squares, self.running, self.in_block = (zeros.clone() for _ in range(4))
        self.running_count = 0
        self.off_sum = self.off_squares = 0.0

    def update(self, outputs: torch.Tensor) -> None:
        """Add the outputs (members, tests, k) of the next members, in float64."""
        for network in outputs:
            self.seen += 1
            self.total += network
            self.squares += network * network
            self.running += network
            self.in_block += network
            self.running_count += 1
            # One number per network: its outputs share their weights, so only other networks are independent readings.
            off = float(network[~self.right].mean()) if not self.right.all() else 0.0
            self.off_sum += off
            self.off_squares += off * off
            # Weights of the tests are sums of floats: 900 right of 1,000 must count as 0.9.
            if self._accuracy(self.running) >= self.target - 1e-9:
                self.stops.append(self.running_count)
                self.running.zero_()
                self.running_count = 0
            if self.seen <= PATH * self.block:
                self.path.append(self._accuracy(self.total))
            if self.seen % self.block == 0:
                self.accuracies.append(self._accuracy(self.in_block))
                self.in_block.zero_()

    def _accuracy(self, total: torch.Tensor) -> float:
        # A sum has the sign of the average, which is all that the rounding "> 0" of 2502.16763 looks at.
        return float((((total > 0) == self.right).all(dim=1) * self.weights).sum())

    def moments(self) -> Moments:
        """Pooled moments of the networks seen so far (at least 2)."""
        mean = self.total / self.seen
        # n / (n - 1), because the mean is that of the same networks; the law states the variance over all of them.
        variance = (self.squares / self.seen - mean * mean).clamp_min(0.0) * self.seen / (self.seen - 1)
        return Moments(float(mean[self.right].mean()), float(mean[~self.right].mean()), float(variance.mean()))

    def ensemble_size(self, ones: int) -> int | None:
        """Size for the target from the measured moments by the law's expression; None if a mean has the wrong sign."""
        moments = self.moments()
        on, off = moments.mean_on, -moments.mean_off
        all_on = self.problem.inputs.shape[1] == ones
        if on <= 0 or (not all_on and not off > 0):
            return None
        sd = math.sqrt(max(moments.variance, 1e-300))
        return int(
            size_from_signal(self.problem.inputs.shape[1], ones, on / sd, 1.0 if all_on else off / sd, self.target)
        )

    def ensemble_size_error(self, size: float) -> float:
        """Standard error of `ensemble_size`, by the delta method: N goes like 1 / mean_off^2, whose noise dominates.

        The mean over inputs and outputs of one network's off coordinates is one independent reading per network.
        """
        mean = self.off_sum / self.seen
        spread = math.sqrt(max(self.off_squares / self.seen - mean * mean, 0.0) / (self.seen - 1))
        return size * 2.0 * spread / abs(mean) if mean else math.nan

    def success(self) -> tuple[float, float]:
        """(mean, standard error) of the accuracy over finished blocks; NaN where there are too few."""
        found = spread(self.accuracies)
        if found is None:
            return math.nan, math.nan
        return found.mean, math.nan if found.deviation is None else found.deviation / math.sqrt(found.count)

    def state(self) -> dict[str, Any]:
        """Everything `restore` needs, in tensors, numbers and lists."""
        return {
            "seen": self.seen,
            "stops": list(self.stops),
            "accuracies": list(self.accuracies),
            "path": list(self.path),
            "running_count": self.running_count,
            "off": [self.off_sum, self.off_squares],
            "sums": torch.stack([self.total, self.squares, self.running, self.in_block]),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state` of statistics on the same problem."""
        self.seen, self.running_count = int(state["seen"]), int(state["running_count"])
        self.off_sum, self.off_squares = state["off"]
        self.stops, self.accuracies = list(state["stops"]), list(state["accuracies"])
        self.path = list(state["path"])
        self.total, self.squares, self.running, self.in_block = (part.clone() for part in state["sums"])
