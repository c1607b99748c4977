"""Grouping, means and differences of rows."""

from __future__ import annotations

import math

import pytest

from permlab.tables import paired, pick, pivoted, student, summarise


def test_summaries_leave_out_names_and_blanks():
    rows = [{"a": "x", "pair": 0, "v": 1.0}, {"a": "x", "pair": 1, "v": 3.0, "w": 2.0}, {"a": "y", "v": math.nan}]
    x, y = summarise(rows, ["a"], count="pairs", aside=("pair",))
    assert x == {"a": "x", "pairs": 2, "v": 2, "v_sd": pytest.approx(2**0.5), "w": 2, "w_sd": None}
    assert y == {"a": "y", "pairs": 1, "v": None, "v_sd": None, "w": None, "w_sd": None}


def test_paired_differences():
    rows = [
        {"pair": pair, "arm": arm, "own": value}
        for arm, values in (("x", (0.5, 0.7)), ("y", (0.6, 0.6)), ("z", (None, 0.9)))
        for pair, value in enumerate(values)
    ]
    y, z = paired(rows, "arm", "x", "own")
    assert y["own"] == pytest.approx(0) and y["sd"] == pytest.approx(0.02**0.5) and (y["above"], y["pairs"]) == (1, 2)
    assert z["own"] == pytest.approx(0.2) and z["pairs"] == 1
    # One degree of freedom: 12.706 standard errors, and the standard error of two values is half of their distance.
    assert (y["low"], y["high"]) == (pytest.approx(-1.2706), pytest.approx(1.2706)) and z["low"] is z["high"] is None


def test_points_of_student_are_those_of_scipy():
    from scipy.stats import t

    for freedom in (*range(1, 41), 100, 10_000):
        assert student(freedom) == pytest.approx(t.ppf(0.975, freedom), abs=6e-4)


def test_picking_and_pivoting():
    rows = [{"arm": arm, "gamma": gamma, "r": gamma / 2} for arm in ("a", "b") for gamma in (0.0, 0.5)]
    assert pivoted(rows, "gamma", "r", ["arm"])[1] == {"arm": "b", "0": 0.0, "0.5": 0.25}
    assert pick(rows, arm="b", gamma=0.5)["r"] == 0.25
    with pytest.raises(KeyError):
        pick(rows, arm="c")
