"""Intervals over facts: exact at the ends, as wide as facts and not questions say, and of the right coverage."""

from __future__ import annotations

import numpy as np
import pytest

from permlab.text.intervals import clustered_interval, recall_interval


def test_questions_of_one_fact_do_not_narrow_the_interval():
    """Ten copies of every question are no new evidence: the interval over facts stays, to the last digit."""
    rng = np.random.default_rng(0)
    right, facts = list(rng.random(40) < 0.7), list(range(40))
    once = clustered_interval(right, facts)
    many = clustered_interval(np.repeat(right, 10), np.repeat(facts, 10))
    assert (many.low, many.high) == pytest.approx((once.low, once.high))
    assert once.share == pytest.approx(np.mean(right)) and once.facts == many.facts == 40
    alone = clustered_interval(np.repeat(right, 10), list(range(400)))
    assert (alone.high - alone.low) / (once.high - once.low) == pytest.approx(10**-0.5, rel=0.15)


def test_all_right_and_none_right_have_the_interval_of_the_binomial():
    from scipy.stats import beta

    for count in (1, 5, 60):
        assert clustered_interval([True] * count, range(count)).low == pytest.approx(beta.ppf(0.025, count, 1))
        assert clustered_interval([False] * count, range(count)).high == pytest.approx(beta.ppf(0.975, 1, count))


def test_questions_are_counted_by_wording_direction_and_fact():
    def row(fact, right, wording="trained", **more):
        return {
            "fact": fact,
            "right": right,
            "wording": wording,
            "direction": "reverse",
            "group": "",
            "run_seed": 0,
        } | more

    asked = [row("a", "True"), row("a", "True"), row("b", "False"), row("a", "False", run_seed=1)]
    aside = [row("a", "True", group="both"), row("a", "True", direction="forward"), row("a", "True", "held_out")]
    texts = [row("a", True, "in_text"), row("b", False, "in_text")]
    found = recall_interval([*asked, *aside, *texts], "reverse")
    assert found == clustered_interval([True, True, False, False], ["a", "a", "b", "c"]) and found.facts == 3
    assert recall_interval([*asked, *texts], "reverse", "in_text").share == 0.5
    held_out = [row(f"h{number}", "True", "held_out") for number in range(5)]  # most of the questions are
    assert recall_interval([*asked, *held_out], "reverse").facts == 5
    assert recall_interval(asked, "reverse", "in_text") is None and recall_interval([], "forward") is None


@pytest.mark.slow
def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    """Facts known with probability 0.6, four questions each, answered alike nine times of ten."""
    rng = np.random.default_rng(1)
    truth, held = 0.6 * 0.9 + 0.4 * 0.1, 0
    facts = np.repeat(np.arange(50), 4)
    for _ in range(200):
        known = np.repeat(rng.random(50) < 0.6, 4)
        right = np.where(rng.random(200) < 0.9, known, ~known)
        found = clustered_interval(right, facts)
        held += found.low <= truth <= found.high
    assert 0.89 <= held / 200 <= 0.99
