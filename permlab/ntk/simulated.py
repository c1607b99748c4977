"""Runs drawn from the law, beside it: `band(simulate_stops(EnsembleSettings(), 30, 2, seed=0))` is (172, 187, 205).

Every function takes the settings, one (k, ones) and a seed; `processes.side_by_side` maps them over rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from permlab.ntk.all_inputs import log_binomial
from permlab.ntk.kernels import FloatArray
from permlab.ntk.law import success_probability
from permlab.ntk.published import PUBLISHED_TESTS, published_curve
from permlab.ntk.sampling import accuracy_curves, stopping_times
from permlab.ntk.settings import EnsembleSettings
from permlab.ntk.transform import path_rank
from permlab.tables import Row, spread

BAND = (0.025, 0.5, 0.975)
"""Quantiles of low, median and high."""
GRID_POINTS = 41
"""Numbers of networks at which accuracy is recorded, from 1 to one and a half times the law's size."""


def simulate_stops(
    settings: EnsembleSettings, k: int, ones: int | None, seed: int, kernel: str | float | None = None
) -> np.ndarray:
    """First N of `settings.replicates` simulated runs, sorted (`sampling.stopping_times`).

    Args:
        settings: target, test set and replicates.
        k: input size.
        ones: number of ones, None where every input counts.
        seed: of the draws.
        kernel: parameterization or first-layer weight; that of the settings when None.
    """
    return stopping_times(
        k,
        ones or 2,
        settings.target,
        settings.parameterization if kernel is None else kernel,
        test=settings.test,
        tests=settings.tests,
        replicates=settings.replicates,
        seed=seed,
    )


def simulate_accuracy(settings: EnsembleSettings, row: Row, seed: int) -> np.ndarray:
    """Accuracy of simulated runs on the grid of N of a row, (replicates, grid) (`sampling.accuracy_curves`)."""
    return accuracy_curves(
        row["k"],
        row["ones"] or 2,
        networks_grid(settings, row),
        settings.parameterization,
        test=settings.test,
        tests=settings.tests,
        replicates=settings.replicates,
        seed=seed,
    )


def band(stops: Sequence[int] | np.ndarray) -> tuple[int, int, int]:
    """(low, median, high) of first N: the 95 % band and the middle, each one of the values."""
    low, median, high = (int(q) for q in np.quantile(stops, BAND, method="inverted_cdf"))
    return low, median, high


def mean_and_error(values: Sequence[float] | np.ndarray) -> tuple[float | None, float | None]:
    """Mean and its standard error; None where there are too few values."""
    found = spread(np.asarray(values).tolist())  # plain numbers: numpy's integers are none to `tables`
    if found is None:
        return None, None
    return found.mean, None if found.deviation is None else found.deviation / math.sqrt(found.count)


def networks_grid(settings: EnsembleSettings, row: Row) -> list[int]:
    """Numbers of networks at which accuracy is recorded."""
    if settings.networks:
        return list(settings.networks)
    top = max(2, round(1.5 * row["ensemble_size"]))
    return sorted({max(1, round(top * share)) for share in np.linspace(0, 1, GRID_POINTS)})


def expected_accuracy(
    settings: EnsembleSettings, k: int, ones: int | None, networks: np.ndarray, kernel: str | float | None = None
) -> FloatArray:
    """The law's mean accuracy over the test set after each number of networks; `kernel` as in `simulate_stops`."""
    kernel = settings.parameterization if kernel is None else kernel
    if ones is not None:
        return success_probability(k, ones, networks, kernel)
    # Of the 2^k - 1 inputs, C(k, m) have m ones.
    m = np.arange(1, k + 1, dtype=np.float64)
    share = np.exp(log_binomial(float(k), m)) / (2.0**k - 1.0)
    expected: FloatArray = (share * success_probability(k, m, networks[:, None], kernel)).sum(axis=1)
    return expected


def accuracy_rows(settings: EnsembleSettings, row: Row, curves: np.ndarray) -> list[Row]:
    """Rows (N, law, mean, 95 % band over runs, deviation in standard errors) of one (k, ones)."""
    grid = np.array(networks_grid(settings, row))
    law = expected_accuracy(settings, row["k"], row["ones"], grid)
    # Over runs, because a published point is one run: the law's mean alone could not say whether it fits.
    low, high = np.quantile(curves, (BAND[0], BAND[2]), axis=0)
    # The spread of a run's accuracy is at least that of one right or wrong test: no zero errors at the ends.
    floor = np.sqrt(np.maximum(law * (1 - law), 1e-6) / settings.tests)
    error = np.maximum(curves.std(axis=0), floor) / math.sqrt(len(curves))
    means = curves.mean(axis=0)
    z = (means - law) / error
    return [
        {"k": row["k"], "ones": row["ones"], "networks": int(n), "law": float(law[i]), "accuracy": float(means[i])}
        | {"low": float(low[i]), "high": float(high[i]), "z": float(z[i])}
        for i, n in enumerate(grid)
    ]


def judge_curve(settings: EnsembleSettings, row: Row, curves: np.ndarray) -> bool:
    """Set `curve_distance` and `curve_p` of a row where there is a published curve (`transform.path_rank`)."""
    grid = np.array(networks_grid(settings, row))
    grid = grid[grid <= row["ensemble_size"]]
    published = published_curve(row["k"], row["ones"], int(grid[-1]) if len(grid) else 0)
    asked = settings.testing.drawn and settings.tests == PUBLISHED_TESTS
    path = [published[n - 1] for n in grid]
    if not asked or not path or any(accuracy is None for accuracy in path):
        return False
    law = expected_accuracy(settings, row["k"], row["ones"], grid)
    found = path_rank(curves[:, : len(grid)], law, np.array(path, dtype=np.float64))
    row["curve_distance"], row["curve_p"] = found
    return True
