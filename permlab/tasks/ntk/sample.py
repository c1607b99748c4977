"""`task.mode=sample`: ensembles drawn from the Gaussian process; stopping times and accuracy against N."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from permlab.config import Config
from permlab.ntk.all_inputs import log_binomial
from permlab.ntk.law import success_probability
from permlab.ntk.sampling import accuracy_curves, stopping_times
from permlab.runs.run import Run
from permlab.tasks.ntk import NtkConfig
from permlab.tasks.ntk.figures import draw_accuracy, draw_sizes
from permlab.tasks.ntk.law import BAND, add_published, in_threads, law_rows, summarize

Row = dict[str, Any]


def run_sample(config: Config, run: Run) -> None:
    """Simulate every (k, ones): first the stopping times, then accuracies on a grid of N."""
    task = config.task
    rows = law_rows(task)
    common = {"test": task.test, "tests": task.tests, "replicates": task.replicates}

    def simulate(row: Row) -> tuple[np.ndarray, np.ndarray]:
        k, ones = row["k"], row["ones"] or 2
        grid = networks_grid(task, row)
        times = stopping_times(k, ones, task.target, task.parameterization, seed=config.seed, **common)
        return times, accuracy_curves(k, ones, grid, task.parameterization, seed=config.seed + 1, **common)

    accuracies: list[Row] = []
    stops: list[Row] = []
    for row, (times, curves) in zip(rows, in_threads(simulate, rows, run, "simulating runs")):
        row["low"], row["median"], row["high"] = (int(q) for q in np.quantile(times, BAND, method="inverted_cdf"))
        stops += [{"k": row["k"], "ones": row["ones"], "replicate": i, "first_n": int(n)} for i, n in enumerate(times)]
        row |= {"mean": float(times.mean()), "standard_error": float(times.std() / math.sqrt(len(times)))}
        accuracies += accuracy_rows(task, row, curves)
    add_published(rows, task)
    shown = ["k", "ones", "ensemble_size", "low", "median", "high", "mean", "standard_error", "published"]
    run.table("ensemble_size", rows, title=f"first N with accuracy of {task.target:.0%}, simulated", columns=shown)
    run.table("stopping_times", stops, show=False)
    run.table("accuracy", accuracies, show=False)
    summarize(run, task, rows)
    last = max((row for row in rows if row["ones"] in (None, task.ones[0])), key=lambda row: row["k"])
    worst = max(abs(row["z"]) for row in accuracies)
    run.summary(stopping_mean=last["mean"], accuracy_worst_z=worst)
    run.say(f"accuracy against law at {len(accuracies)} points (k, N): largest deviation {worst:.2f} standard errors")
    run.figure("accuracy_against_networks", draw_accuracy(task, accuracies))
    run.figure("n_against_k", draw_sizes(task, rows))


def networks_grid(task: NtkConfig, row: Row) -> list[int]:
    """Numbers of networks at which accuracy is recorded."""
    if task.networks:
        return list(task.networks)
    top = max(2, round(1.5 * row["ensemble_size"]))
    return sorted({max(1, round(top * share)) for share in np.linspace(0, 1, 41)})


def expected_accuracy(task: NtkConfig, k: int, ones: int | None, networks: np.ndarray) -> np.ndarray:
    """The law's mean accuracy over the test set after each number of networks."""
    if ones is not None:
        return success_probability(k, ones, networks, task.parameterization)
    m = np.arange(1, k + 1)
    share = np.exp(log_binomial(float(k), m)) / (2.0**k - 1.0)
    return (share * success_probability(k, m, networks[:, None], task.parameterization)).sum(axis=1)


def accuracy_rows(task: NtkConfig, row: Row, curves: np.ndarray) -> list[Row]:
    """Rows (N, law, mean, 95 % band over runs, deviation in standard errors) of one (k, ones)."""
    grid = np.array(networks_grid(task, row))
    law = expected_accuracy(task, row["k"], row["ones"], grid)
    low, high = np.quantile(curves, (BAND[0], BAND[2]), axis=0)
    # The spread of a run's accuracy is at least that of one right or wrong test: no zero errors at the ends.
    floor = np.sqrt(np.maximum(law * (1 - law), 1e-6) / task.tests)
    error = np.maximum(curves.std(axis=0), floor) / math.sqrt(len(curves))
    z = (curves.mean(axis=0) - law) / error
    return [
        {
            "k": row["k"],
            "ones": row["ones"],
            "networks": int(n),
            "law": float(law[i]),
            "accuracy": float(curves[:, i].mean()),
        }
        | {"low": float(low[i]), "high": float(high[i]), "z": float(z[i])}
        for i, n in enumerate(grid)
    ]
