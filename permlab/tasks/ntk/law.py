"""`task.mode=law`: the table of exact ensemble sizes with bands and published points, growth fits, figure N(k)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

from permlab.config import Config
from permlab.ntk.all_inputs import ensemble_size_all, ensemble_size_all_lower
from permlab.ntk.bounds import sufficient_size, sufficient_size_all
from permlab.ntk.fits import growth_fits, local_exponent
from permlab.ntk.law import ensemble_size
from permlab.ntk.published import PUBLISHED_TO_90_PERCENT
from permlab.runs.run import Run
from permlab.tasks.ntk import ENUMERATED_K, NtkConfig
from permlab.tasks.ntk.figures import draw_sizes

BAND = (0.025, 0.5, 0.975)
Row = dict[str, Any]
T = TypeVar("T")


def run_law(config: Config, run: Run) -> None:
    """Compute the table, its bands, the fits and the figure."""
    task = config.task
    rows = law_rows(task)
    add_bands(config, run, rows)
    add_published(rows, task)
    shown = [key for key in rows[0] if key not in ("parameterization", "target", "test")]
    title = f"networks to {task.target:.0%} ({task.test} test, {task.parameterization} parameterization)"
    run.table("ensemble_size", rows, title=title, columns=shown)
    summarize(run, task, rows)
    report_fits(run, task, rows)
    run.figure("n_against_k", draw_sizes(task, rows))


def law_rows(task: NtkConfig) -> list[Row]:
    """One row for each pair (k, ones), or each k for test=all, with the exact size and the bounds."""
    pairs: list[tuple[int, int | None]] = [
        (k, m) for m in ([None] if task.test == "all" else task.ones) for k in sorted(set(task.k))
    ]
    rows = []
    for k, ones in pairs:
        row: Row = {"k": k, "ones": ones, "parameterization": task.parameterization, "target": task.target}
        if ones is None:
            row["ensemble_size"] = ensemble_size_all(k, task.target, task.parameterization)
        else:
            row["ensemble_size"] = int(ensemble_size(k, ones, task.target, task.parameterization))
        row |= {"low": None, "high": None, "published": None}
        if ones is None:
            row["necessary"] = ensemble_size_all_lower(k, task.target, task.parameterization)
            row["sufficient_bound"] = sufficient_size_all(k, task.target, task.parameterization)
        else:
            row["sufficient_bound"] = int(sufficient_size(k, ones, task.target, task.parameterization))
        rows.append(row | {"test": task.test})
    return rows


def has_band(task: NtkConfig, k: int) -> bool:
    """Whether runs are simulated for this k."""
    limit = min(task.band_up_to, ENUMERATED_K) if task.test == "all" else task.band_up_to
    return task.replicates > 0 and k <= limit


def add_bands(config: Config, run: Run, rows: list[Row]) -> None:
    """Fill low, high and median with the quantiles of simulated stopping times."""
    from permlab.ntk.sampling import stopping_times

    task = config.task
    chosen = [row for row in rows if has_band(task, row["k"])]
    if len(chosen) < len(rows) and task.replicates:
        run.say(
            f"no band for {len(rows) - len(chosen)} of {len(rows)} rows: simulated runs stop at k={task.band_up_to}"
            + (f" ({ENUMERATED_K} for task.test=all)" if task.test == "all" else "")
        )

    def simulate(row: Row) -> np.ndarray:
        return stopping_times(
            row["k"],
            row["ones"] or 2,
            task.target,
            task.parameterization,
            test=task.test,
            tests=task.tests,
            replicates=task.replicates,
            seed=config.seed,
        )

    for row, times in zip(chosen, in_threads(simulate, chosen, run, "simulating runs")):
        row["low"], row["median"], row["high"] = (int(q) for q in np.quantile(times, BAND, method="inverted_cdf"))


def in_threads(work: Callable[[Row], T], rows: list[Row], run: Run, description: str) -> list[T]:
    """Map over rows on all CPU threads, the dearest first, one torch thread each; results in the order of rows."""
    import torch

    order = sorted(range(len(rows)), key=lambda index: -rows[index]["k"])
    results: list[Any] = [None] * len(rows)
    workers = max(1, min(torch.get_num_threads(), len(rows)))
    with _one_torch_thread(), run.progress(description, len(rows)) as bar, ThreadPoolExecutor(workers) as pool:
        futures = {index: pool.submit(work, rows[index]) for index in order}
        try:
            for done, index in enumerate(order, start=1):
                results[index] = futures[index].result()
                bar.update(done)
                run.check_stop()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return results


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Small products of concurrent workers would fight for the cores if each used all of them."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def add_published(rows: list[Row], task: NtkConfig) -> None:
    """Published points where the row asks the published question; `against_band` says which lie outside the band."""
    for row in rows:
        asked = task.test != "all" and row["ones"] == 2 and abs(task.target - 0.9) < 1e-12
        published = PUBLISHED_TO_90_PERCENT.get(row["k"]) if asked else None
        row["published"] = published
        if published is None:
            continue
        row["law_over_published"] = row["ensemble_size"] / published
        if task.test == "random" and row["low"] is not None:
            inside = row["low"] <= published <= row["high"]
            row["against_band"] = "inside" if inside else "below" if published < row["low"] else "above"


def summarize(run: Run, task: NtkConfig, rows: list[Row]) -> None:
    """Headline numbers: the largest k with the first `ones`, and the distance to the published points."""
    last = max((row for row in rows if row["ones"] in (None, task.ones[0])), key=lambda row: row["k"])
    run.summary(ensemble_size=last["ensemble_size"], sufficient_bound=last["sufficient_bound"])
    if "necessary" in last:
        run.summary(ensemble_size_necessary=last["necessary"])
    if last["low"] is not None:
        run.summary(ensemble_size_low=last["low"], ensemble_size_high=last["high"])
    ratios = [row["law_over_published"] for row in rows if row["published"] and row["k"] >= 10]
    if len(ratios) >= 3:
        error = float(np.median(np.abs(np.array(ratios) - 1)))
        run.summary(published_median_error=error, published_points=len(ratios))
        run.say(f"published points, k >= 10: median |law / published - 1| = {error:.3f} over {len(ratios)} points")
    outside = [row for row in rows if row.get("against_band") in ("above", "below")]
    judged = [row for row in rows if row.get("against_band")]
    if judged:
        names = ", ".join(f"k={row['k']} ({row['against_band']})" for row in outside) or "none"
        run.summary(published_outside_band=len(outside))
        run.say(f"published points outside the 95 % band: {names}; {len(judged)} points, one run each")


def report_fits(run: Run, task: NtkConfig, rows: list[Row]) -> None:
    """Fits of N(k) to the growth laws, for every number of ones with at least three sizes."""
    table = []
    for ones in [None] if task.test == "all" else task.ones:
        series = [row for row in rows if row["ones"] == ones and row["k"] >= task.fit_from]
        if len(series) < 3:
            continue
        k, sizes = [row["k"] for row in series], [row["ensemble_size"] for row in series]
        for fit in growth_fits(k, sizes):
            table.append(
                {"ones": ones, "shape": fit.shape, "constant": fit.constant, "rms_log_residual": fit.residual}
                | {"worst_ratio": fit.worst, "k_from": k[0], "k_to": k[-1]}
            )
        if ones in (None, task.ones[0]):
            named = {fit["shape"]: fit["rms_log_residual"] for fit in table if fit["ones"] == ones}
            run.summary(
                fit_k_log_k=named["k log k"],
                fit_k_32_log_k=named["k^1.5 log k"],
                fit_k_squared=named["k^2"],
                local_exponent=float(local_exponent(k, sizes)[-1]),
            )
    if table:
        run.table("fits", table, title="growth of the ensemble size: least squares on log N")
