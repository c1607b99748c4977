"""One bad run never ends the report: it is named as unreadable, and the others are there."""

from __future__ import annotations

import json
import os

import pytest
import yaml
from synthetic import write_run

from permlab.reports.build import build
from permlab.reports.collect import collect
from permlab.reports.html import to_html
from permlab.reports.markdown import to_markdown
from permlab.reports.writer import Output

HUGE = 10**400
WIDE = ",".join(f"c{n}" for n in range(100_000)) + "\n" + ",".join(["1"] * 100_000)


def result(**parts):
    def change(path):
        found = json.loads((path / "result.json").read_text())
        (path / "result.json").write_text(json.dumps({**found, **parts}))

    return change


def config(**parts):
    def change(path):
        found = yaml.safe_load((path / "config.yaml").read_text())
        (path / "config.yaml").write_text(yaml.safe_dump({**found, **parts}))

    return change


def text(name, content):
    def change(path):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_bytes(content) if isinstance(content, bytes) else (path / name).write_text(content)

    return change


def surrogate_name(path):
    os.rename(path, os.fsencode(path) + b"-\xff\xfe")


def unreadable(path):
    (path / "result.json").unlink()
    (path / "result.json").symlink_to("result.json")


HOSTILE = {
    "metrics huge": result(metrics={"a": HUGE}),
    "metrics 1e400": text("result.json", '{"task": "toy", "status": "done", "metrics": {"a": 1e400, "b": -Infinity}}'),
    "5000 digits": text("result.json", '{"task": "toy", "status": "done", "metrics": {"a": ' + "9" * 5001 + "}}"),
    "seconds huge": result(seconds=HUGE, peak_rss_mb=HUGE),
    "seconds infinite": text("result.json", '{"status": "done", "seconds": Infinity, "peak_rss_mb": 1e400}'),
    "memory is a list": result(peak_rss_mb=[1, {"a": 2}], seed=[1], name={"a": 1}),
    "status is a list": result(status=["done"]),
    "status is an object": result(status={"a": 1}),
    "status failed, error an object": result(status="failed", error={"a": ["\x1b"]}),
    "half a letter": result(name="\ud800", error="\udfff", status="failed", metrics={"\ud800": 1}),
    "seed huge": config(seed=HUGE),
    "seed is text": config(seed="x"),
    "seed is infinite": config(seed=float("inf")),
    "task has a list": config(task={"name": "toy", "x": [[1], {"a": HUGE}]}),
    "task named by half a letter": text("config.yaml", 'task: {name: "\\uD800"}\nseed: 1\n'),
    "task is called as a path": config(task={"name": "../../x"}),
    "task is called empty": config(task={"name": ""}),
    "dates": config(seed=1, task={"name": "toy", "day": __import__("datetime").date(2020, 1, 1)}),
    "binary": config(task={"name": "toy", "x": b"\xff\x00"}),
    "a set": config(task={"name": "toy", "x": {1, 2}}),
    "keys are no text": config(task={"name": "toy", 1: 2, None: 3, (1, 2): 4}),
    "experiment odd": config(experiment={"name": "toy/x", "checks": [1, {"a": 2}], "claim": 3, "minutes": "x"}),
    "experiment named by a number": config(experiment={"name": 5}),
    "experiment checks of a known name": config(experiment={"name": "spt/quick", "checks": {"a": ["x > >"]}}),
    "run is a list": config(run=[1], experiment=[2]),
    "sweep is a number": config(run={"sweep": 5, "name": 3}),
    "environment is a list": text("environment.json", "[1]"),
    "environment odd": text("environment.json", '{"git": 1, "packages": [], "cores": "x", "argv": [{}, 1e400]}'),
    "environment with half letters": text("environment.json", '{"cpu": "\\ud800", "argv": ["\\udc80", "\\u001b"]}'),
    "metrics of numbers": text("metrics.jsonl", "1\n2\n[3]\n1e400\n" + "9" * 5001 + "\n"),
    "metrics of half letters": text("metrics.jsonl", '{"step": "\\ud800", "loss": []}\n{"step": 1e400, "loss": {}}\n'),
    "table with huge numbers": text("tables/t.csv", "a,b\n" + "9" * 5001 + ",1e400\n" + "9" * 400 + ",nan\n"),
    "table with 100,000 columns": text("tables/t.csv", WIDE),
    "table with NUL": text("tables/t.csv", b"a,b\n\x00,1\n"),
    "table with a cell of a megabyte": text("tables/t.csv", "a,b\n" + "x" * 1_000_000 + ",1\n"),
    "table with one name": text("tables/t.csv", "a,a,a\n1,2,3\n"),
    "pipe in figures": lambda path: ((path / "figures").mkdir(), os.mkfifo(path / "figures" / "a.png")),
    "figure is no figure": text("figures/a.png", b"not a png"),
    "name of undecodable bytes": surrogate_name,
    "a link to itself": unreadable,
    "jobs of a sweep": text("jobs/0.json", '{"directory": 5}'),
}  # fmt: skip


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """One report over a good run and one hostile run of each kind, and one with the same in a known task."""
    root = tmp_path_factory.mktemp("hostile")
    for number, (_, change) in enumerate(HOSTILE.items()):
        for task in ("toy", "ntk"):
            change(write_run(root, task, seed=number, metrics={"a": 1.0}, tables={"t": [{"a": 1, "b": 2}]}))
    for task in ("toy", "ntk"):
        write_run(root, task, seed=99, metrics={"a": 0.5}, name=f"good {task}")
    found = collect([str(root)])
    out = root / "report"
    built = build(found, Output(out))
    page, plain = to_html(built.report), to_markdown(built.report, out)
    return found, page, plain


@pytest.mark.parametrize("how", HOSTILE)
def test_a_hostile_run_alone_does_not_end_the_report(tmp_path, how):
    HOSTILE[how](write_run(tmp_path / "runs", "toy", metrics={"a": 1.0}, tables={"t": [{"a": 1, "b": 2}]}))
    write_run(tmp_path / "runs", "toy", seed=1, metrics={"a": 0.5}, name="good one")
    out = tmp_path / "report"
    built = build(collect([str(tmp_path / "runs")]), Output(out))
    page, plain = to_html(built.report), to_markdown(built.report, out)
    page.encode(), plain.encode()
    assert "good one" in page and len(page) < 3_000_000


def test_all_of_them_together(reported):
    found, page, plain = reported
    assert "good toy" in page and "good ntk" in page  # Markdown shows the first rows of long tables
    page.encode(), plain.encode()
    corrupt = found.with_status("corrupt")
    assert corrupt and all((run.problem and run.id in page) or "\\udc" in page for run in corrupt)
