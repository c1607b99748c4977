"""Jobs of a sweep are counted before one is made."""

from __future__ import annotations

import time

import pytest

from permlab.compose import parse, plan_jobs
from permlab.errors import UserError
from permlab.runs.sweep_values import count_values, expansions, first_values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("seed=3", ["seed=3"]),
        ("seed=1,2", ["seed=1", "seed=2"]),
        ("seed=choice(1,2,3)", ["seed=1", "seed=2", "seed=3"]),
        ("seed=range(0,5,2)", ["seed=0", "seed=2", "seed=4"]),
        ("seed=range(5,0,-2)", ["seed=5", "seed=3", "seed=1"]),
        ("seed=range(3)", ["seed=0", "seed=1", "seed=2"]),
        ("task.budget=range(0,1,0.25)", [f"task.budget={value}" for value in (0.0, 0.25, 0.5, 0.75)]),
        ("hardware=glob(c*)", ["hardware=cpu"]),
    ],
)
def test_the_count_is_that_of_the_values(text, values):
    parsed = parse([text, "task.order=original,spt"])
    assert list(expansions(parsed)[0]) == values
    assert list(expansions(parsed)[1]) == ["task.order=original", "task.order=spt"]
    assert count_values(parsed[0]) == len(values)
    assert first_values(parsed) == [values[0], "task.order=original"]


@pytest.mark.parametrize(
    "text",
    ["seed=range(1,1000000000)", "seed=shuffle(range(0,1000000000))", "task.budget=range(0,1e308,1e-9)"],
)
def test_a_sweep_of_a_billion_jobs_is_refused_at_once(text):
    started = time.perf_counter()
    with pytest.raises(UserError, match=r"run.max_jobs is 2,000|have to be shuffled"):
        plan_jobs([text], multirun=True)
    assert time.perf_counter() - started < 20


def test_the_product_counts_and_max_jobs_can_be_set():
    with pytest.raises(UserError, match=r"6 jobs, run.max_jobs is 5"):
        plan_jobs(["seed=0,1,2", "task.order=original,spt", "run.max_jobs=5"], multirun=True)


@pytest.mark.parametrize("text", ["seed=range(1,5,0)", "seed=range(0,nan)", "seed=range(0,inf)", "seed=range(5,1)"])
def test_a_range_without_values_or_without_end_is_refused(text):
    with pytest.raises(UserError, match=r"a range needs|stands for no value"):
        plan_jobs([text], multirun=True)


def test_too_deep_an_override_is_one_line():
    with pytest.raises(UserError, match="more than 1000 brackets"):
        parse(["seed=" + "[" * 5000 + "]" * 5000])
