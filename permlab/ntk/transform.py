"""Single published runs against the law: `uniformity([stops], [69]).p` is how often the law would lie as far away.

A published size is one draw of a stopping time T. If runs follow the law, F(T) is uniform on (0, 1) whatever k is, F
the distribution of the simulated stopping times (the probability integral transform): sizes at many k become one
sample, which a band for each k cannot judge (of 27 points one or two have to lie outside a 95 % band). T is discrete,
so the middle u = P(T < t) + P(T = t) / 2 is taken and the null distribution of the Kolmogorov-Smirnov distance is
simulated with the same middles; its p-value stays exact where continuous tables are not.

A published accuracy curve is one draw of a path. Its distance from the law's expected accuracy, the largest over the
numbers of networks up to the law's size (fixed beforehand: where the run stopped itself depends on the path), is ranked
among those of simulated paths; Fisher's method joins the ranks of independent runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import combine_pvalues

from permlab.ntk.kernels import FloatArray

NULL_DRAWS = 4000
"""Samples behind a p-value."""
PARTS = 10
"""Parts of the simulated runs, each of which gives a p-value of its own: how much it owes to the simulation."""


@dataclass(frozen=True)
class Uniformity:
    """How evenly the transformed points lie in (0, 1)."""

    points: FloatArray
    """(count,): u of every published size."""
    distance: float
    """Kolmogorov-Smirnov distance from the uniform distribution."""
    p: float
    """Probability of a distance at least as large under the law."""
    band: FloatArray
    """(2, count): 95 % of the sorted points under the law."""


def middles(stops: np.ndarray) -> FloatArray:
    """u = P(T < t) + P(T = t) / 2 of every simulated stopping time, in increasing order, (replicates,)."""
    ordered = np.sort(stops)
    return (np.searchsorted(ordered, ordered, "left") + np.searchsorted(ordered, ordered, "right")) / (2.0 * len(stops))


def transformed(stops: np.ndarray, time: int) -> float:
    """u of one stopping time among simulated ones."""
    ordered = np.sort(stops)
    below, upto = np.searchsorted(ordered, time, "left"), np.searchsorted(ordered, time, "right")
    return float(below + upto) / (2.0 * len(ordered))


def uniformity(stops: Sequence[np.ndarray], times: Sequence[int], seed: int = 0) -> Uniformity:
    """Test single runs against simulated ones.

    Args:
        stops: for each k the simulated stopping times.
        times: for each k the one to be judged.
        seed: of the simulated null distribution.
    """
    rng = np.random.default_rng([seed, len(times)])
    found = np.array([transformed(own, time) for own, time in zip(stops, times, strict=True)])
    null = np.stack([rng.choice(middles(own), NULL_DRAWS) for own in stops], axis=1)
    distance, under_law = _distance(found[None])[0], _distance(null)
    # One is added to both: the observed sample is itself one of those that the law could have given.
    p = (1 + np.count_nonzero(under_law >= distance - 1e-12)) / (1 + NULL_DRAWS)
    band = np.quantile(np.sort(null, axis=1), (0.025, 0.975), axis=0)
    return Uniformity(found, float(distance), float(p), band)


def _distance(samples: FloatArray) -> FloatArray:
    """Kolmogorov-Smirnov distance from the uniform distribution of every row."""
    ordered = np.sort(samples, axis=1)
    count = samples.shape[1]
    steps = np.arange(count + 1) / count
    largest: FloatArray = np.maximum(steps[1:] - ordered, ordered - steps[:-1]).max(axis=1)
    return largest


def uniformity_of_parts(stops: Sequence[np.ndarray], times: Sequence[int], seed: int = 0) -> list[float]:
    """p-values from `PARTS` disjoint parts of the simulated runs, or as many as there are runs."""
    rng = np.random.default_rng([seed, PARTS])
    count = min(PARTS, *(len(own) for own in stops)) if stops else 0
    parts = [np.array_split(rng.permutation(own), count) for own in stops]
    return [uniformity([own[part] for own in parts], times, seed).p for part in range(count)]


def path_rank(curves: np.ndarray, law: FloatArray, path: FloatArray) -> tuple[float, float]:
    """(largest distance of a path from the law, its p-value among simulated paths).

    Args:
        curves: simulated accuracies (replicates, grid).
        law: expected accuracy (grid,).
        path: the accuracies to be judged, (grid,).
    """
    distance = float(np.abs(path - law).max())
    simulated = np.abs(curves - law).max(axis=1)
    return distance, float((1 + np.count_nonzero(simulated >= distance - 1e-12)) / (1 + len(curves)))


def joined(p_values: Sequence[float]) -> float:
    """Fisher's p-value of independent ones."""
    return float(combine_pvalues(list(p_values), method="fisher").pvalue)
