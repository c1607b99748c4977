"""All 2^k - 1 inputs at once: between the two bounds by brute force, stable far beyond what can be enumerated."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from scipy.stats import binomtest

from permlab.errors import UserError
from permlab.ntk import ensemble_size, ensemble_size_all, ensemble_size_all_lower, success_probability_all
from permlab.ntk.all_inputs import error_classes, log_binomial
from permlab.ntk.bounds import sufficient_size_all
from permlab.ntk.kernels import nngp_kernel, normalized, tangent_kernel
from permlab.ntk.law import log_success
from permlab.ntk.process import all_binary_inputs


def simulate_all_inputs(k, networks, draws, parameterization, seed):
    """How often every rounded output of every input is right, without the closed form.

    Untrained outputs are drawn from the NNGP prior over training and test inputs together, then trained by the linear
    map of kernel regression.
    """
    rng = np.random.default_rng(seed)
    bits = all_binary_inputs(k)
    bits = bits[bits.sum(axis=1) > 1]
    train, tests = np.eye(k), normalized(bits)
    joint = np.concatenate([train, tests])
    values, vectors = np.linalg.eigh(nngp_kernel(joint, joint))
    factor = vectors * np.sqrt(np.clip(values, 0, None))
    weights = np.linalg.solve(
        tangent_kernel(train, train, parameterization), tangent_kernel(train, tests, parameterization)
    )
    right = 0
    for _ in range(draws):
        untrained = factor @ rng.standard_normal((len(joint), k)) / math.sqrt(networks)
        trained = untrained[k:] + weights.T @ (np.eye(k) - untrained[:k])
        right += ((trained > 0) == bits).all()
    return int(right)


@pytest.mark.parametrize("k", [*range(2, 9), *(pytest.param(k, marks=pytest.mark.slow) for k in (9, 10))])
def test_brute_force_lies_between_the_bounds(k):
    enough, lower = ensemble_size_all(k, 0.9), ensemble_size_all_lower(k, 0.9)
    assert 1 <= lower <= enough
    draws = 400 if k <= 7 else 60
    right = simulate_all_inputs(k, enough, draws, "standard", seed=k)
    assert binomtest(right, draws, 0.9, alternative="less").pvalue > 1e-4
    if lower > 2:
        right = simulate_all_inputs(k, lower // 2, draws, "standard", seed=k)
        assert binomtest(right, draws, 0.9, alternative="greater").pvalue > 1e-4


@pytest.mark.parametrize("parameterization", ["standard", "ntk"])
def test_size_is_the_smallest_of_its_bound_and_close_to_the_plain_union(parameterization):
    for k in (3, 10, 40):
        size = ensemble_size_all(k, 0.9, parameterization)
        assert success_probability_all(k, size, parameterization) >= 0.9
        assert success_probability_all(k, size - 1, parameterization) < 0.9
        ones = np.arange(1, k + 1)
        # the union bound over inputs, summed in the plain way
        wrong = np.exp(log_binomial(float(k), ones)) * -np.expm1(log_success(k, ones, size, parameterization))
        assert 0.09 < wrong.sum() < 0.11


def test_classes_count_every_input_once_for_each_target():
    classes = error_classes(12)
    counts = np.exp(classes.log_count)
    assert counts[classes.on].sum() == pytest.approx(2**11 - 1)  # without the single 1 at the coordinate
    assert counts[~classes.on].sum() == pytest.approx(2**11 - 1 - 11)  # without zero and the 11 other basis vectors


def test_bounds_are_ordered_and_tight_where_two_ones_decide():
    for k in (30, 100, 1000):
        single, lower, upper = ensemble_size(k, 2, 0.9), ensemble_size_all_lower(k, 0.9), ensemble_size_all(k, 0.9)
        assert single < lower <= upper <= sufficient_size_all(k, 0.9)
        assert lower / upper > 0.99


def test_large_sizes_are_fast_and_finite():
    start = time.perf_counter()
    size = ensemble_size_all(10_000, 0.9)
    assert time.perf_counter() - start < 1
    assert 10_000 < ensemble_size_all_lower(10_000, 0.9) < size < 10_000**2
    assert success_probability_all(10_000, size) >= 0.9
    assert success_probability_all(10_000, size // 2) == 0.0


def test_enumeration_is_refused_when_it_cannot_fit():
    with pytest.raises(UserError, match="at most 16"):
        all_binary_inputs(40)
    with pytest.raises(UserError, match="k of at least 2"):
        ensemble_size_all(1, 0.9)
