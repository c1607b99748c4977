"""The law of one test input, in closed form: `ensemble_size(30, 2, 0.9)` is 190 networks.

Setting (arXiv 2502.16763 and its released code): train on the k basis vectors with targets P e_i,
test on a binary input with m ones divided by its norm, average N networks, round each output with "> 0". At
convergence each output coordinate is an independent Gaussian process. Derivation (ours; checked against a dense solve
in the tests), in units of 1/(2k), with t the tangent kernel, n the NNGP kernel, r = 1/sqrt(m), and

    a = t(1) - t(0),  a' = n(1) - n(0) = 1 - 1/pi,  b = t(0) = n(0) = 1/pi,  d = t(r) - t(0),  d' = n(r) - n(0):

    T(X, X) = a I + b 11^T,   T(X, x) = b 1 + d u   (u: indicator of the ones),
    A = T(X, X)^-1 T(X, x) = (d/a) u + g 1,   g = b (1 - d m / a) / (a + b k)        (Sherman-Morrison),
    mean_on = g + d/a,   mean_off = g,   S = 1^T A,   1 - S = (a - d m) / (a + b k),
    variance = 1 + A^T N(X, X) A - 2 A^T N(X, x) = a' (1 + |A|^2) + b (1 - S)^2 - 2 d' m mean_on.

Every quantity depends on (k, m) only: O(1) work for each pair, vectorised over arrays of both. The formulas are
arranged so that nothing cancels as k or m grows. At m = 1 the input is a training point: d = a, hence mean_on = 1,
mean_off = 0 and variance = 0 hold exactly and are set so. The output "0" of an off coordinate is rounded to 0 by the
strict "> 0", so one network is enough; in floating point a trained network returns +-1e-7 there, and rounding at 0 is
then a coin toss that no averaging repairs. The law describes exact arithmetic; finite networks are compared at m >=
2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import log_ndtr, ndtri

from permlab.errors import UserError, check_range
from permlab.ntk.kernels import FloatArray, first_layer_weight, kappa0, kappa1_increment

LARGEST_SIZE = 2**53
"""Ensemble sizes above this are not exact integers in double precision and are refused."""


@dataclass(frozen=True)
class Posterior:
    """Gaussian law of one trained output coordinate at a test input; all fields share one shape."""

    mean_on: FloatArray
    """Mean where the target is 1 (unnormalised sign feature, dimensionless)."""
    mean_off: FloatArray
    """Mean where the target is 0; negative for m >= 2."""
    variance: FloatArray
    """Variance over random initialisations, the same for every coordinate."""


def check_sizes(k: ArrayLike, ones: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return (k, ones) as broadcast float arrays.

    Raises:
        UserError: k below 2, or ones outside 1..k.
    """
    sizes, counts = np.broadcast_arrays(np.asarray(k, dtype=np.float64), np.asarray(ones, dtype=np.float64))
    if not (sizes >= 2).all():
        raise UserError(f"k={sizes.min():g} is too small: a permutation task needs k of at least 2")
    if not (counts >= 1).all():
        raise UserError(f"ones={counts.min():g} is too small: a test input needs at least one 1")
    if not (counts <= sizes).all():
        where = np.argmax(counts > sizes)
        raise UserError(
            f"ones={counts.flat[where]:g} is larger than k={sizes.flat[where]:g}: an input of k bits has at most k ones"
        )
    return sizes, counts


def posterior(k: ArrayLike, ones: ArrayLike, parameterization: str | float = "standard") -> Posterior:
    """Law of a trained output coordinate for inputs of `ones` ones among k; arrays broadcast.

    Args:
        k: input size, at least 2.
        ones: number of ones m, 1 <= m <= k.
        parameterization: `standard` (last layer moves), `ntk` (both), or the first-layer weight (`kernels`).

    Raises:
        UserError: sizes out of range, unknown parameterization.
    """
    return _posterior(*check_sizes(k, ones), first_layer_weight(parameterization))


def _posterior(k: FloatArray, m: FloatArray, weight: float) -> Posterior:
    cosine = 1.0 / np.sqrt(m)
    b = 1.0 / np.pi
    a_prior = 1.0 - b
    a = a_prior + weight
    d_prior = kappa1_increment(cosine)
    # t(r) - t(0): how much nearer a test input is to its own ones than to the other basis vectors.
    d = d_prior + weight * cosine * kappa0(cosine)
    total = a + b * k  # eigenvalue of T(X, X) along 1; Sherman-Morrison divides by it
    # mean_on = g + d/a brought over one denominator: the sum of two positive terms.
    mean_on = (d * (a + b * (k - m)) / a + b) / total
    # Negative once d m > a, that is from m = 2 on: this is why rounding at 0 separates the two kinds of output.
    mean_off = b * (1.0 - d * m / a) / total
    # |A|^2: the weights A(x) are themselves the means, one per training input.
    squares = m * mean_on**2 + (k - m) * mean_off**2
    missing = (a - d * m) / total  # 1 - S, without the cancellation of 1 minus a sum near 1
    # Posterior variance K + A^T K A - 2 A^T K: the NNGP kernel carries the prior, A comes from the tangent kernel.
    variance = (a_prior * (1.0 + squares) + b * missing**2 - 2.0 * d_prior * m * mean_on) / (2.0 * k)
    # Training points are interpolated: round-off would leave a mean_off of either sign, and rounding a coin toss.
    trained = m == 1
    return Posterior(
        np.where(trained, 1.0, mean_on), np.where(trained, 0.0, mean_off), np.where(trained, 0.0, variance)
    )


