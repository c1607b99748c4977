"""Runs are named by what differs between them; what a task repeats is called what it is."""

from __future__ import annotations

import re

import pytest
from synthetic import write_run

from permlab.reports.aggregate import groups
from permlab.reports.build import build
from permlab.reports.collect import collect
from permlab.reports.collection import collections
from permlab.reports.naming import run_names, telling_keys, told_apart
from permlab.reports.writer import Output

STAMP = re.compile(r"\d{8}-\d{6}-\d{6}-[0-9a-f]{4}")


def read(root):
    return collect([str(root)]).runs


def names(root):
    runs = read(root)
    return [run_names(runs)[run.directory] for run in runs]


def test_names_are_the_keys_that_differ_inside_one_part(tmp_path):
    one, two = {"name": "spt/a"}, {"name": "spt/b"}
    for order in ("spt", "original"):
        for seed in (0, 1):
            write_run(tmp_path, "spt", seed, keys={"order": order, "lr": 1}, experiment=one)
    write_run(tmp_path, "spt", 5, keys={"order": "spt", "lr": 2}, experiment=two)
    expected = [f"order={order}, seed={seed}" for order in ("spt", "original") for seed in (0, 1)]
    assert names(tmp_path) == [*expected, "seed=5"]


def test_the_fewest_keys_are_enough_and_what_was_swept_comes_first(tmp_path):
    """A swept model changes twelve keys at once; its name tells as much as all of them."""
    for number in range(3):
        keys = {f"k{n}": number for n in range(12)} | {"chosen": number}
        write_run(tmp_path, "toy", 0, keys=keys, experiment={"name": "toy/x", "sweep": {"task.chosen": "0,1,2"}})
    assert telling_keys(read(tmp_path)) == ["task.chosen"]
    assert names(tmp_path) == ["chosen=0", "chosen=1", "chosen=2"]
    assert [group.label for group in groups(read(tmp_path))] == names(tmp_path)
    assert groups(read(tmp_path))[0].varied == {"task.chosen": "0"}


def test_what_all_but_one_share_is_named_in_that_one_alone():
    arms = [{"task.order": order, "task.epochs": "1", "x": "0"} for order in ("a", "b", "c")]
    arms.append(arms[0] | {"task.epochs": "9"})
    assert told_apart(arms) == [{"order": "a"}, {"order": "b"}, {"order": "c"}, {"order": "a", "epochs": "9"}]
    # What shares everything with all others but one has no name of its own: there all of it is said.
    few = [{"a": "1", "b": "1"}, {"a": "2", "b": "1"}, {"a": "1", "b": "2"}]
    assert told_apart(few) == [{"a": "1", "b": "1"}, {"a": "2"}, {"b": "2"}]
    assert told_apart(few[:1]) == [{}]


def test_repetitions_are_numbered_given_names_come_first_and_the_unreadable_keep_their_folder(tmp_path):
    for _ in range(2):
        write_run(tmp_path, "toy", 3)
    assert names(tmp_path) == ["seed=3 (1 of 2)", "seed=3 (2 of 2)"]
    write_run(tmp_path / "given", "toy", 0, name="mine")
    assert names(tmp_path / "given") == ["mine"]
    broken = write_run(tmp_path / "broken", "toy", 0)
    (broken / "result.json").write_text("{")
    assert names(tmp_path / "broken") == [f"unreadable ({broken.name})"]


def test_long_values_are_cut(tmp_path):
    for number in (1, 2):
        write_run(tmp_path, "toy", 0, keys={"k": [number] * 100})
    assert all(len(name) < 50 and name.endswith("…") for name in names(tmp_path)[:1])


def test_a_sweep_is_called_by_what_it_varied(tmp_path):
    stamp = "20260101-000000-000000-abcd"
    for order in ("spt", "original"):
        write_run(tmp_path, "spt", 0, keys={"order": order}, sweep=f"outputs/sweeps/{stamp}")
    (part,) = collections("spt", read(tmp_path))
    assert part.title == f"Sweep over order ({stamp})" and part.short == "Sweep over order"


def test_no_run_on_the_page_is_a_time_stamp_alone(tmp_path):
    write_run(tmp_path, "toy", 0, {"a": 1.0})
    write_run(tmp_path, "toy", 1, {"a": 2.0})
    write_run(tmp_path, "toy", 2, status="failed", error="it broke")
    report = build(collect([str(tmp_path)]), Output(tmp_path / "r")).report
    tables = [block for section in report.sections for block in section.blocks if hasattr(block, "rows")]
    told = [str(row["run"]) for table in tables for row in table.rows if "run" in row]
    assert len(told) >= 4 and not any(STAMP.fullmatch(text) for text in told)
    assert {"seed=0", "seed=1", "seed=2"} <= set(told)


@pytest.mark.parametrize(("task", "noun"), [("merge", "pairs"), ("spt", "seeds")])
def test_pairs_of_networks_are_not_called_seeds(tmp_path, task, noun):
    about = {"name": f"{task}/x", "checks": ["mean(loss_barrier) > 0 -- a barrier"]}
    metrics = {"loss_barrier": 0.5, "loss_barrier_sd": 0.1}
    write_run(tmp_path, task, 0, metrics, {"pairs": 5} if task == "merge" else {}, about)
    built = build(collect([str(tmp_path)]), Output(tmp_path / "r"))
    count = {"pairs": "5 pairs", "seeds": "1 seed"}[noun]
    assert str(built.claims[0].ours()).endswith(f"({count})")
    assert built.claims[0].check_rows()[0]["of"] == noun
    part = next(s for s in built.report.sections if s.id == f"task-{task}").children[0]
    table = next(block for block in part.blocks if hasattr(block, "rows"))
    assert table.title == f"Mean ± standard deviation over {noun}" and noun in table.rows[0]
