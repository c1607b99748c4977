"""Every state that a run directory can be in is read, and none of them stops the report."""

from __future__ import annotations

import json
import os

import pytest
from synthetic import write_run, write_table

from permlab.errors import UserError
from permlab.reports.collect import collect, read_table, typed


def test_statuses_and_error_lines(tmp_path):
    write_run(tmp_path, "spt", metrics={"a": 1.0})
    write_run(tmp_path, "spt", status="failed", error="ValueError: no\nsecond line")
    write_run(tmp_path, "ntk", status="interrupted")
    write_run(tmp_path, "ntk", status="running")
    found = collect([str(tmp_path)])
    by_status = {run.status: run for run in found.runs}
    assert sorted(by_status) == ["done", "failed", "interrupted", "running"]
    assert by_status["done"].problem == ""
    assert by_status["failed"].problem == "ValueError: no"
    assert "permlab resume" in by_status["interrupted"].problem
    assert "killed" in by_status["running"].problem
    assert [run.metrics for run in found.with_status("done")] == [{"a": 1.0}]


CORRUPT = {
    "empty": lambda path: [file.unlink() for file in path.iterdir()],
    "no result": lambda path: (path / "result.json").unlink(),
    "torn result": lambda path: (path / "result.json").write_text('{"task": "spt", "sta'),
    "binary result": lambda path: (path / "result.json").write_bytes(b"\xff\xfe\x00\x80"),
    "deep result": lambda path: (path / "result.json").write_text("[" * 100_000),
    "result is a list": lambda path: (path / "result.json").write_text("[1, 2]"),
    "unknown status": lambda path: (path / "result.json").write_text('{"task": "spt", "status": "odd"}'),
    "no config": lambda path: (path / "config.yaml").unlink(),
    "torn config": lambda path: (path / "config.yaml").write_text("task: {name: 'spt"),
    "tabs in config": lambda path: (path / "config.yaml").write_text("task:\n\t- [}"),
    "config is text": lambda path: (path / "config.yaml").write_text("hello"),
    "task is a number": lambda path: (path / "config.yaml").write_text("task: 3"),
    "result is a folder": lambda path: ((path / "result.json").unlink(), (path / "result.json").mkdir()),
}


@pytest.mark.parametrize("how", CORRUPT)
def test_corrupt_directories_are_listed_with_a_reason(tmp_path, how):
    write_run(tmp_path, "spt", metrics={"a": 1.0})
    CORRUPT[how](broken := write_run(tmp_path, "spt", metrics={"a": 99.0}))
    found = collect([str(tmp_path)])
    assert len(found.runs) == 2
    (corrupt,) = found.with_status("corrupt")
    assert corrupt.directory == broken
    assert corrupt.task == "spt"
    assert corrupt.problem and "\n" not in corrupt.problem
    assert [run.metrics for run in found.with_status("done")] == [{"a": 1.0}]


def test_odd_values_in_a_readable_result(tmp_path):
    path = write_run(tmp_path, "spt")
    odd = {"status": "done", "metrics": {"text": "x", "none": None, "list": [1], "yes": 1, "nan": float("nan")}}
    (path / "result.json").write_text(json.dumps({**odd, "seconds": "long", "name": 3}))
    (run,) = collect([str(tmp_path)]).runs
    assert run.metrics == {"none": None, "yes": 1, "nan": None}
    assert run.seconds == 0 and run.name == "3"


def test_runs_sweeps_folders_and_globs(tmp_path):
    root = tmp_path / "outputs"
    sweep = root / "sweeps" / "20260101-000000-000000-abcd"
    first = write_run(root, "spt", seed=0, sweep=str(sweep))
    second = write_run(root, "spt", seed=1, sweep=str(sweep))
    third = write_run(root, "ntk")
    elsewhere = write_run(root, "spt", directory=tmp_path / "named by the user")
    (sweep / "jobs").mkdir(parents=True)
    for number, path in enumerate((first, second, elsewhere)):
        (sweep / "jobs" / f"{number:05d}.json").write_text(json.dumps({"job": number, "directory": str(path)}))
    (sweep / "jobs" / "00003.json").write_text("torn {")

    def found(*patterns):
        return {run.directory for run in collect(patterns, root).runs}

    assert found(str(first)) == {first}
    assert found(str(sweep)) == {first, second, elsewhere}
    assert found(str(root / "sweeps" / "*")) == {first, second, elsewhere}
    assert found(str(root / "ntk")) == {third}
    assert found(str(root / "spt" / "*"), str(first)) == {first, second}
    assert found() == {first, second, third, elsewhere}
    with pytest.raises(UserError, match=r"report\.runs: '.*nothing.*'"):
        found(str(tmp_path / "nothing*"))


