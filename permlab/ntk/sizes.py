"""Ensemble sizes as rows of a table: `size_rows(EnsembleSettings(k=[10, 20]))`, published points, growth fits.

Two sizes answer two questions, and both stand in a row. `ensemble_size` is where the expected accuracy reaches the
target. `first_low`, `first_median` and `first_high` are about the first N at which the accuracy of one run does, which
is what a published point is: a run fluctuates around its expectation, so that it gets there earlier, much earlier
where the target leaves no test wrong. At k = 10 and 99.9 % every one of the 45 inputs has to be right: runs first get
there after about 60 to 145 networks, and the expectation after 156. A row also has k and ones (None where every input
counts).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from permlab.ntk.all_inputs import ensemble_size_all, ensemble_size_all_lower
from permlab.ntk.bounds import sufficient_size, sufficient_size_all
from permlab.ntk.fits import growth_fits, local_exponent
from permlab.ntk.law import ensemble_size
from permlab.ntk.published import PUBLISHED_ONES, curvature_times_rate, first_published
from permlab.ntk.settings import EnsembleSettings
from permlab.ntk.table import GROWTHS
from permlab.ntk.transform import Uniformity, uniformity, uniformity_of_parts
from permlab.tables import Row


def size_rows(settings: EnsembleSettings) -> list[Row]:
    """One row for each pair (k, ones), or each k where every input counts, with the exact size and the bounds."""
    return [_size_row(settings, k, ones) for ones in settings.counts for k in sorted(set(settings.k))]


def _size_row(settings: EnsembleSettings, k: int, ones: int | None) -> Row:
    question = (settings.target, settings.parameterization)
    row: Row = {"k": k, "ones": ones, "parameterization": settings.parameterization, "target": settings.target}
    size = ensemble_size_all(k, *question) if ones is None else int(ensemble_size(k, ones, *question))
    row |= {"ensemble_size": size, "first_low": None, "first_high": None, "published": None}
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
        published = first_published(row["k"], settings.target) if row["ones"] == PUBLISHED_ONES else None
        row["published"] = published
        if published is None:
            continue
        if row["ensemble_size"] is not None:
            row["law_over_published"] = row["ensemble_size"] / published
        if settings.testing.drawn and row["first_low"] is not None:
            low, high = row["first_low"], row["first_high"]
            row["against_band"] = "below" if published < low else "above" if published > high else "inside"


def headline(rows: Sequence[Row], settings: EnsembleSettings) -> dict[str, float]:
    """Numbers of the largest k: its size, what bounds it, and the band of first passages where there is one."""
    last = max(headline_rows(rows, settings), key=lambda row: row["k"])
    found = {"ensemble_size": last["ensemble_size"], "sufficient_bound": last["sufficient_bound"]}
    if "necessary" in last:
        found["ensemble_size_necessary"] = last["necessary"]
    if last["first_low"] is not None:
        found |= {"first_low": last["first_low"], "first_high": last["first_high"]}
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
        said.append(
            f"published points, k >= 10: median |ensemble_size / published - 1| = {error:.3f} ({len(ratios)} points)"
        )
    judged = [row for row in rows if row.get("against_band")]
    if judged:
        outside = [row for row in judged if row["against_band"] != "inside"]
        names = ", ".join(f"k={row['k']} ({row['against_band']})" for row in outside) or "none"
        found["published_outside_band"] = len(outside)
        said.append(f"published points outside the 95 % band: {names}; {len(judged)} points, one run each")
    return found, said


def judge_points(
    rows: Sequence[Row], stops: Mapping[int, np.ndarray], seed: int
) -> tuple[Uniformity | None, dict[str, float], list[str]]:
    """Published points as one sample under the simulated stopping times: (test, numbers, sentences).

    Rows get `transformed`. Left out are the k whose published training was no descent (`curvature_times_rate`).
    """
    judged = [row for row in rows if row["published"] and row["k"] in stops and curvature_times_rate(row["k"]) < 2]
    if len(judged) < 2:
        return None, {}, []
    own, times = [stops[row["k"]] for row in judged], [row["published"] for row in judged]
    test, parts = uniformity(own, times, seed), uniformity_of_parts(own, times, seed)
    for row, point in zip(judged, test.points):
        row["transformed"] = float(point)
    found = {"pit_p": test.p, "pit_p_low": min(parts), "pit_p_high": max(parts), "pit_points": len(judged)}
    span = f"k = {judged[0]['k']}..{judged[-1]['k']}"
    said = (
        f"published points under the simulated first passages: p = {test.p:.2f} over {len(judged)} points ({span}); "
        f"{min(parts):.2f} to {max(parts):.2f} from tenths of the simulated runs"
    )
    return test, found, [said]


def percent(share: float) -> str:
    """A share in words with all of its digits: 0.999 is `99.9%`."""
    return f"{100 * share:.10g}%"


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
