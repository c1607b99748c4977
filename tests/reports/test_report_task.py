"""`permlab task=report` from the command line: what it writes, prints and refuses, and how long 500 runs take."""

from __future__ import annotations

import csv
import json
import time

import pytest
from synthetic import benchmark, write_run

from permlab.reports.build import build
from permlab.reports.collect import collect
from permlab.reports.html import to_html
from permlab.reports.markdown import to_markdown
from permlab.reports.writer import Output


@pytest.mark.slow
def test_a_real_experiment_from_run_to_verdict(permlab, tmp_path):
    small = ["task.k=[5,10]", "task.networks=[20,60]", "task.replicates=10", "task.tests=50", "tracker=none"]
    small += ["experiment.checks=['max(accuracy_worst_z) <= 4.5']"]  # the published curves need keys of their own
    done = permlab("experiment=ntk/figure1_right", *small)
    assert done.returncode == 0, done.stderr
    report = permlab("task=report", "run.dir=report")
    assert report.returncode == 0, report.stderr
    folder = tmp_path / "report"
    assert f"report: {'report/index.html'}" in report.stdout
    assert (
        "ntk/figure1_right" in report.stdout
        and "1 of 1" in report.stdout
        and "holds (with other keys)" in report.stdout
    )
    page = (folder / "index.html").read_text()
    assert "run with task.k=[5,10]" in page.replace("<wbr>", "")
    assert "Accuracy against the number of networks" in page
    assert (folder / "report.md").read_text().startswith("# permlab report")
    result = json.loads((folder / "result.json").read_text())
    assert result["metrics"]["runs"] == 1 and result["metrics"]["holds"] == 1
    assert all((folder / name).is_file() for name in result["artifacts"])
    assert {"index.html", "report.md", "tables/checks.csv"} <= set(result["artifacts"])
    with (folder / "tables" / "own_claims.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["verdict"] == "holds (with other keys)" and row["experiment"] == "ntk/figure1_right"
    assert list((folder / "figures").glob("*accuracy_against_networks.svg"))
    assert "not held" not in report.stdout
    again = permlab("task=report", "report.runs=[outputs]", "run.dry_run=true")
    assert again.returncode == 0 and "1 (1 done)" in again.stdout


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["task=report", "report.runs=[nothing/*]"], "matches none"),
        (["task=report", "report.figures=-1"], "report.figures=-1 is out of range"),
        (["task=report", "run.skip_finished=true"], "drop run.skip_finished"),
        (["task=report", "report.run=[outputs]"], "did you mean 'report.runs'"),
        (["report", "report.run=[outputs]"], "did you mean 'report.runs'"),
        (["report", "outputs"], "name folders with 'report.runs=[outputs]'"),
        (["report", "report.interval=0"], "report.interval=0 is out of range"),
        (["task=ntk", "report.title=x"], "task=report"),
        (["task=report", "model=mlp"], "fitting: none"),
    ],
)
def test_refused_in_one_line(permlab, tmp_path, arguments, told):
    wrong = permlab(*arguments)
    assert wrong.returncode == 2
    assert told in wrong.stderr and len(wrong.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.glob("outputs/report/*"))


def test_nothing_to_report(permlab, tmp_path):
    (tmp_path / "outputs").mkdir()
    empty = permlab("report", "run.dir=report")
    assert empty.returncode == 0, empty.stderr
    assert "there are no runs" in empty.stdout
    assert "There are no runs." in (tmp_path / "report" / "index.html").read_text()


@pytest.mark.slow
def test_other_runs_do_not_carry_report_keys(permlab, tmp_path):
    done = permlab("task=ntk", "task.k=[5]", "task.replicates=0", "tracker=none", "run.dir=run")
    assert done.returncode == 0, done.stderr
    assert "report" not in (tmp_path / "run" / "config.yaml").read_text()


@pytest.mark.slow
def test_500_runs_in_time(tmp_path):
    """The limit of the whole is 60 s; generous here, because tests share their machine."""
    benchmark().make_runs(tmp_path / "outputs", 500)
    started = time.process_time()
    out = Output(tmp_path / "report", on_table=lambda name, rows: None)
    collected = collect([str(tmp_path / "outputs")])
    built = build(collected, out)
    page, text = to_html(built.report), to_markdown(built.report, out.folder)
    seconds = time.process_time() - started
    assert len(collected.runs) == 500
    assert len(collected.with_status("corrupt")) == 30
    assert seconds < 40
    assert len(page) < 8 * 2**20 and len(text) < 2**20
    assert len(list((out.folder / "figures").glob("*.svg"))) < 60


