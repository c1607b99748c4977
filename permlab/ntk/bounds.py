"""Sufficient sizes from tail bounds, beside the exact ones: `sufficient_size(30, 2, 0.9)` is 266, the law needs 190.

The paper proves O(k log k) for one input and O(k^2) for all inputs (arXiv 2502.16763, abstract); its constants are not
quoted here. The derivations below are ours and follow the only route that the Gaussian limit leaves open, so they
show where the two rates come from and what they cost against the exact expression.

One input. With z = min(z_on, z_off) and delta = 1 - target, Phi(-x) <= exp(-x^2 / 2) / 2 and a union bound over the k
outputs give

    P(wrong) <= (k / 2) exp(-z^2 N / 2) <= delta    if    N >= (2 / z^2) log(k / (2 delta)).

For fixed m, k z^2 tends to a constant: mean_off ~ -(d m / a - 1) / k and 2k * variance -> v = a' (1 + m d^2 / a^2) -
2 d' m d / a, so z^2 ~ 2 (d m / a - 1)^2 / (v k), and N ~ k log k * v / (d m / a - 1)^2 (`linearithmic_constant`).

All inputs. Giving each of the 2^k - 1 inputs an equal share delta / (2^k - 1) replaces log(k / (2 delta)) by
k log 2 + log(k / (2 delta)); with z^2 >= c / k for every m that is O(k^2). Equal shares are the loss: only C(k, 2)
inputs are that hard, which is why `all_inputs.ensemble_size_all` stays far below.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from permlab.errors import check_range
from permlab.ntk.kernels import FloatArray, first_layer_weight, kappa0, kappa1_increment
from permlab.ntk.law import check_sizes, posterior, signal_to_noise


def weakest_signal(k: ArrayLike, ones: ArrayLike, parameterization: str | float = "standard") -> FloatArray:
    """min(z_on, z_off) of one network at inputs with `ones` ones; z_off does not count when every bit is one."""
    sizes, counts = check_sizes(k, ones)
    on, off = signal_to_noise(posterior(sizes, counts, parameterization))
    return np.where(counts < sizes, np.minimum(on, off), on)


def sufficient_size(
    k: ArrayLike, ones: ArrayLike, target: float, parameterization: str | float = "standard"
) -> np.ndarray:
    """Networks that suffice for one input by the sub-Gaussian tail bound above; never below the exact N."""
    check_range("target", target, 0.0, 1.0, open_interval=True)
    sizes, _ = check_sizes(k, ones)
    signal = weakest_signal(k, ones, parameterization)
    # The k log k of 2502.16763 for one input: 1 / z^2 grows like k, the union over k outputs gives the logarithm.
    needed = 2.0 / signal**2 * np.log(sizes / (2.0 * (1.0 - target)))
    return np.maximum(np.ceil(needed), 1.0).astype(np.int64)


def sufficient_size_all(k: int, target: float, parameterization: str | float = "standard") -> int:
    """Networks that suffice for all 2^k - 1 inputs when every input gets the same share of the failure probability."""
    check_range("target", target, 0.0, 1.0, open_interval=True)
    # From m = 2: inputs with a single one are the training set and are never wrong.
    signal = float(weakest_signal(k, np.arange(2, k + 1), parameterization).min())
    # The k^2 of 2502.16763 for all inputs: the union over 2^k of them costs k log 2 where one input costs log k.
    return max(1, int(np.ceil(2.0 / signal**2 * (k * np.log(2.0) + np.log(k / (2.0 * (1.0 - target)))))))


def linearithmic_constant(ones: int, parameterization: str | float = "standard") -> float:
    """Limit of N / (k log k) for one input with a fixed number of ones m >= 2, as k grows."""
    check_range("ones", ones, 2)
    weight = first_layer_weight(parameterization)
    cosine = 1.0 / np.sqrt(ones)
    a_prior = 1.0 - 1.0 / np.pi
    a = a_prior + weight
    d_prior = float(kappa1_increment(cosine))
    d = d_prior + weight * cosine * float(kappa0(cosine))
    # 2 k times the variance as k grows: terms in mean_off vanish, those of the m ones stay.
    variance = a_prior * (1.0 + ones * d * d / a**2) - 2.0 * d_prior * ones * d / a
    return float(variance / (d * ones / a - 1.0) ** 2)
