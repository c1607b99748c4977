"""The closed-form law against a dense Gaussian-process solve, its own definition, and the values of the reference."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy.stats import norm

from permlab.errors import UserError
from permlab.ntk import (
    PUBLISHED_TO_90_PERCENT,
    ensemble_size,
    linearithmic_constant,
    posterior,
    success_probability,
    sufficient_size,
)
from permlab.ntk.kernels import nngp_kernel, tangent_kernel
from permlab.ntk.law import size_from_signal


def dense(k, m, parameterization):
    """Mean on, mean off and variance by solving the k x k system."""
    train = np.eye(k)
    test = (np.arange(k) < m)[None, :] / np.sqrt(m)
    weights = np.linalg.solve(
        tangent_kernel(train, train, parameterization), tangent_kernel(train, test, parameterization)
    )[:, 0]
    prior = nngp_kernel(test, test)[0, 0]
    cross = nngp_kernel(train, test)[:, 0]
    variance = prior + weights @ nngp_kernel(train, train) @ weights - 2 * weights @ cross
    return weights[0], weights[-1] if m < k else None, variance


@pytest.mark.parametrize("parameterization", ["standard", "ntk", 0.25])
def test_closed_form_equals_dense_solve(parameterization):
    for k in (*range(2, 14), 31, 60):
        for m in range(1, k + 1):
            law = posterior(k, m, parameterization)
            on, off, variance = dense(k, m, parameterization)
            assert law.mean_on == pytest.approx(on, abs=1e-10)
            assert off is None or law.mean_off == pytest.approx(off, abs=1e-10)
            assert law.variance == pytest.approx(variance, abs=1e-10)


def test_stated_sizes():
    assert ensemble_size([10, 20, 30], 2, 0.9).tolist() == [58, 121, 190]
    assert ensemble_size([10, 20, 30], 2, 0.9, "ntk").tolist() == [333, 579, 840]


@pytest.mark.parametrize("target", [0.05, 0.5, 0.9, 0.999999])
def test_size_is_the_smallest_that_reaches_the_target(target):
    k, m = np.meshgrid([2, 3, 7, 30, 1000], [1, 2, 3])
    k, m = k[m <= k], m[m <= k]
    for parameterization in ("standard", "ntk"):
        sizes = ensemble_size(k, m, target, parameterization)
        assert (success_probability(k, m, sizes, parameterization) >= target * (1 - 1e-12)).all()
        more_than_one = sizes > 1
        below = success_probability(k, m, np.maximum(sizes - 1, 1), parameterization)
        assert (below[more_than_one] < target).all()


def test_probability_is_the_product_of_coordinates():
    law = posterior(7, 3)
    sd = np.sqrt(law.variance / 20)
    expected = norm.cdf(law.mean_on / sd) ** 3 * norm.cdf(-law.mean_off / sd) ** 4
    assert success_probability(7, 3, 20) == pytest.approx(expected, rel=1e-12)


def test_training_points_are_exact():
    law = posterior([2, 30, 10**6], 1, "ntk")
    assert (law.mean_on == 1).all() and (law.mean_off == 0).all() and (law.variance == 0).all()
    assert (ensemble_size([2, 30, 10**6], 1, 0.999) == 1).all()
    assert success_probability(30, 1, 1) == 1.0


def test_signs_carry_the_answer_for_every_input():
    k = 2000
    for parameterization in ("standard", "ntk"):
        law = posterior(k, np.arange(2, k + 1), parameterization)
        assert (law.mean_on > 0).all() and (law.mean_off < 0).all() and (law.variance > 0).all()


def test_million_bits_in_under_a_millisecond_and_with_the_right_limit():
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        size = ensemble_size(10**6, 2, 0.9)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1e-3
    for ones, parameterization in ((2, "standard"), (5, "ntk")):
        ratio = ensemble_size(10**12, ones, 0.9, parameterization) / (1e12 * np.log(1e12))
        assert ratio == pytest.approx(linearithmic_constant(ones, parameterization), rel=0.1)
    assert size < sufficient_size(10**6, 2, 0.9) < 1.3 * size


@pytest.mark.parametrize("parameterization", ["standard", "ntk"])
def test_sufficient_bound_is_never_below_the_exact_size(parameterization):
    k = np.array([2, 3, 10, 100, 10**4])
    for m in (1, 2, 3, 10):
        fits = k >= m
        exact = ensemble_size(k[fits], m, 0.9, parameterization)
        assert (sufficient_size(k[fits], m, 0.9, parameterization) >= exact).all()


def test_published_points_follow_the_last_layer_law():
    k = np.arange(10, 31)
    published = np.array([PUBLISHED_TO_90_PERCENT[n] for n in k])
    assert np.median(np.abs(ensemble_size(k, 2, 0.9) / published - 1)) <= 0.15
    assert np.median(ensemble_size(k, 2, 0.9, "ntk") / published) > 4


def test_published_table_is_the_shared_file(shared_data):
    rows = (shared_data("permlearn") / "figure1_left.csv").read_text().split()[1:]
    assert dict(tuple(map(int, row.split(","))) for row in rows) == PUBLISHED_TO_90_PERCENT


def test_bad_sizes_get_one_line():
    for call, words in [
        (lambda: ensemble_size(1, 1, 0.9), "k of at least 2"),
        (lambda: ensemble_size(3, 4, 0.9), "larger than k=3"),
        (lambda: ensemble_size(3, 0, 0.9), "at least one 1"),
        (lambda: ensemble_size(3, 2, 1.0), "strictly between 0 and 1"),
        (lambda: ensemble_size(3, 2, 0.0), "strictly between 0 and 1"),
        (lambda: ensemble_size(10**15, 2, 0.9), "2\\^53"),
        (lambda: size_from_signal(3, 2, 0.5, -0.1, 0.9), "averaging cannot help"),
    ]:
        with pytest.raises(UserError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
