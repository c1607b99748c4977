"""Beyond permutations: `MapLaw(20, 10).ensemble_size([1] * 10 + [0] * 10, [2] * 20, 0.9)`; other targets and networks.

Everything in `law` rests on two facts: the training inputs are orthonormal, and a network's kernels are functions of
the cosine. Neither asks that targets are a permutation, that there are no biases, or that there is one hidden layer.

Targets. Let Y (k, q) be any 0/1 matrix, row i the target of e_i, and x a test input with the ones S, |S| = m. With A
= (d/a) u + g 1 of `law`, output j is Gaussian with mean A^T Y_j = (d/a) c_j + g h_j, where c_j = how many of the
matched inputs want a 1 there and h_j = how many of all k do, and its variance is that of `law`, whatever Y is.
Rounding gives 1 when the mean is positive, so averaging can learn "at least one matched input says 1" (OR), and
nothing else: g < 0 from m = 2 on, so that

    an output with c_j = 0 goes to 0 if h_j > 0, and is a coin toss for ever if h_j = 0 (no network ever saw a 1 there),
    an output with c_j = 1 goes to 1 if and only if h_j < (d/a) / (-g) = `MapLaw.heaviest`.

The second line is a limit of the method: for large k an output of weight above k / 1.6 fails at m = 4, and above k / 6
at m = 10, however many networks are averaged. A permutation has h_j = 1.

Bit tasks. Where a problem is cut into templates (one-hot patterns of a few bits), of which each position of an input
matches exactly one, the test inputs are such sums of training inputs, and the same law applies with m = number of
positions. One step of binary addition: position i holds the pair (a_i, b_i) as one of 4 templates, k = 4 m; its
outputs are the sum bit a_i xor b_i (weight 2) and the carry a_i and b_i (weight 1) of the next position; after at
most m + 1 steps the carries are gone and the sum is exact (`half_adders`). XOR is linear in templates, though not in
bits. Shifts and copies are permutations, so that shift-and-add multiplication is made of the same steps. (Version 2
of arXiv 2502.16763 trains templates for addition, multiplication and the instruction "subtract and branch if
negative"; read in its abstract. Encoding and law here are ours.)

Label noise of variance s^2. Noise that every network draws anew adds s^2 |A|^2 to the variance of one network and
averages out. Noise in the data, the same for all networks, shifts the mean for ever: N networks have variance v / N +
s^2 |A|^2, and the probability of success has a ceiling below 1 (`MapLaw.ceiling`).

Networks. With biases N(0, beta^2) and weights N(0, 1/fan-in), a unit input has preactivations of covariance (rho + s)
/ k, s = k beta^2. In the standard parameterization every part of the tangent kernel that does not grow with the width
drops out: the first layer's, and those of all biases. With c = (rho + s) / (1 + s) and q1 = (1 + s) kappa1(c) / (2k),

    one hidden layer:    prior q1 + beta^2,    tangent q1;
    two hidden layers:   c1 = (q1 + beta^2) / v, v = its value at rho = 1, q2 = v kappa1(c1) / 2,
                         prior q2 + beta^2,    tangent q2 + q1 kappa0(c1) / 2.

Two hidden layers move their last two weight matrices, and without biases their tangent kernel is that of the full
two-layer kernel at the cosine kappa1(rho) in place of rho.

Training on all 2^k - 1 inputs instead of k needs no ensemble: every input is interpolated, and one network is right.
The price is the number of examples, and of epochs, which go like the condition number of the kernel (`conditions`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import log_ndtr

from permlab.errors import UserError, check_range
from permlab.ntk.kernels import FloatArray, kappa0, kappa1, nngp_kernel, normalized
from permlab.ntk.law import LARGEST_SIZE
from permlab.ntk.process import all_binary_inputs

TEMPLATES = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Pairs of bits at one position of an addition."""


