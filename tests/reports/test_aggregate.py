"""Means, deviations and groups have exact answers."""

from __future__ import annotations

import math

import pytest
from synthetic import write_run

from permlab.reports.aggregate import (
    aggregated,
    current,
    groups,
    inner_seeds,
    series,
    spread,
    unfinished,
)
from permlab.reports.collect import collect
from permlab.reports.naming import differing_keys
from permlab.reports.writer import expanded
from permlab.tables import Spread, plain


def read(root):
    return collect([str(root)]).runs


def test_mean_and_sample_deviation():
    assert spread([1, 2, 3, 6]) == Spread(3.0, pytest.approx(math.sqrt(14 / 3)), 4)
    assert spread([5, None, "x", float("nan"), float("inf")]) == Spread(5.0, None, 1)
    assert spread([]) is None and spread(["x"]) is None
    assert str(spread([0.5, 0.7])) == "0.6 ± 0.1414"


def test_seeds_of_one_configuration_are_one_group(tmp_path):
    for order, values in (("spt", (0.9, 1.0, 0.8)), ("original", (0.0, 0.1, 0.05))):
        for seed, value in enumerate(values):
            write_run(tmp_path, "spt", seed, {"acc": value}, {"order": order, "fixed": 1}, seconds=30)
    found = groups(read(tmp_path))
    assert [(group.label, group.seeds, group.minutes) for group in found] == [
        ("order=spt", 3, 1.5),
        ("order=original", 3, 1.5),
    ]
    assert found[0].spread("acc") == Spread(pytest.approx(0.9), pytest.approx(0.1), 3)
    assert found[1].spread("acc").mean == pytest.approx(0.05)
    assert found[0].varied == {"task.order": "spt"}
    assert found[0].spread("missing") is None


def test_a_repetition_replaces_the_older_run(tmp_path):
    write_run(tmp_path, "spt", 0, {"acc": 0.1})
    write_run(tmp_path, "spt", 0, {"acc": 0.3}, hardware={"threads": 2})
    write_run(tmp_path, "spt", 1, {"acc": 0.5})
    (group,) = groups(read(tmp_path))
    assert group.spread("acc") == Spread(0.4, pytest.approx(math.sqrt(0.02)), 2)


def test_what_did_not_finish_and_was_not_made_up_for(tmp_path):
    write_run(tmp_path, "spt", 0, status="failed")
    write_run(tmp_path, "spt", 0, {"acc": 0.3})
    write_run(tmp_path, "spt", 1, status="failed")
    write_run(tmp_path, "spt", 1, status="interrupted")
    (tmp_path / "spt" / "20260101-000000-999999-ffff").mkdir()
    left = unfinished(read(tmp_path))
    assert [(run.seed, run.status) for run in left] == [(1, "interrupted")]
    assert len(current(read(tmp_path))) == 1


def test_only_keys_that_differ(tmp_path):
    write_run(tmp_path, "spt", 0, keys={"order": "spt", "train": {"rate": 0.1, "epochs": 3}, "k": [1, 2]})
    write_run(tmp_path, "spt", 1, keys={"order": "spt", "train": {"rate": 0.2, "epochs": 3}, "k": [1, 3], "new": None})
    assert differing_keys(read(tmp_path)) == ["task.train.rate", "task.k", "seed"]
    assert [group.label for group in groups(read(tmp_path))] == ["rate=0.1, k=[1,2]", "rate=0.2, k=[1,3]"]


def test_many_differing_keys_give_the_name(tmp_path):
    for number in (0, 1):
        write_run(tmp_path, "spt", 0, keys={key: number for key in "abcdef"}, name=f"mine {number}")
    assert [group.label for group in groups(read(tmp_path))] == ["mine 0", "mine 1"]


def test_repeats_inside_a_run_count_as_seeds(tmp_path):
    write_run(tmp_path, "lora_lego", 0, {"s": 0.5, "s_sd": 0.25}, {"study": "merge", "repeats": 3})
    write_run(tmp_path, "inverse_permutation", 0, {"s": 0.5}, {"mode": "construct", "seeds": 3})
    lego, probe = (groups([run])[0] for run in sorted(read(tmp_path), key=lambda run: run.task, reverse=True))
    assert (lego.seeds, lego.spread("s")) == (3, Spread(0.5, 0.25, 3))
    assert (probe.seeds, probe.spread("s")) == (1, Spread(0.5, None, 1))
    assert inner_seeds(lego.newest) == 3


def test_tables_of_all_seeds_are_averaged_row_by_row(tmp_path):
    for seed, value in enumerate((0.2, 0.4)):
        rows = [{"arm": "a", "x": value}, {"arm": "b", "x": 1 + value}, {"arm": "a", "x": value + 0.1}]
        write_run(tmp_path, "spt", seed, tables={"t": rows})
    (group,) = groups(read(tmp_path))
    a, b = group.aggregated("t", ("arm",), ("x",))
    assert a == {"arm": "a", "x": Spread(pytest.approx(0.35), pytest.approx(math.sqrt(0.05 / 3)), 4)}
    assert b["x"].mean == pytest.approx(1.3) and b["x"].count == 2
    assert aggregated([], ("arm",), ("x",)) == []


def test_series_over_steps():
    rows = [{"s": 2, "y": 1.0}, {"s": 1, "y": 3.0}, {"s": 2, "y": 2.0}, {"s": None, "y": 9.0}, {"s": 3, "y": None}]
    assert series(rows, "s", "y") == ([1, 2], [3.0, 1.5], [3.0, 1.0], [3.0, 2.0])


def test_csv_rows_hold_full_numbers():
    assert expanded({"a": Spread(1 / 3, 0.1, 2), "b": "x"}) == {"a": 1 / 3, "a_sd": 0.1, "a_n": 2, "b": "x"}


@pytest.mark.parametrize(
    "value, text",
    [
        *[(None, ""), (True, "yes"), (0.123456, "0.1235"), (3.0, "3"), (47953018, "47,953,018"), (1.5e-30, "1.5e-30")],
        *[(float("nan"), "nan"), (float("inf"), "inf"), (12345.678, "12,346"), (0, "0"), (-2.5, "-2.5")],
    ],
)
def test_numbers_in_words(value, text):
    assert plain(value) == text
