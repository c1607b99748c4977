"""`task.mode=law` and `sample`: exact ensemble sizes with bands and published points, and runs drawn from the law."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from permlab.config import Config
from permlab.ntk.settings import ENUMERATED_K
from permlab.ntk.simulated import (
    accuracy_rows,
    band,
    judge_curve,
    mean_and_error,
    simulate_accuracy,
    simulate_stops,
)
from permlab.ntk.sizes import (
    add_published,
    against_published,
    growth_rows,
    headline,
    headline_rows,
    judge_points,
    percent,
    size_rows,
)
from permlab.ntk.transform import joined
from permlab.processes import side_by_side
from permlab.runs.run import Run
from permlab.tables import Row
from permlab.tasks.ntk.figures import draw_accuracy, draw_sizes, draw_transformed
from permlab.tasks.ntk.settings import NtkConfig

T = TypeVar("T")
SIZES = (
    "ensemble_size: the expected accuracy reaches the target; first_low, first_median, first_high: the accuracy of one "
    "run reaches it for the first time, as in the published runs (2.5, 50 and 97.5 % of simulated ones)"
)


def run_law(config: Config[NtkConfig], run: Run) -> None:
    """Compute the table, its bands, the fits and the figure."""
    task = config.task
    rows = size_rows(task)
    stops = add_bands(config, run, rows)
    add_published(rows, task)
    test, numbers, said = judge_points(headline_rows(rows, task), stops, config.seed)
    shown = [key for key in rows[0] if key not in ("parameterization", "target", "test")]
    title = f"networks to {percent(task.target)} ({task.test} test, {task.parameterization} parameterization)"
    run.table("ensemble_size", rows, title=title, columns=shown)
    if stops:
        run.say(SIZES)
    summarize(run, task, rows)
    run.summary(**numbers)
    for sentence in said:
        run.say(sentence)
    fits, numbers = growth_rows(rows, task)
    run.summary(**numbers)
    if fits:
        run.table("fits", fits, title="growth of the ensemble size: least squares on log N")
    run.figure("n_against_k", draw_sizes(task, rows))
    if test is not None:
        run.figure("published_transformed", draw_transformed(rows, test))


def add_bands(config: Config[NtkConfig], run: Run, rows: list[Row]) -> dict[int, np.ndarray]:
    """Fill first_low, first_median and first_high with quantiles of simulated stopping times; return those by k."""
    task = config.task
    chosen = [row for row in rows if task.has_band(row["k"])]
    if len(chosen) < len(rows) and task.replicates:
        run.say(
            f"no band for {len(rows) - len(chosen)} of {len(rows)} rows: simulated runs stop at k={task.band_up_to}"
            + (f" ({ENUMERATED_K} for task.test={task.test})" if task.testing.every else "")
        )
    stops = simulated(functools.partial(row_stops, task, config.seed), chosen, run)
    for row, times in zip(chosen, stops):
        row["first_low"], row["first_median"], row["first_high"] = band(times)
    first = headline_rows(rows, task)
    return {row["k"]: times for row, times in zip(chosen, stops) if row in first}


def row_stops(task: NtkConfig, seed: int, row: Row) -> np.ndarray:
    """Stopping times of one (k, ones)."""
    return simulate_stops(task, row["k"], row["ones"], seed)


def row_runs(task: NtkConfig, seed: int, row: Row) -> tuple[np.ndarray, np.ndarray]:
    """Stopping times, then accuracies on a grid of N."""
    return row_stops(task, seed, row), simulate_accuracy(task, row, seed + 1)


def simulated(work: Callable[[Row], T], rows: list[Row], run: Run) -> list[T]:
    """Map over rows side by side, with progress and stops between them."""
    with run.progress("simulating runs", len(rows)) as bar:

        def done(count: int) -> None:
            bar.update(count)
            run.check_stop()

        return side_by_side(work, rows, lambda row: float(row["k"]), done)


def summarize(run: Run, task: NtkConfig, rows: list[Row]) -> None:
    """Headline numbers: the largest k with the first `ones`, and the distance to the published points."""
    run.summary(**headline(rows, task))
    numbers, said = against_published(rows)
    run.summary(**numbers)
    for sentence in said:
        run.say(sentence)


def run_sample(config: Config[NtkConfig], run: Run) -> None:
    """Simulate every (k, ones): first the stopping times, then accuracies on a grid of N."""
    task = config.task
    rows = size_rows(task)
    simulate = functools.partial(row_runs, task, config.seed)
    accuracies: list[Row] = []
    stops: list[Row] = []
    by_k: dict[int, tuple[Row, np.ndarray]] = {}
    for row, (times, curves) in zip(rows, simulated(simulate, rows, run)):
        row["first_low"], row["first_median"], row["first_high"] = band(times)
        by_k.setdefault(row["k"], (row, curves))  # of the first number of ones
        stops += [{"k": row["k"], "ones": row["ones"], "replicate": i, "first_n": int(n)} for i, n in enumerate(times)]
        row["mean"], row["standard_error"] = mean_and_error(times)
        accuracies += accuracy_rows(task, row, curves)
    add_published(rows, task)
    shown = [
        "k",
        "ones",
        "ensemble_size",
        "first_low",
        "first_median",
        "first_high",
        "mean",
        "standard_error",
        "published",
    ]
    title = f"first N with accuracy of {percent(task.target)}, simulated"
    run.table("ensemble_size", rows, title=title, columns=shown)
    run.say(SIZES)
    run.table("stopping_times", stops, show=False)
    run.table("accuracy", accuracies, show=False)
    summarize(run, task, rows)
    last = max(headline_rows(rows, task), key=lambda row: row["k"])
    worst = max(abs(row["z"]) for row in accuracies)
    run.summary(stopping_mean=last["mean"], accuracy_worst_z=worst)
    run.say(f"accuracy against law at {len(accuracies)} points (k, N): largest deviation {worst:.2f} standard errors")
    judged = [row for row, curves in by_k.values() if judge_curve(task, row, curves)]
    if judged:
        p = joined([row["curve_p"] for row in judged])
        least = min(row["curve_p"] for row in judged)
        run.summary(curve_p=p, curve_p_least=least, curve_points=len(judged))
        shown = ["k", "ones", "curve_distance", "curve_p"]
        run.table("published_curves", judged, title="published accuracy curves among simulated ones", columns=shown)
        run.say(f"{len(judged)} published curves under the law: joint p = {p:.3f}, least {least:.3f}")
    run.figure("accuracy_against_networks", draw_accuracy(task, accuracies))
    run.figure("n_against_k", draw_sizes(task, rows))
