"""Ensemble sizes as rows of a table: `size_rows(EnsembleSettings(k=[10, 20]))`, published points, growth fits.

A row has k, ones (None where every input counts), ensemble_size, and low/high for the band of simulated runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from permlab.ntk.all_inputs import ensemble_size_all, ensemble_size_all_lower
from permlab.ntk.bounds import sufficient_size, sufficient_size_all
from permlab.ntk.fits import growth_fits, local_exponent
from permlab.ntk.law import ensemble_size
from permlab.ntk.published import PUBLISHED_TO_90_PERCENT
from permlab.ntk.settings import EnsembleSettings
from permlab.ntk.table import GROWTHS
from permlab.tables import Row

PUBLISHED_ONES, PUBLISHED_TARGET = 2, 0.9
"""What the published points answer: test inputs with two ones, 90 % of them right."""


def size_rows(settings: EnsembleSettings) -> list[Row]:
    """One row for each pair (k, ones), or each k where every input counts, with the exact size and the bounds."""
    return [_size_row(settings, k, ones) for ones in settings.counts for k in sorted(set(settings.k))]


def _size_row(settings: EnsembleSettings, k: int, ones: int | None) -> Row:
    question = (settings.target, settings.parameterization)
    row: Row = {"k": k, "ones": ones, "parameterization": settings.parameterization, "target": settings.target}
    size = ensemble_size_all(k, *question) if ones is None else int(ensemble_size(k, ones, *question))
    row |= {"ensemble_size": size, "low": None, "high": None, "published": None}
    if ones is None:
        row["necessary"] = ensemble_size_all_lower(k, *question)
        row["sufficient_bound"] = sufficient_size_all(k, *question)
    else:
        row["sufficient_bound"] = int(sufficient_size(k, ones, *question))
    return row | {"test": settings.test}


def headline_rows(rows: Sequence[Row], settings: EnsembleSettings) -> list[Row]:
    """The rows that headline numbers are taken from: the first number of ones, or all where every input counts."""
    return [row for row in rows if row["ones"] in (None, settings.ones[0])]


def add_published(rows: Sequence[Row], settings: EnsembleSettings) -> None:
    """Published points where a row asks the published question; `against_band` says which lie outside the band."""
    for row in rows:
        # The released runs answer one question; next to another one their numbers would look like a failure of the law.
        asked = row["ones"] == PUBLISHED_ONES and abs(settings.target - PUBLISHED_TARGET) < 1e-12
        published = PUBLISHED_TO_90_PERCENT.get(row["k"]) if asked else None
        row["published"] = published
        if published is None:
            continue
        if row["ensemble_size"] is not None:
            row["law_over_published"] = row["ensemble_size"] / published
        if settings.testing.drawn and row["low"] is not None:
            inside = row["low"] <= published <= row["high"]
            row["against_band"] = "inside" if inside else "below" if published < row["low"] else "above"


def headline(rows: Sequence[Row], settings: EnsembleSettings) -> dict[str, float]:
    """Numbers of the largest k: its size, what bounds it, and the band of simulated runs where there is one."""
    last = max(headline_rows(rows, settings), key=lambda row: row["k"])
    found = {"ensemble_size": last["ensemble_size"], "sufficient_bound": last["sufficient_bound"]}
    if "necessary" in last:
        found["ensemble_size_necessary"] = last["necessary"]
    if last["low"] is not None:
        found |= {"ensemble_size_low": last["low"], "ensemble_size_high": last["high"]}
    return found


def against_published(rows: Sequence[Row]) -> tuple[dict[str, float], list[str]]:
    """How far the published points lie from the law (k >= 10) and from the bands: (numbers, sentences)."""
    found: dict[str, float] = {}
    said = []
    # Below k = 10 there are fewer than 45 inputs with two ones: accuracy moves in steps, and one run says little.
    ratios = [row["law_over_published"] for row in rows if "law_over_published" in row and row["k"] >= 10]
    if len(ratios) >= 3:
        error = float(np.median(np.abs(np.array(ratios) - 1)))
        found |= {"published_median_error": error, "published_points": len(ratios)}
        said.append(f"published points, k >= 10: median |law / published - 1| = {error:.3f} over {len(ratios)} points")
    judged = [row for row in rows if row.get("against_band")]
    if judged:
        outside = [row for row in judged if row["against_band"] != "inside"]
        names = ", ".join(f"k={row['k']} ({row['against_band']})" for row in outside) or "none"
        found["published_outside_band"] = len(outside)
        said.append(f"published points outside the 95 % band: {names}; {len(judged)} points, one run each")
    return found, said


def growth_rows(rows: Sequence[Row], settings: EnsembleSettings) -> tuple[list[Row], dict[str, float]]:
    """Fits of N(k) to the laws of growth, for every number of ones with three sizes or more: (rows, numbers).

    The numbers are those of the first number of ones: the residual of each law, and the last local exponent.
    """
    table: list[Row] = []
    numbers: dict[str, float] = {}
    for ones in settings.counts:
        series = [row for row in rows if row["ones"] == ones and row["k"] >= settings.fit_from]
        if len(series) < 3:
            continue
        k, sizes = [row["k"] for row in series], [row["ensemble_size"] for row in series]
        fits = growth_fits(k, sizes)
        table += [
            {"ones": ones, "shape": fit.shape, "constant": fit.constant, "rms_log_residual": fit.residual}
            | {"worst_ratio": fit.worst, "k_from": k[0], "k_to": k[-1]}
            for fit in fits
        ]
        if ones in (None, settings.ones[0]):
            numbers = {GROWTHS[fit.shape].metric: fit.residual for fit in fits}
            numbers["local_exponent"] = float(local_exponent(k, sizes)[-1])
    return table, numbers
