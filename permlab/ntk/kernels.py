"""Arc-cosine kernels of a two-layer ReLU network: `nngp_kernel(inputs, inputs)` is one k x k matrix.

The network is f(x) = U2 relu(U1 x) without biases, U1 ~ N(0, 1/k) of shape (width, k) and U2 ~ N(0, 1/width) of shape
(k, width). For unit inputs at cosine rho (Cho and Saul, NIPS 2009; Jacot et al., NeurIPS 2018):

    E[relu(u) relu(u')]   = kappa1(rho) / (2 k)      (last-layer, or NNGP, kernel)
    E[relu'(u) relu'(u')] = kappa0(rho) / 2

Training both layers gives the tangent kernel  (kappa1(rho) + first_layer * rho * kappa0(rho)) / (2 k)  up to a factor
that only rescales time. `first_layer` is the one number that tells parameterizations apart, derived here:

* `standard` (no factors in the forward pass, one learning rate): the last layer contributes width * kappa1 / (2 k),
  the first rho kappa0 / 2, so first_layer = k / width. It vanishes for width >> k: only the last layer moves.
* `ntk` (factors 1/sqrt(k) and 1/sqrt(width) in the forward pass): both gradients are O(1) and first_layer = 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from permlab.errors import UserError
from permlab.ntk.table import PARAMETERIZATIONS

FloatArray = NDArray[np.float64]


def kappa0(rho: ArrayLike) -> FloatArray:
    """Arc-cosine kernel of degree 0 at cosine `rho` (clipped to [-1, 1]): 2 E[relu'(u) relu'(u')], in [0, 1]."""
    # J_0 of Cho and Saul (2009), section 2: 1 - theta / pi with theta = arccos(rho), written with the arcsine.
    angle: FloatArray = np.arcsin(np.clip(rho, -1.0, 1.0))
    return 0.5 + angle / np.pi


def kappa1(rho: ArrayLike) -> FloatArray:
    """Arc-cosine kernel of degree 1 at cosine `rho` (clipped to [-1, 1]), normalised to kappa1(1) = 1."""
    # J_1 of Cho and Saul (2009), section 2: (sin theta + (pi - theta) cos theta) / pi.
    cosine: FloatArray = np.clip(rho, -1.0, 1.0)
    return np.sqrt(1.0 - cosine * cosine) / np.pi + cosine * kappa0(cosine)


def kappa1_increment(rho: ArrayLike) -> FloatArray:
    """kappa1(rho) - kappa1(0) without cancellation, for 0 <= rho <= 1: relative error stays near 1e-16 as rho -> 0."""
    cosine = np.asarray(rho, dtype=np.float64)
    # 1 - sqrt(1 - r^2) = r^2 / (1 + sqrt(1 - r^2)): the left side cancels as r -> 0, that is for large m.
    squared = cosine * cosine
    return cosine * kappa0(cosine) - squared / (1.0 + np.sqrt(1.0 - np.minimum(squared, 1.0))) / np.pi


def first_layer_weight(parameterization: str | float, k: int | None = None, width: int | None = None) -> float:
    """Weight of the first layer's part in the tangent kernel, relative to the last layer's.

    Args:
        parameterization: `standard`, `ntk`, or the weight itself.
        k: input size; with `width`, gives the finite-width weight k / width of the standard parameterization.
        width: hidden units; None means infinite.

    Raises:
        UserError: unknown name, or a weight that is negative or not finite.
    """
    if isinstance(parameterization, str):
        return PARAMETERIZATIONS.check("parameterization", parameterization).first_layer_weight(k, width)
    weight = float(parameterization)
    if not (weight >= 0.0 and np.isfinite(weight)):
        raise UserError(f"the first-layer weight is {weight}: it must be a finite number of at least 0")
    return weight


def normalized(inputs: ArrayLike) -> FloatArray:
    """Binary inputs (count, k) divided by their Euclidean norms.

    Raises:
        UserError: an all-zero row, which the task excludes.
    """
    rows = np.asarray(inputs, dtype=np.float64)
    norms = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    if not norms.all():
        raise UserError("an input has no ones: the permutation task is defined on nonzero binary inputs")
    # As the released code does with its test inputs; on unit inputs both kernels depend on the cosine alone.
    unit: FloatArray = rows / norms
    return unit


def nngp_kernel(left: ArrayLike, right: ArrayLike) -> FloatArray:
    """Covariance of one output of the untrained network: unit rows (n, k) and (p, k) -> (n, p), kappa1 / (2 k)."""
    rows: FloatArray = np.asarray(left, dtype=np.float64)
    columns: FloatArray = np.asarray(right, dtype=np.float64)
    # Weights of variance 1/k give the 1/k, and the half of all directions in which relu is silent the 1/2.
    covariance: FloatArray = kappa1(rows @ columns.T) / (2.0 * rows.shape[1])
    return covariance


def tangent_kernel(left: ArrayLike, right: ArrayLike, parameterization: str | float = "standard") -> FloatArray:
    """Tangent kernel between unit rows (n, k) and (p, k) -> (n, p): (kappa1 + w rho kappa0) / (2 k)."""
    rows: FloatArray = np.asarray(left, dtype=np.float64)
    columns: FloatArray = np.asarray(right, dtype=np.float64)
    rho: FloatArray = rows @ columns.T
    weight = first_layer_weight(parameterization)
    # Jacot et al. (2018), theorem 1: the last layer adds the NNGP kernel, the first one rho E[relu'(u) relu'(u')].
    kernel: FloatArray = (kappa1(rho) + weight * rho * kappa0(rho)) / (2.0 * rows.shape[1])
    return kernel
