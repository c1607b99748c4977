"""Exact ensembles against the published training loop, in one process: `python scripts/bench_ntk.py`.

Measures the cost of one k = 30, width 50,000 network three ways: the exact solution, our batched gradient descent to
convergence, and the published loop (autograd on two linear layers, plain SGD at 1e-3, 10,000 epochs), which is timed
on a few epochs and EXTRAPOLATED. Then the closed forms: one input at k = 10^6, all inputs at k = 10^4, and the k =
2..30 table with bands. About one minute on two cores, most of it the published loop and the bands.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from permlab.ntk import ensemble_size, ensemble_size_all
from permlab.ntk.descent import DescentEnsemble
from permlab.ntk.finite import ExactEnsemble, Problem, Spec
from permlab.ntk.inputs import draw_test_set
from permlab.ntk.published import PUBLISHED_EPOCHS, PUBLISHED_LEARNING_RATE, PUBLISHED_WIDTH
from permlab.ntk.sampling import stopping_times

LIMITS = {"exact_seconds": 0.5, "law_million_seconds": 1e-3, "all_inputs_seconds": 1.0, "table_seconds": 10.0}
LEAST_RATIO = 2_000
PUBLISHED_BATCH = 256  # more than k rows: one full batch an epoch


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    work()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def published_epoch(k: int, width: int, problem: Problem) -> Callable[[], None]:
    """One epoch as the released experiment trains: biases at zero, a shuffling loader, one full batch."""
    model = torch.nn.Sequential(torch.nn.Linear(k, width), torch.nn.ReLU(), torch.nn.Linear(width, k))
    for layer, fan_in in ((model[0], k), (model[2], width)):
        torch.nn.init.normal_(layer.weight, std=fan_in**-0.5)
        torch.nn.init.zeros_(layer.bias)
    optimizer = torch.optim.SGD(model.parameters(), lr=PUBLISHED_LEARNING_RATE)
    rows = TensorDataset(torch.eye(k), torch.eye(k)[torch.from_numpy(problem.permutation)])
    loader = DataLoader(rows, batch_size=PUBLISHED_BATCH, shuffle=True)

    def epoch() -> None:
        for inputs, targets in loader:
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(inputs), targets).backward()
            optimizer.step()

    return epoch


def alternate(exact: Callable[[], object], epoch: Callable[[], None], rounds: int, epochs: int) -> dict[str, float]:
    """Time both sides in turns, so that a slow moment of the machine meets both; medians over rounds."""
    exact_seconds, epoch_seconds = [], []
    for _ in range(rounds):
        exact_seconds.append(median_seconds(exact, 5))
        epoch_seconds.append(median_seconds(epoch, epochs))
    ratios = [PUBLISHED_EPOCHS * theirs / ours for ours, theirs in zip(exact_seconds, epoch_seconds)]
    return {
        "exact_seconds": statistics.median(exact_seconds),
        "published_epoch_seconds": statistics.median(epoch_seconds),
        "published_over_exact": statistics.median(ratios),
        "published_over_exact_smallest": min(ratios),
        "published_over_exact_largest": max(ratios),
    }


def table_with_bands(workers: int) -> float:
    """Seconds of the k = 2..30 law table with the bands of 200 simulated runs each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    start = time.perf_counter()
    ensemble_size(np.arange(2, 31), 2, 0.9)
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda k: stopping_times(k, 2, 0.9, replicates=200), range(30, 1, -1)))
    seconds = time.perf_counter() - start
    torch.set_num_threads(threads)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--k", type=int, default=30)
    parser.add_argument("--width", type=int, default=PUBLISHED_WIDTH)
    parser.add_argument("--epochs", type=int, default=20, help="epochs of the published loop that are timed")
    parser.add_argument("--rounds", type=int, default=9, help="turns of exact solutions and published epochs")
    # Networks are independent, so a machine is used best with one per core: one core's cost is the unit of both sides.
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    k, width = arguments.k, arguments.width
    rng = np.random.default_rng(0)
    problem = Problem(rng.permutation(k), draw_test_set(k, 2, "random", 1000, 1, rng).inputs)
    exact = ExactEnsemble(Spec(k, width), problem)
    descent = DescentEnsemble(Spec(k, width, layers="both"), problem)
    start = time.perf_counter()
    trained = descent.outputs([0])
    descent_seconds = time.perf_counter() - start
    result = {
        "threads": arguments.threads,
        "descent_seconds": descent_seconds,
        "descent_epochs": descent.epochs,
        "descent_training_error": descent.training_error,
        "descent_largest_difference_from_exact": float((trained - exact.outputs([0])).abs().max()),
        **alternate(lambda: exact.outputs([0]), published_epoch(k, width, problem), arguments.rounds, arguments.epochs),
        "published_epochs_timed": arguments.epochs,
        "law_million_seconds": median_seconds(lambda: ensemble_size(10**6, 2, 0.9), 50),
        "all_inputs_seconds": median_seconds(lambda: ensemble_size_all(10_000, 0.9), 5),
        "table_seconds": table_with_bands(arguments.threads),
    }
    extrapolated = result["published_epoch_seconds"] * PUBLISHED_EPOCHS
    result["published_network_seconds_extrapolated"] = extrapolated
    result["descent_over_exact"] = descent_seconds / result["exact_seconds"]
    met = {key: result[key] <= limit for key, limit in LIMITS.items()}
    met["published_over_exact"] = result["published_over_exact"] >= LEAST_RATIO
    print(json.dumps(result | {"limits_met": met}, indent=2))


if __name__ == "__main__":
    main()
