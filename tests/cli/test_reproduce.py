"""The reproduction targets: every experiment has its place and its rules; a failure stops nothing but the exit code."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from permlab import shipped
from permlab.compose import plan_jobs
from permlab.rules import parse_rule

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "reproduce.py"
EXPERIMENTS = shipped.names("experiment")
FOLDERS = {"spt/berglund": "dataset.path", "lora_lego/text": "task.folder"}
"""Experiments that need a folder of data before they compose, and the key that names it."""


@pytest.fixture(scope="module")
def driver():
    spec = importlib.util.spec_from_file_location("reproduce", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["reproduce"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["reproduce"]


def test_every_experiment_is_in_exactly_one_target(driver):
    full = {step.experiment: target for target, steps in driver.TARGETS.items() for step in steps}
    reduced = {step.experiment for step in driver.QUICK}
    quick_only = {name for name in EXPERIMENTS if name.rpartition("/")[2].startswith("quick")}
    assert set(full) | quick_only == set(EXPERIMENTS)
    assert not set(full) & quick_only
    assert quick_only <= reduced <= set(EXPERIMENTS)
    task_of = {"ntk": "ntk", "probe": "inverse_permutation", "merge": "merge", "spt": "spt", "lego": "lora_lego"}
    assert {task_of[target] for target in driver.TARGETS} == {name.partition("/")[0] for name in EXPERIMENTS}
    assert all(name.startswith(f"{task_of[target]}/") for name, target in full.items())
    assert {name.partition("/")[0] for name in reduced} == set(task_of.values())
    places = Counter((target, step) for target, steps in driver.TARGETS.items() for step in steps)
    assert max(places.values()) == 1
    assert len(driver.steps_of("all")) == sum(len(steps) for steps in driver.TARGETS.values())


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_says_what_it_checks(name, tmp_path):
    folder = [f"{FOLDERS[name]}={tmp_path}"] if name in FOLDERS else []
    job = plan_jobs([f"experiment={name}", *folder], multirun=False).jobs[0]
    section = job.config.experiment
    assert section.name == name
    assert all(len(text or "") > 10 for text in (section.claim, section.source, section.acceptance))
    assert section.minutes and section.minutes > 0
    assert section.checks and all(parse_rule(text).metrics for text in section.checks)
    assert section.scale == "toy" or name.partition("/")[0] in ("ntk", "inverse_permutation")


def test_ls_experiments_is_readable_through_a_pipe_and_at_80_and_120_columns(permlab):
    lines = permlab("ls", "experiments").stdout.splitlines()
    assert not any(line.endswith(" ") for line in lines)
    for name in EXPERIMENTS:
        section = yaml.safe_load((shipped.conf_dir() / "experiment" / f"{name}.yaml").read_text())["experiment"]
        (line,) = [line for line in lines if line.startswith(f"{name} ")]
        assert line.split()[1] == f"{section['minutes']:g}"
        assert section["claim"].rstrip() in line
    for width in (80, 120):
        narrow = permlab("ls", "experiments", COLUMNS=str(width)).stdout
        assert max(map(len, narrow.splitlines())) <= width
        assert all(any(line.startswith(name) for line in narrow.splitlines()) for name in EXPERIMENTS)
        claim = section["claim"]
        assert all(word in narrow for word in claim.split())


def test_list_names_experiments_minutes_and_missing_data(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "lego", "--list", "--data", str(tmp_path)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r"lora_lego/default +7 min", done.stdout)
    assert f"left out: no text_classification under {tmp_path}" in done.stdout


def results(folder: Path, task: str) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob(f"outputs/{task}/*/result.json"))]


def test_a_failing_experiment_is_reported_and_the_others_run_once(driver, tmp_path, monkeypatch, capfd):
    """Two jobs, a failure, data that is not there, then the report; a second call runs only what failed."""
    monkeypatch.chdir(tmp_path)
    small = ("task.k=[5,10,20]", "task.replicates=0", "hardware.threads=1")
    steps = (
        driver.Step("spt/berglund", ("dataset.path={data}/reversal_curse",), ("reversal_curse",)),
        driver.Step("ntk/figure1_left", ("task.k=[1]",)),
        driver.Step("ntk/scaling", (*small, "task.fit_from=5")),
    )
    assert driver.reproduce(steps, tmp_path / "data") == 1
    shown = capfd.readouterr()
    assert "spt/berglund: left out; it needs reversal_curse under" in shown.out
    assert "task.k=1 is out of range" in shown.err
    assert "[2/3] ntk/figure1_left: FAILED" in shown.out and "[3/3] ntk/scaling: done" in shown.out
    assert [r["status"] for r in results(tmp_path, "ntk")] == ["done", "done"]
    (page,) = tmp_path.glob("outputs/report/*/index.html")
    assert "ntk/scaling" in page.read_text()
    assert driver.reproduce(steps[2:], tmp_path / "data") == 0
    assert len(results(tmp_path, "ntk")) == 2
    assert "skipped" in capfd.readouterr().out
    assert len(list(tmp_path.glob("outputs/report/*/index.html"))) == 2


def test_only_the_newest_finished_run_of_every_job_is_reported(driver, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (job,) = plan_jobs(["experiment=ntk/figure1_left", "run.root=outputs"], multirun=False).jobs
    same = {"fingerprint": job.config.fingerprint(), "experiment": "ntk/figure1_left"}
    written = {
        "a": same | {"status": "done"},
        "b": same | {"status": "done"},
        "c": same | {"status": "failed"},
        "d": same | {"status": "done", "experiment": None},
        "e": same | {"status": "done", "fingerprint": "other"},
    }
    assert driver.newest(job) is None
    for name, result in written.items():
        folder = tmp_path / "outputs" / "ntk" / name
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(result))
    assert driver.newest(job) == (Path("outputs/ntk/b"), "done")
    assert driver.directories([job, job]) == [Path("outputs/ntk/b")]


def test_an_interrupted_run_is_continued_and_a_stop_ends_everything(driver, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (job,) = plan_jobs(["experiment=ntk/figure1_left", "tracker=none"], multirun=False).jobs
    folder = tmp_path / "outputs" / "ntk" / "stopped"
    folder.mkdir(parents=True)
    result = {"fingerprint": job.config.fingerprint(), "experiment": "ntk/figure1_left", "status": "interrupted"}
    (folder / "result.json").write_text(json.dumps(result))
    calls = []

    def command(*arguments: str) -> int:
        calls.append(arguments)
        return 130

    monkeypatch.setattr(driver, "permlab", command)
    steps = (driver.Step("ntk/figure1_left"), driver.Step("ntk/scaling"))
    assert driver.reproduce(steps, tmp_path) == 130
    assert calls == [("resume", "outputs/ntk/stopped")]
    assert "the same command goes on from here" in capsys.readouterr().out


def test_make_calls_the_driver_for_every_target(driver):
    text = (ROOT / "Makefile").read_text()
    for target in (*driver.TARGETS, "all", "quick"):
        assert re.search(rf"^reproduce-{target}: setup ## .+\n\t\$\(REPRODUCE\) {target}$", text, re.MULTILINE)
