"""Acceptance rules: what they read, what they refuse, and when they hold."""

from __future__ import annotations

import pytest

from permlab.errors import UserError
from permlab.rules import check_rules, parse_rule

RUNS = [
    ({"task": {"order": "spt", "k": [5, 10]}, "seed": 0, "model": {"name": "mlp"}}, {"acc": 0.9, "naive": 0.5}),
    ({"task": {"order": "spt", "k": [5, 10]}, "seed": 1, "model": {"name": "mlp"}}, {"acc": 1.0, "naive": 0.7}),
    ({"task": {"order": "original", "k": [5]}, "seed": 0, "model": {"name": "vgg"}}, {"acc": 0.02}),
    ({"task": {"order": "broken", "k": []}, "seed": 0, "model": {"name": "vgg"}}, {"acc": None}),
]


@pytest.mark.parametrize(
    "text, value, held, runs",
    [
        ("mean(acc) >= 0.95 where task.order=spt", 0.95, True, 2),
        ("mean(acc) > 0.95 where task.order=spt", 0.95, False, 2),
        ("min(acc) < 0.05 where task.order=spt|original", 0.02, True, 3),
        ("max(acc) == 1 where task.order=original|spt", 1.0, True, 3),
        ("median(acc) != 0.9 where task.order=original|spt", 0.9, False, 3),
        ("mean(acc) <= 0.9 where task.order=spt,seed=0", 0.9, True, 1),
        ("mean(acc) <= 1 where task.k=[5,10], model=mlp -- two sizes", 0.95, True, 2),
        ("mean(naive) / mean(acc) < 0.64 where task.order=spt", 0.6 / 0.95, True, 2),
        ("mean(acc) - mean(naive) >= 0.3 where model.name=mlp", 0.35, True, 2),
        ("mean(acc) < 2 where task.order=spt|original,seed=0.0", 0.46, True, 2),
    ],
)
def test_value_and_verdict(text, value, held, runs):
    outcome = parse_rule(text).evaluate(RUNS)
    assert outcome.value == pytest.approx(value, abs=1e-12)
    assert (outcome.held, outcome.runs) == (held, runs)


@pytest.mark.parametrize(
    "text",
    [
        "mean(acc) < 1 where task.order=missing",
        "mean(unknown) < 1",
        "mean(acc) / mean(unknown) < 1",
        "mean(acc) < 1 where task.order=broken",
        "mean(acc) < 1 where task.k=[]",
        "mean(acc) < 1 where task.nothing=1",
    ],
)
def test_what_was_not_measured_is_not_held(text):
    outcome = parse_rule(text).evaluate(RUNS)
    assert (outcome.value, outcome.held, outcome.runs) == (None, None, 0)


def test_a_run_without_a_finite_value_is_not_passed_over():
    """One of four runs gave no number: the mean of the other three decides nothing."""
    assert parse_rule("mean(acc) > 0").evaluate(RUNS).held is None
    assert parse_rule("mean(naive) > 0").evaluate(RUNS).held is True  # runs that do not have this metric at all


def test_words_and_statement():
    rule = parse_rule("mean(a) / max(b) < 1e-1 where task.order=spt , seed=0 -- less than a tenth -- of it")
    assert rule.words == "less than a tenth -- of it"
    assert rule.statement == "mean(a) / max(b) < 0.1 where task.order=spt, seed=0"
    assert rule.metrics == ("a", "b")


@pytest.mark.parametrize(
    "text, told",
    [
        ("acc > 1", "cannot read"),
        ("mean(acc) > high", "no number"),
        ("mean(acc) > inf", "finite"),
        ("meen(acc) > 1", "did you mean 'mean'"),
        ("mean(acc) >> 1", "cannot read"),
        ("mean(acc) > 1 where order", "key=value"),
        ("mean(acc) > 1 and more", "cannot read"),
    ],
)
def test_refused(text, told):
    with pytest.raises(UserError, match=r"experiment\.checks") as raised:
        parse_rule(text)
    assert told in str(raised.value)


def test_where_keys_must_exist():
    config = {"task": {"order": "spt"}, "seed": 0, "model": {"name": "none"}}
    assert len(check_rules(["mean(a) > 0 where task.order=spt", "mean(a) > 0 where model=none"], config)) == 2
    with pytest.raises(UserError, match=r"did you mean 'task\.order'"):
        check_rules(["mean(a) > 0 where task.ordr=spt"], config)


def test_a_wrong_rule_is_a_configuration_error(permlab):
    wrong = permlab("task=ntk", "experiment.checks=['mean(a) > b']", "run.dry_run=true")
    assert wrong.returncode == 2
    assert "experiment.checks" in wrong.stderr and len(wrong.stderr.splitlines()) == 1
    scale = permlab("task=ntk", "experiment.scale=big", "run.dry_run=true")
    assert scale.returncode == 2 and "paper, toy" in scale.stderr
