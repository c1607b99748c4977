"""The law of all 2^k - 1 inputs at once, bracketed from both sides: `ensemble_size_all(10_000, 0.9)`.

The k output coordinates are independent and exchangeable, so P(every output of every input is right) = q^k exactly,
where q is the probability that one coordinate is right at every input. What is bounded is q (derivations ours):

* sufficient (`ensemble_size_all`): Boole's inequality inside one coordinate,
      1 - q <= sum over m of C(k-1, m-1) Phi(-z_on(m) sqrt N) + C(k-1, m) Phi(-z_off(m) sqrt N).
  Taking the k-th power afterwards is never worse than a union bound over inputs and coordinates together.
* necessary (`ensemble_size_all_lower`): de Caen's inequality (Discrete Mathematics 169, 1997) inside one class of
  inputs, all n inputs with the same m for which the coordinate has the same target: 1 - q >= n p^2 / sum_x' P(both
  wrong at x and x'). The class is exchangeable, and P(both wrong) <= Phi(-z sqrt(2 N / (1 + correlation))), because
  the sum of two Gaussians exceeds twice the threshold when both exceed it. Every overlap of two inputs enters with
  its exact correlation (`pair_covariance`), and the best of a few classes counts.

The true N lies between the two. Both are evaluated in the log domain, so nothing overflows: C(k, m) has 3,000 digits at
k = 10^4. What the numbers show: up to k of about 10^3 inputs with two ones decide, the two sizes agree to 1 % from k
= 30 on, and N grows like k log k. Beyond, inputs with k - m of order sqrt(k) decide the union bound, which then grows
like k^(3/2) log k. Those inputs are nearly parallel, so the bound is loose there and the true N lies well below it.
Either way the k^2 of the paper's abstract is an upper bound, not the growth of this law.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln, log_ndtr, logsumexp, ndtri_exp

from permlab.errors import UserError, check_range
from permlab.ntk.kernels import FloatArray, first_layer_weight
from permlab.ntk.law import LARGEST_SIZE, check_sizes, posterior, signal_to_noise
from permlab.ntk.process import pair_covariance


def log_binomial(n: FloatArray | float, r: FloatArray | float) -> FloatArray:
    """log C(n, r) for 0 <= r <= n, elementwise."""
    value: FloatArray = gammaln(np.add(n, 1.0)) - gammaln(np.add(r, 1.0)) - gammaln(np.subtract(n, r) + 1.0)
    return value


@dataclass(frozen=True)
class ErrorClasses:
    """The ways one output coordinate can be wrong: one entry per (m, target), m = 2..k; m = 1 is never wrong."""

    ones: FloatArray
    """m of the class."""
    on: np.ndarray
    """True where the coordinate's target is 1."""
    log_count: FloatArray
    """log of the number of inputs in the class."""
    signal: FloatArray
    """|mean| / sd of one network."""


def error_classes(k: int, parameterization: str | float = "standard") -> ErrorClasses:
    """All classes of inputs for one output coordinate of size k, at most 2 (k - 1) - 1 of them."""
    check_sizes(k, 1)
    m = np.arange(2, k + 1, dtype=np.float64)
    on, off = signal_to_noise(posterior(k, m, parameterization))
    rest = m[:-1]  # with all k ones no coordinate has target 0
    return ErrorClasses(
        ones=np.concatenate([m, rest]),
        on=np.concatenate([np.ones(m.size, dtype=bool), np.zeros(rest.size, dtype=bool)]),
        # Seen from one coordinate: its own bit is fixed, the other ones are spread over k - 1 places.
        log_count=np.concatenate([log_binomial(k - 1.0, m - 1.0), log_binomial(k - 1.0, rest)]),
        signal=np.concatenate([on, off[:-1]]),
    )


def log_failure_bound(k: int, networks: float, parameterization: str | float = "standard") -> float:
    """log of the union bound on 1 - q, the probability that one coordinate is wrong somewhere; may exceed 0."""
    classes = error_classes(k, parameterization)
    return float(logsumexp(classes.log_count + log_ndtr(-classes.signal * np.sqrt(networks))))


def success_probability_all(k: int, networks: float, parameterization: str | float = "standard") -> float:
    """Lower bound on P(all outputs of all 2^k - 1 inputs are right): (1 - min(1, union bound))^k."""
    bound = log_failure_bound(k, networks, parameterization)
    return float(np.exp(k * np.log1p(-np.exp(bound)))) if bound < 0 else 0.0


