"""Sampled ensembles against the law, against direct simulation of whole runs, and coarse walks against dense ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, ks_2samp

from permlab.errors import UserError
from permlab.ntk import ensemble_size, posterior_covariance, success_probability
from permlab.ntk.inputs import draw_test_set
from permlab.ntk.kernels import nngp_kernel, normalized, tangent_kernel
from permlab.ntk.process import all_binary_inputs
from permlab.ntk.sampling import OutputProcess, accuracy_curves, stopping_times


@pytest.mark.parametrize("k,ones", [(3, 2), (8, 2), (8, 3), (8, 8), (20, 2), (30, 5)])
@pytest.mark.parametrize("parameterization", ["standard", "ntk"])
def test_success_frequencies_agree_with_the_law(k, ones, parameterization):
    sizes = sorted({max(1, int(ensemble_size(k, ones, p, parameterization))) for p in (0.3, 0.7, 0.95)})
    draws = 1500
    curves = accuracy_curves(k, ones, sizes, parameterization, test="single", replicates=draws, seed=3)
    assert set(np.unique(curves)) <= {0.0, 1.0}
    for size, column in zip(sizes, curves.T):
        expected = float(success_probability(k, ones, size, parameterization))
        assert binomtest(int(column.sum()), draws, expected).pvalue > 1e-4


def test_accuracy_over_random_tests_has_the_laws_mean():
    grid = [10, 30, 58, 90]
    curves = accuracy_curves(10, 2, grid, replicates=300, seed=1)
    error = curves.std(axis=0) / math.sqrt(300)
    assert (np.abs(curves.mean(axis=0) - success_probability(10, 2, grid)) < 4 * error).all()


@pytest.mark.parametrize("parameterization", ["standard", "ntk"])
@pytest.mark.parametrize("k,ones", [(5, 2), (3, 2), (2, 2), (6, 3)])
def test_drawn_sums_have_the_exact_covariance(k, ones, parameterization):
    test_set = draw_test_set(k, ones, "random", 100, 1, np.random.default_rng(0))
    process = OutputProcess(test_set.inputs, parameterization, torch.Generator().manual_seed(0))
    sample = process.draw(40_000, 3.0).double().reshape(-1, len(test_set.inputs))
    measured = (sample.T @ sample / len(sample)).numpy()
    exact = 3.0 * posterior_covariance(test_set.inputs, parameterization)
    assert np.abs(measured - exact).max() < 6 * exact.max() * math.sqrt(2 / len(sample))


def direct_stopping_times(k, target, tests, runs, seed):
    """Whole runs without any shortcut: prior draws, trained by dense regression, networks added one at a time."""
    rng = np.random.default_rng(seed)
    pairs = all_binary_inputs(k)
    pairs = pairs[pairs.sum(axis=1) == 2]
    train, inputs = np.eye(k), normalized(pairs)
    joint = np.concatenate([train, inputs])
    factor = np.linalg.cholesky(nngp_kernel(joint, joint) + 1e-12 * np.eye(len(joint)))
    weights = np.linalg.solve(tangent_kernel(train, train), tangent_kernel(train, inputs))
    times = []
    for _ in range(runs):
        counts = rng.multinomial(tests, np.full(len(pairs), 1 / len(pairs)))
        total, networks, accuracy = 0.0, 0, 0.0
        while accuracy < target - 1e-9:
            untrained = factor @ rng.standard_normal((len(joint), k))
            total = total + untrained[k:] + weights.T @ (np.eye(k) - untrained[:k])
            networks += 1
            accuracy = counts @ ((total > 0) == pairs).all(axis=1) / tests
        times.append(networks)
    return np.array(times)


@pytest.mark.parametrize("k", [5, pytest.param(10, marks=pytest.mark.slow)])
def test_stopping_times_have_the_distribution_of_direct_runs(k):
    direct = direct_stopping_times(k, 0.9, 1000, 150, seed=k)
    sampled = stopping_times(k, 2, 0.9, replicates=300, seed=7)
    assert ks_2samp(direct, sampled).pvalue > 1e-3


@pytest.mark.slow
def test_coarse_walk_has_the_distribution_of_the_dense_walk():
    coarse = stopping_times(12, 2, 0.9, replicates=300, seed=1)  # 66 inputs: enough to walk coarsely
    dense = stopping_times(12, 2, 0.9, replicates=300, seed=2, dense=True)
    assert ks_2samp(coarse, dense).pvalue > 1e-3
    error = math.hypot(coarse.std(), dense.std()) / math.sqrt(300)
    assert abs(coarse.mean() - dense.mean()) < 4 * error


def test_runs_are_reproducible_and_sorted():
    first = stopping_times(12, 2, 0.9, replicates=20, seed=4)
    assert (first == stopping_times(12, 2, 0.9, replicates=20, seed=4)).all()
    assert (np.diff(first) >= 0).all() and first.dtype == np.int64
    assert (first != stopping_times(12, 2, 0.9, replicates=20, seed=5)).any()


def test_all_inputs_stop_when_every_input_is_right():
    times = stopping_times(6, 2, 0.9, test="all", replicates=200, seed=0)
    from permlab.ntk import ensemble_size_all

    # P(all right at N) >= 0.9 there, so at most about 10 % of the runs can still be going
    late = int((times > ensemble_size_all(6, 0.9)).sum())
    assert binomtest(late, 200, 0.1, alternative="greater").pvalue > 1e-4
    assert times.min() > 1


def test_test_sets_are_what_they_say():
    rng = np.random.default_rng(0)
    whole = draw_test_set(10, 2, "random", 1000, 3, rng)
    assert whole.inputs.shape == (45, 10) and whole.weights.shape == (3, 45)
    large = draw_test_set(100, 3, "random", 500, 2, rng)
    assert (large.inputs.sum(axis=1) == 3).all() and len(large.inputs) <= 500
    for test_set in (whole, large, draw_test_set(4, 1, "all", 1, 2, rng), draw_test_set(9, 4, "single", 1, 2, rng)):
        assert torch.allclose(test_set.weights.sum(dim=1), torch.ones(len(test_set.weights)))
        assert len(np.unique(test_set.inputs, axis=0)) == len(test_set.inputs)


def test_training_inputs_are_right_with_one_network():
    assert (stopping_times(9, 1, 0.9, replicates=5) == 1).all()


def test_bad_grid_is_refused():
    with pytest.raises(UserError, match="increasing"):
        accuracy_curves(5, 2, [10, 10])
    with pytest.raises(UserError, match="did you mean 'random'"):
        stopping_times(5, 2, 0.9, test="randm")