def test_a_sweep_that_was_moved(tmp_path):
    root = tmp_path / "outputs"
    run = write_run(root, "spt")
    notes = root / "sweeps" / "20260101-000000-000000-abcd" / "jobs"
    notes.mkdir(parents=True)
    (notes / "00000.json").write_text(json.dumps({"directory": f"/gone/spt/{run.name}"}))
    assert [record.directory for record in collect([str(notes.parent)]).runs] == [run]


def test_reports_are_passed_over_and_counted(tmp_path):
    write_run(tmp_path, "spt")
    write_run(tmp_path, "report")
    found = collect([str(tmp_path)])
    assert [run.task for run in found.runs] == ["spt"] and found.reports == 1


def test_artifacts_inside_a_run_are_not_runs(tmp_path):
    path = write_run(tmp_path, "spt")
    inner = path / "artifacts" / "20260101-000000-000000-abcd"
    inner.mkdir(parents=True)
    (inner / "config.yaml").write_text("x: 1")
    assert len(collect([str(tmp_path)]).runs) == 1


def test_tables_with_numbers_and_torn_ends(tmp_path):
    path = write_run(tmp_path, "spt", tables={"t": [{"n": 1, "x": 0.5, "s": "a,b", "e": "", "b": True}]})
    (run,) = collect([str(path)]).runs
    assert run.table("t") == [{"n": 1, "x": 0.5, "s": "a,b", "e": None, "b": True}]
    assert run.table("missing") == [] and run.notes == []
    with (path / "tables" / "t.csv").open("a") as file:
        file.write("2,0.25\n3,1,2,3,4,5,6,7\n")
    assert run.table("t")[1:] == [
        {"n": 2, "x": 0.25, "s": None, "e": None, "b": None},
        {"n": 3, "x": 1, "s": 2, "e": 3, "b": 4},
    ]
    with (path / "tables" / "t.csv").open("ab") as file:
        file.write(b"\xff\xfe")
    assert run.table("t") == [] and "t.csv cannot be read" in run.notes[0]
    write_table(path, "empty", [{"a": 1}])
    (path / "tables" / "empty.csv").write_text("")
    assert read_table(path / "tables" / "empty.csv") == []


def test_torn_metric_lines_are_left_out_and_noted(tmp_path):
    path = write_run(tmp_path, "spt")
    (path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo\n[1]\n{"step": 3, "loss": 1.0}\n')
    (run,) = collect([str(path)]).runs
    assert [entry["step"] for entry in run.logged()] == [1, 3]
    assert run.notes == ["metrics.jsonl has 2 torn lines"]


@pytest.mark.parametrize(
    "text, value", [("1", 1), ("1e-3", 0.001), ("", None), ("True", True), ("a", "a"), ("1_000", "1_000"), (None, None)]
)
def test_typed_cells(text, value):
    assert typed(text) == value and type(typed(text)) is type(value)


def test_links_out_of_a_run_directory_are_not_followed(tmp_path):
    from permlab.reports.writer import Output

    run = write_run(tmp_path, "a")
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key.csv").write_text("key\nhunter2\n")
    (secret / "key.png").write_bytes(b"hunter2")
    for folder, name in (("tables", "key.csv"), ("figures", "key.png")):
        (run / folder).mkdir(exist_ok=True)
        (run / folder / name).symlink_to(secret / name)
    (run / "figures" / "loop.png").symlink_to("loop.png")
    (record,) = collect([str(run)]).runs
    assert record.table("key") == [] and record.files("figures", ".png") == [] and record.files("tables", ".csv") == []
    assert Output(tmp_path / "report").embed(record, "key", "", "") is None
    assert not list((tmp_path / "report").rglob("*"))


@pytest.mark.parametrize("name", ["result.json", "config.yaml", "metrics.jsonl", "environment.json", "tables/t.csv"])
@pytest.mark.parametrize("kind", ["pipe", "deep", "bomb", "huge", "zero"])
def test_odd_files_cost_one_line(tmp_path, name, kind):
    run = write_run(tmp_path, "a")
    path = run / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "zero":
        path.symlink_to("/dev/zero")
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(2**40)
    else:
        path.write_text("[" * 100_000 if kind == "deep" else "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n")
    (record,) = collect([str(tmp_path)]).runs
    record.logged(), record.environment(), record.table("t")
    assert all("\n" not in note and len(note) < 400 for note in [record.problem, *record.notes])
    assert (record.status == "corrupt") == (name in ("result.json", "config.yaml"))


def test_a_live_run_is_told_from_a_dead_one(tmp_path):
    from permlab.storage.locks import hold

    run = write_run(tmp_path, "a", status="running")
    assert "its process is gone" in collect([str(run)]).runs[0].problem
    with hold(run):
        assert f"process {os.getpid()} on" in collect([str(run)]).runs[0].problem