@dataclass(frozen=True)
class Network:
    """A network of the standard parameterization at infinite width."""

    hidden_layers: int = 1
    """1 or 2."""
    bias: float = 0.0
    """Standard deviation of every bias at the start; 0: no biases, or some that start at 0."""

    def __post_init__(self) -> None:
        check_range("hidden_layers", self.hidden_layers, 1, 2)
        check_range("bias", self.bias, 0)

    def kernels(self, k: int, cosine: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """(prior, tangent) of unit inputs in k dimensions at a cosine; the tangent kernel per hidden unit."""
        rho, square = np.asarray(cosine, dtype=np.float64), self.bias**2
        spread = k * square
        first = (1.0 + spread) / (2.0 * k) * kappa1((rho + spread) / (1.0 + spread))
        if self.hidden_layers == 1:
            return first + square, first
        scale = (1.0 + spread) / (2.0 * k) + square
        inner = (first + square) / scale
        second = scale / 2.0 * kappa1(inner)
        # sum over units of U3^2 relu' relu' tends to kappa0 / 2, times the width that the hidden values bring.
        return second + square, second + first * kappa0(inner) / 2.0


PLAIN = Network()


class MapLaw:
    """Law of the outputs at inputs with m ones of k, for any 0/1 targets.

    Args:
        k: training inputs, at least 2.
        ones: m of the test input, 1 <= m <= k.
        network: architecture; the published one by default.
        noise: standard deviation of the noise on the training targets.
        shared: whether all networks see the same noise.

    Raises:
        UserError: sizes out of range.
    """

    def __init__(self, k: int, ones: int, network: Network = PLAIN, noise: float = 0.0, shared: bool = False) -> None:
        check_range("k", k, 2)
        check_range("ones", ones, 1, k)
        check_range("noise", noise, 0)
        (n0, n1, nr), (t0, t1, tr) = network.kernels(k, np.array([0.0, 1.0, 1.0 / np.sqrt(ones)]))
        a, d = t1 - t0, tr - t0
        self.scale = float(d / a)
        self.offset = float(t0 * (1.0 - d * ones / a) / (a + t0 * k)) if ones > 1 else 0.0
        on = self.scale + self.offset
        self.squares = float(ones * on**2 + (k - ones) * self.offset**2)
        total = ones * on + (k - ones) * self.offset
        prior = n1 + (n1 - n0) * self.squares + n0 * total**2 - 2.0 * (n0 * total + (nr - n0) * ones * on)
        variance = float(prior) if ones > 1 else 0.0
        noisy = noise**2 * self.squares
        self.variance = variance + (0.0 if shared else noisy)
        self.floor = noisy if shared else 0.0
        """Variance that no averaging removes."""

    @property
    def heaviest(self) -> float:
        """Outputs that are 1 for fewer training inputs than this can be learned; infinite at m = 1."""
        return np.inf if self.offset >= 0 else -self.scale / self.offset

    def signal(self, matched: ArrayLike, weights: ArrayLike) -> FloatArray:
        """Mean of one output, counted positive when its sign is the right one (OR of the matched inputs)."""
        found, heavy = np.asarray(matched, dtype=np.float64), np.asarray(weights, dtype=np.float64)
        mean = self.scale * found + self.offset * heavy
        signal: FloatArray = np.where(found >= 1, mean, -mean)
        return signal

    def log_success(self, matched: ArrayLike, weights: ArrayLike, networks: float) -> float:
        """log P(all outputs right), averaging `networks` networks.

        Args:
            matched: for every output how many ones of the test input want a 1 there, (q,).
            weights: for every output how many of the k training inputs do, (q,).
            networks: N; may be infinite.
        """
        sd = np.sqrt(self.variance / networks + self.floor)
        with np.errstate(divide="ignore", invalid="ignore"):
            signal = self.signal(matched, weights)
            # Without any variance the mean decides; a mean of exactly 0 rounds to 0, which is then the right answer.
            deviations = np.where(sd > 0, signal / sd, np.where(signal >= 0, np.inf, -np.inf))
        return float(log_ndtr(deviations).sum())

    def ceiling(self, matched: ArrayLike, weights: ArrayLike) -> float:
        """P(all outputs right) of infinitely many networks."""
        return float(np.exp(self.log_success(matched, weights, np.inf)))

    def ensemble_size(self, matched: ArrayLike, weights: ArrayLike, target: float) -> int:
        """Smallest N with P(all outputs right) of at least `target`.

        Raises:
            UserError: no number of networks is enough, because a mean has the wrong sign or noise is shared.
        """
        check_range("target", target, 0.0, 1.0, open_interval=True)
        return smallest(lambda networks: self.log_success(matched, weights, networks), target)


def smallest(log_success: Callable[[int], float], target: float) -> int:
    """Smallest N at which an increasing log probability reaches that of `target`."""
    goal, low, high = float(np.log(target)), 0, 1
    while log_success(high) < goal:
        low, high = high, 2 * high
        if high > LARGEST_SIZE:
            raise UserError(
                f"no number of networks reaches target={target}: an output's mean has the wrong sign or is 0, or all "
                "networks share the noise; see MapLaw.heaviest and MapLaw.ceiling"
            )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if log_success(middle) >= goal else (middle, high)
    return high


def half_adders(positions: int) -> np.ndarray:
    """Targets of one step of addition: bool (4 positions, 2 positions), sum bits first, then carries.

    Training input 4 i + t is template t of position i.
    """
    targets = np.zeros((positions, 4, 2, positions), dtype=bool)
    for place in range(positions):
        for index, (left, right) in enumerate(TEMPLATES):
            targets[place, index, :, place] = left ^ right, left & right
    return targets.reshape(4 * positions, 2 * positions)


def addition_success(positions: int, networks: float, network: Network = PLAIN) -> float:
    """P(one step of addition is right everywhere), over uniformly drawn pairs of numbers of `positions` bits.

    Positions are independent given N; of the four equally likely templates two give (1, 0), one each (0, 0) and (0, 1).
    """
    law = MapLaw(4 * positions, positions, network)
    each = [law.log_success(matched, (2, 1), networks) for matched in ((0, 0), (1, 0), (1, 0), (0, 1))]
    return float(np.exp(each).mean() ** positions)


def addition_size(positions: int, target: float, network: Network = PLAIN) -> int:
    """Networks with which one step of addition is right with probability `target`."""
    check_range("target", target, 0.0, 1.0, open_interval=True)
    return smallest(lambda networks: float(np.log(addition_success(positions, networks, network))), target)


def conditions(k: int) -> tuple[float, float]:
    """Condition number of the last-layer kernel on the k basis vectors, and on all 2^k - 1 inputs."""
    found = []
    for inputs in (np.eye(k), all_binary_inputs(k)):
        values = np.linalg.eigvalsh(nngp_kernel(normalized(inputs), normalized(inputs)))
        found.append(float(values[-1] / values[0]))
    return found[0], found[1]


def permutation_counts(k: int, ones: int) -> tuple[Sequence[int], Sequence[int]]:
    """(matched, weights) of a permutation's k outputs at an input with `ones` ones."""
    return [1] * ones + [0] * (k - ones), [1] * k
