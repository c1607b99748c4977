"""How N grows with k: `growth_fits([10, 20, 30], [58, 121, 190])` compares k log k, k^(3/2) log k and k^2.

Each law N = c * shape(k) is fitted by least squares on log N, so that every point counts by its ratio and not by its
size; the residual is the root mean square of log(N / fit), and `worst` the largest |N / fit - 1|.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from permlab.errors import UserError
from permlab.ntk.kernels import FloatArray
from permlab.ntk.table import GROWTHS


@dataclass(frozen=True)
class Fit:
    """One fitted growth law N = constant * shape(k)."""

    shape: str
    constant: float
    residual: float
    """Root mean square of log(N / fit)."""
    worst: float
    """Largest |N / fit - 1|."""


def growth_fits(k: Sequence[int], sizes: Sequence[float]) -> list[Fit]:
    """Fit every shape of `table.GROWTHS`, best first.

    Raises:
        UserError: fewer than two points, or lengths that differ.
    """
    x, y = np.asarray(k, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
    if x.shape != y.shape or x.size < 2:
        raise UserError(f"a growth fit needs two or more points (k, N): got {x.size} and {y.size}")
    fits = []
    for name, row in GROWTHS.items():
        ratio = np.log(y) - np.log(row.load()(x))
        # On log N a constant factor is an offset, whose least squares estimate is the mean.
        constant = ratio.mean()
        error = ratio - constant
        worst = float(np.abs(np.expm1(error)).max())
        fits.append(Fit(name, float(np.exp(constant)), float(np.sqrt((error**2).mean())), worst))
    return sorted(fits, key=lambda fit: fit.residual)


def local_exponent(k: Sequence[int], sizes: Sequence[float]) -> np.ndarray:
    """d log N / d log k between neighbouring points, length len(k) - 1."""
    return np.diff(np.log(np.asarray(sizes, dtype=np.float64))) / np.diff(np.log(np.asarray(k, dtype=np.float64)))


# ---- targets of `table.GROWTHS`: k (count,) -> shape(k) (count,) -----------------------------------------------------


def linearithmic(k: FloatArray) -> FloatArray:
    """k log k."""
    return k * np.log(k)


def three_halves(k: FloatArray) -> FloatArray:
    """k^(3/2) log k."""
    return k**1.5 * np.log(k)


def quadratic(k: FloatArray) -> FloatArray:
    """k^2."""
    return k**2