def test_a_section_that_fails_leaves_the_rest_standing(tmp_path):
    """Columns of the wrong kind in one run: its part says so, the other parts are made."""
    bad = [{"arm": "a", "position": "x", "loss": "y", "set": 3, "step": "z", "scale_rule": None, "accuracy": [1]}]
    for task in ("spt", "inverse_permutation", "ntk", "merge", "lora_lego", "mine"):
        tables = {name: bad for name in ("recall", "units_histogram", "curves", "arms", "ensemble_size", "scores")}
        write_run(tmp_path, task, 0, {"a": 1.0}, {"mode": 3, "study": [1]}, tables=tables)
        write_run(tmp_path, task, 1, {"a": 3.0}, {"mode": 3, "study": [1]})
    built = build(collect([str(tmp_path)]), Output(tmp_path / "report"))
    page = to_html(built.report)
    assert page.count("Mean ± standard deviation over seeds") >= 6
    assert page.count("2 ± 1.414") >= 6


def metas(folder):
    page = (folder / "index.html").read_text()
    return page, 'http-equiv="refresh"' in page


def test_watch_writes_again_when_a_run_moved_on_and_ends_as_done(permlab, tmp_path, monkeypatch):
    """One look after a new run, one after nothing, one after a run has gone; then the signal that ends watching."""
    import shutil

    from permlab.tasks import report

    root, folder = tmp_path / "outputs", tmp_path / "report"
    write_run(root, "toy", 0, {"a": 1.0})
    added, seen = [], []

    def step(run, seconds):
        assert seconds == 2.5
        seen.append(((folder / "index.html").stat().st_mtime_ns, metas(folder)[1], len(list(folder.glob("**/*.csv")))))
        if len(seen) == 1:
            added.append(write_run(root, "more", 0, {"b": 2.0}, status="failed", error="it broke"))
        elif len(seen) == 3:
            shutil.rmtree(added[0])
        return len(seen) < 5

    monkeypatch.setattr(report, "waited", step)
    done = permlab("report", "run.dir=report", "report.watch=true", "report.interval=2.5", "tracker=none")
    assert done.returncode == 0, done.stderr
    times, refreshing, tables = zip(*seen)
    assert len(set(times)) == 3 and times[1] == times[2] and times[3] == times[4], (
        "written where something changed only"
    )
    assert all(refreshing) and not metas(folder)[1], "the page that is left does not read itself again"
    assert tables[1] > tables[0] == tables[3], "tables of a section that is gone are gone"
    assert done.stdout.count("written again: ") == 2
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "done" and result["metrics"]["runs"] == 1
    assert all((folder / name).is_file() for name in result["artifacts"])
    assert not list(folder.glob("**/*.tmp"))


def test_a_run_that_is_going_shows_what_it_logged_last(tmp_path):
    from permlab.storage.locks import hold

    path = write_run(tmp_path, "toy", 0, status="running")
    (path / "metrics.jsonl").write_text('{"step": 470, "loss": 0.7}\n{"step": 480, "loss": 0.639}\n')
    with hold(path):
        page = to_html(build(collect([str(tmp_path)]), Output(tmp_path / "report")).report)
    assert "still running" in page and "last logged: step 480, loss 0.639" in page


@pytest.mark.slow
@pytest.mark.parametrize(("number", "while_asked"), [("SIGINT", True), ("SIGTERM", False)])
def test_watching_ends_cleanly_with_a_signal(tmp_path, environment, number, while_asked):
    import signal
    import subprocess
    import sys

    write_run(tmp_path / "outputs", "toy", 0, {"a": 1.0})
    command = [sys.executable, "-m", "permlab", "report", "run.dir=report", "report.watch=true", "report.interval=0.2"]
    process = subprocess.Popen(
        [*command, "tracker=none"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    page, limit = tmp_path / "report" / "index.html", time.monotonic() + 60
    try:
        while not page.exists() and time.monotonic() < limit:
            time.sleep(0.1)
        if while_asked:
            write_run(tmp_path / "outputs", "other", 0, {"a": 1.0})
            while "other" not in page.read_text() and time.monotonic() < limit:
                time.sleep(0.1)
            assert "other" in page.read_text()
        process.send_signal(getattr(signal, number))
        output = process.communicate(timeout=60)[0].decode()
    finally:
        process.kill()
    assert process.returncode == 0 and "Traceback" not in output, output
    assert json.loads((tmp_path / "report" / "result.json").read_text())["status"] == "done"
    assert 'http-equiv="refresh"' not in page.read_text()
