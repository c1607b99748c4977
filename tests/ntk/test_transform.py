"""Published runs under the law: the transform by hand, uniform where the law is right, and seen where it is wrong."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest

from permlab.ntk.law import ensemble_size
from permlab.ntk.published import PUBLISHED_TO_90_PERCENT, first_published, published_curve
from permlab.ntk.published_accuracy import PUBLISHED_ACCURACY
from permlab.ntk.transform import joined, path_rank, transformed, uniformity, uniformity_of_parts


def test_the_transform_by_hand():
    stops = np.array([3, 1, 2, 2])
    assert [transformed(stops, time) for time in (0, 1, 2, 3, 4)] == [0.0, 0.125, 0.5, 0.875, 1.0]


def test_without_ties_it_is_the_test_of_kolmogorov_and_smirnov():
    rng = np.random.default_rng(0)
    stops = [rng.normal(size=2000) for _ in range(20)]
    times = [float(rng.normal(0.35)) for _ in range(20)]
    found = uniformity(stops, times)
    known = kstest(found.points, "uniform")
    assert found.distance == pytest.approx(known.statistic)
    assert found.p == pytest.approx(known.pvalue, abs=0.03)


def test_p_is_right_where_there_are_many_ties_and_small_where_the_law_is_wrong():
    """Times of three values only: under the law p is below 0.1 in a tenth of samples; doubled times are seen."""
    rng = np.random.default_rng(1)
    stops = [rng.integers(1, 4, 300) for _ in range(12)]
    p = [uniformity(stops, [int(rng.choice(own)) for own in stops], seed).p for seed in range(150)]
    assert np.mean(np.array(p) <= 0.1) == pytest.approx(0.1, abs=0.08)
    wide = [rng.normal(100, 15, 300).round() for _ in range(12)]
    assert uniformity(wide, [2 * float(own[0]) for own in wide]).p < 0.001
    assert len(uniformity_of_parts(wide, [float(own[0]) for own in wide])) == 10


def test_a_path_is_ranked_by_its_largest_distance():
    law = np.zeros(3)
    curves = np.array([[0.1, 0, 0], [0, 0.2, 0], [0, 0, -0.3]])
    assert path_rank(curves, law, np.array([0, 0, 0.25])) == (0.25, 0.5)
    assert joined([0.5, 0.5]) > 0.5 and joined([0.01, 0.01]) < 0.01


def test_published_points_and_curves_are_those_of_the_same_runs():
    """The curves to 99.9 % pass 90 % where the points of the left figure say."""
    for k, right in PUBLISHED_ACCURACY.items():
        assert first_published(k, 0.9) == PUBLISHED_TO_90_PERCENT[k] == 1 + [c >= 900 for c in right].index(True)
        assert first_published(k, 0.999) == len(right) and right[-1] >= 999 > max(right[:-1])
    assert first_published(11, 0.999) is None and first_published(31, 0.9) is None
    assert published_curve(10, 2, 130)[68] == 0.921 and published_curve(10, 2, 130)[129] is None
    assert set(published_curve(10, 3, 5)) == {None}
    # 99.9 % of 45 inputs is all of them: the expectation gets there later than the published run did.
    assert ensemble_size(10, 2, 0.999) == 156 > first_published(10, 0.999) == 129


def test_fewer_simulated_runs_than_parts_are_parts_of_one_each():
    stops = [np.array([3, 5, 9]), np.array([2, 4, 8, 16])]
    assert len(uniformity_of_parts(stops, [4, 4])) == 3
    assert uniformity_of_parts([], []) == []