def signal_to_noise(law: Posterior) -> tuple[FloatArray, FloatArray]:
    """|mean| / sd of the on and off coordinates of one network; infinite at m = 1, where both are always right."""
    with np.errstate(divide="ignore", invalid="ignore"):
        sd = np.sqrt(law.variance)
        exact = law.variance == 0.0
        on = np.where(exact, np.inf, law.mean_on / sd)
        off = np.where(exact, np.inf, -law.mean_off / sd)
    return on, off


def log_success(
    k: ArrayLike, ones: ArrayLike, networks: ArrayLike, parameterization: str | float = "standard"
) -> FloatArray:
    """log P(all k rounded outputs are right at one input with `ones` ones, averaging `networks` networks).

    P = Phi(z_on sqrt N)^m Phi(z_off sqrt N)^(k - m), with z = |mean| / sd. Arrays broadcast.
    """
    sizes, counts = check_sizes(k, ones)
    on, off = signal_to_noise(_posterior(sizes, counts, first_layer_weight(parameterization)))
    return _log_success(sizes, counts, on, off, np.sqrt(np.asarray(networks, dtype=np.float64)))


def _log_success(k: FloatArray, m: FloatArray, on: FloatArray, off: FloatArray, root: FloatArray) -> FloatArray:
    # The k coordinates are independent: m must be positive, k - m must not.
    total: FloatArray = m * log_ndtr(on * root) + (k - m) * log_ndtr(off * root)
    return total


def success_probability(
    k: ArrayLike, ones: ArrayLike, networks: ArrayLike, parameterization: str | float = "standard"
) -> FloatArray:
    """P(all k outputs right) of `log_success`; also the expected accuracy over random inputs with `ones` ones."""
    return np.exp(log_success(k, ones, networks, parameterization))


def ensemble_size(
    k: ArrayLike, ones: ArrayLike, target: float, parameterization: str | float = "standard"
) -> np.ndarray:
    """Smallest number of networks with P(all k outputs right) >= target, for one input with `ones` ones.

    Integer bisection on the exact expression, inside a bracket that is nearly tight: one group of coordinates alone
    bounds N from below, all k coordinates at the weaker signal bound it from above. At m = 1 the answer is 1.

    Returns:
        int64 array of the broadcast shape of k and ones (0-dimensional for scalars).

    Raises:
        UserError: sizes or target out of range, or N above 2^53.
    """
    check_range("target", target, 0.0, 1.0, open_interval=True)
    sizes, counts = check_sizes(k, ones)
    on, off = signal_to_noise(_posterior(sizes, counts, first_layer_weight(parameterization)))
    return size_from_signal(sizes, counts, on, off, target)


def size_from_signal(k: ArrayLike, ones: ArrayLike, on: ArrayLike, off: ArrayLike, target: float) -> np.ndarray:
    """`ensemble_size` for given signals |mean| / sd of one network, for example measured on trained networks.

    Raises:
        UserError: a coordinate without signal (on or off not positive), which no averaging repairs, or N above 2^53.
    """
    sizes, counts, on, off = np.broadcast_arrays(*(np.asarray(value, dtype=np.float64) for value in (k, ones, on, off)))
    # Of an input of k ones no output is off: its factor has to vanish from the product, whatever its signal.
    off = np.where(sizes > counts, off, np.inf)
    if not ((on > 0) & (off > 0)).all():
        raise UserError(
            "no finite ensemble reaches the target: the mean output has the wrong sign, so averaging cannot help"
        )
    log_target = float(np.log(target))
    lower = np.maximum(_alone(counts, on, log_target), _alone(sizes - counts, off, log_target))
    upper = _alone(sizes, np.minimum(on, off), log_target)
    # Both ends give way by more than the error of the quantile, so that the bisection cannot start inside its answer.
    low = np.maximum(np.floor(lower * (1.0 - 1e-9)) - 1.0, 0.0)
    high = np.ceil(np.maximum(upper, 1.0) * (1.0 + 1e-9)) + 1.0
    if not (high < LARGEST_SIZE).all():
        raise UserError(f"no ensemble of fewer than 2^53 networks reaches target={target}: lower the target or k")
    while (high - low > 1.0).any():
        middle = np.maximum(np.floor((low + high) / 2.0), 1.0)
        enough = _log_success(sizes, counts, on, off, np.sqrt(middle)) >= log_target
        high = np.where(enough, middle, high)
        low = np.where(enough, low, np.minimum(middle, high - 1.0))
    return high.astype(np.int64)


def _alone(count: FloatArray, signal: FloatArray, log_target: float) -> FloatArray:
    """N (real) at which `count` coordinates of this signal are all right with the target probability; 0 for none."""
    # 1 - target^(1/count) through expm1: the difference from 1 is tiny when thousands of outputs share the risk.
    quantile = -ndtri(-np.expm1(log_target / np.maximum(count, 1.0)))
    return np.where(count > 0, np.maximum(quantile, 0.0) ** 2 / signal**2, 0.0)