def ensemble_size_all(k: int, target: float, parameterization: str | float = "standard") -> int:
    """Smallest N whose union bound guarantees probability `target` for all inputs: a sufficient ensemble size.

    Raises:
        UserError: k below 2, target outside (0, 1), or N above 2^53.
    """
    check_range("target", target, 0.0, 1.0, open_interval=True)
    classes = error_classes(k, parameterization)
    log_allowed = _log_allowed_failure(k, target)
    low, high = _bracket(classes, log_allowed)
    if high >= LARGEST_SIZE:
        raise UserError(f"no ensemble of fewer than 2^53 networks reaches target={target} at k={k}: lower one of them")
    # A class 50 + log(classes) nats below the allowance at N = low can only shrink: it never changes the decision.
    terms = classes.log_count + log_ndtr(-classes.signal * np.sqrt(max(low, 1)))
    kept = terms > log_allowed - 50.0 - np.log(terms.size)
    log_count, signal = classes.log_count[kept], classes.signal[kept]
    while high - low > 1:
        middle = (low + high) // 2
        if logsumexp(log_count + log_ndtr(-signal * np.sqrt(middle))) <= log_allowed:
            high = middle
        else:
            low = middle
    return high


def _log_allowed_failure(k: int, target: float) -> float:
    """log of the largest 1 - q with q^k >= target."""
    # Coordinates are independent in the limit, so the target for all is the k-th root for one; expm1 keeps its digits.
    return float(np.log(-np.expm1(np.log(target) / k)))


def _bracket(classes: ErrorClasses, log_allowed: float) -> tuple[int, int]:
    """Integers (too few or 0, enough): one class alone needs more than the first, equal shares less than the second."""

    def needed(log_share: float) -> float:
        # Wrong sign of the quantile (a share above 1/2) means that no network at all is needed.
        quantile = -ndtri_exp(np.minimum(log_share - classes.log_count, -1e-300))
        return float(np.max((np.maximum(quantile, 0.0) / classes.signal) ** 2))

    low = int(np.floor(needed(log_allowed) * (1.0 - 1e-9))) - 1
    high = int(np.ceil(needed(log_allowed - np.log(classes.signal.size)) * (1.0 + 1e-9))) + 1
    return max(low, 0), high


def ensemble_size_all_lower(k: int, target: float, parameterization: str | float = "standard") -> int:
    """A necessary ensemble size for all inputs at once: with fewer networks the success probability is below `target`.

    Every N at which de Caen's bound contradicts the target is too small, because the true probability grows with N. The
    classes tried are the four hardest for the union bound and targets 0 at m = 2, 3, 4, at O(k) work each.

    Raises:
        UserError: as `ensemble_size_all`.
    """
    enough = ensemble_size_all(k, target, parameterization)
    classes = error_classes(k, parameterization)
    log_allowed = _log_allowed_failure(k, target)
    terms = classes.log_count + log_ndtr(-classes.signal * np.sqrt(enough))
    tried = {*np.argsort(terms)[-4:].tolist(), *np.flatnonzero(~classes.on)[:3].tolist()}
    return max(_lower_of_class(k, classes, index, log_allowed, parameterization) for index in sorted(tried))


def _lower_of_class(
    k: int, classes: ErrorClasses, index: int, log_allowed: float, parameterization: str | float
) -> int:
    m, on = int(classes.ones[index]), bool(classes.on[index])
    signal, log_count = classes.signal[index], classes.log_count[index]
    log_pairs, correlation = _overlaps(k, m, on, parameterization)

    def contradicts(networks: int) -> bool:
        threshold = signal * np.sqrt(networks)
        # de Caen (1997): P(some x is wrong) >= n p^2 / sum_x' P(wrong at x and x'), one class of n exchangeable inputs.
        both = log_ndtr(-threshold * np.sqrt(2.0 / (1.0 + correlation)))
        bound = log_count + 2.0 * log_ndtr(-threshold) - logsumexp(log_pairs + both)
        return bool(bound > log_allowed)

    low, high = 0, 1
    while contradicts(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if contradicts(middle) else (low, middle)
    return high


def _overlaps(k: int, m: int, on: bool, parameterization: str | float) -> tuple[FloatArray, FloatArray]:
    """For a fixed input of the class: log number of inputs with each overlap, and the correlation of the outputs there.

    Inputs with the coordinate on share that 1, so m - 1 ones are free among k - 1 places; otherwise m among k - 1.
    """
    free = m - 1 if on else m
    shared = np.arange(max(0, 2 * free - (k - 1)), free + 1, dtype=np.float64)
    log_pairs = log_binomial(float(free), shared) + log_binomial(k - 1.0 - free, free - shared)
    # The coordinate's own one is common to all inputs of an on class and missing in all of an off class.
    overlap = shared + 1.0 if on else shared
    weight = first_layer_weight(parameterization)
    covariance = pair_covariance(k, float(m), float(m), overlap, weight)
    variance = float(posterior(k, m, parameterization).variance)
    # x' = x stays in with correlation 1: de Caen's sum runs over all inputs of the class, x itself among them.
    return log_pairs, np.clip(covariance / variance, -0.999999, 1.0)
