"""The Gaussian process over all inputs at once: `posterior_covariance(all_binary_inputs(6), "standard")`.

Two inputs x, y with m, m' ones and o ones in common have, in the notation of `law` (units of 1/(2k)),

    covariance = n(o / sqrt(m m')) + A_x^T N(X, X) A_y - A_x^T N(X, y) - A_y^T N(X, x),
    A_x^T A_y = c c' o + c g' m + c' g m' + k g g',     A_x^T N(X, y) = b S + d'_y (c o + g m'),     c = d/a,

again O(1) for each pair. At o = m = m' it is the variance of `law`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from permlab.errors import UserError
from permlab.ntk.kernels import FloatArray, first_layer_weight, kappa0, kappa1_increment

LARGEST_ENUMERATION = 16
"""Inputs are enumerated up to this k (65,535 of them)."""


@dataclass(frozen=True)
class _Weights:
    """A_x = scale * u + offset * 1 and what the covariance needs of one input."""

    scale: FloatArray
    offset: FloatArray
    total: FloatArray
    increment: FloatArray


def _weights(k: int, m: FloatArray, weight: float) -> _Weights:
    cosine = 1.0 / np.sqrt(m)
    b = 1.0 / np.pi
    a = 1.0 - b + weight
    increment = kappa1_increment(cosine)
    d = increment + weight * cosine * kappa0(cosine)
    offset = b * (1.0 - d * m / a) / (a + b * k)
    return _Weights(d / a, offset, (d * m + b * k) / (a + b * k), increment)


def pair_covariance(
    k: int, ones: ArrayLike, other_ones: ArrayLike, overlap: ArrayLike, parameterization: str | float = "standard"
) -> FloatArray:
    """Covariance of one trained output between two inputs with the given numbers of ones and of ones in common.

    Args:
        k: input size.
        ones, other_ones, overlap: arrays that broadcast; overlap counts the positions where both inputs have a 1.
        parameterization: as in `law.posterior`.
    """
    weight = first_layer_weight(parameterization)
    m, n, o = (np.asarray(value, dtype=np.float64) for value in (ones, other_ones, overlap))
    left, right = _weights(k, m, weight), _weights(k, n, weight)
    b = 1.0 / np.pi
    # A_x^T A_y sorted by places: ones of both inputs, of one of them, and all k.
    inner = (
        left.scale * right.scale * o
        + left.scale * right.offset * m
        + right.scale * left.offset * n
        + k * left.offset * right.offset
    )
    # A_x^T N(X, X) A_y: on the basis N(X, X) = a' I + b 11^T, so no matrix is formed.
    trained = (1.0 - b) * inner + b * left.total * right.total
    # A_x^T N(X, y) = b S + d'_y (sum of A_x over the ones of y): N(X, y) takes two values only.
    cross = b * left.total + right.increment * (left.scale * o + left.offset * n)
    cross_back = b * right.total + left.increment * (right.scale * o + right.offset * m)
    # o / sqrt(m n) can pass 1 by one rounding, so the cosine is clipped before the square root in kappa1.
    prior = b + kappa1_increment(np.clip(o / np.sqrt(m * n), 0.0, 1.0))
    return (prior + trained - cross - cross_back) / (2.0 * k)


def posterior_covariance(inputs: ArrayLike, parameterization: str | float = "standard") -> FloatArray:
    """Covariance (count, count) of one trained output over binary inputs (count, k); zero where an input has one 1."""
    bits = np.asarray(inputs, dtype=np.float64)
    ones = bits.sum(axis=1)
    covariance = pair_covariance(bits.shape[1], ones[:, None], ones[None, :], bits @ bits.T, parameterization)
    # The network interpolates its training points: no randomness is left, and round-off must not become some.
    covariance[ones == 1, :] = 0.0
    covariance[:, ones == 1] = 0.0
    return covariance


def all_binary_inputs(k: int) -> np.ndarray:
    """All 2^k - 1 nonzero binary inputs, bool (2^k - 1, k).

    Raises:
        UserError: k above 16.
    """
    if k > LARGEST_ENUMERATION:
        raise UserError(
            f"all 2^{k} - 1 inputs cannot be listed: use k of at most {LARGEST_ENUMERATION}, or the closed form"
        )
    # From 1: the zero input has no direction and is excluded from the task.
    codes = np.arange(1, 2**k, dtype=np.int64)
    return ((codes[:, None] >> np.arange(k)) & 1).astype(bool)
