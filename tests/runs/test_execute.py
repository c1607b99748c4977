"""One run from configuration to result, with a task made for the test."""

from __future__ import annotations

import json
import os
import signal
import types
from dataclasses import dataclass

import pytest

from permlab import registry
from permlab.config import (
    Config,
    NoneConfig,
    RunConfig,
    TrackerConfig,
)
from permlab.errors import UserError
from permlab.experiment import ExperimentConfig
from permlab.hardware import HardwareConfig
from permlab.runs import execute
from permlab.runs.trackers.mirror import NullTracker
from permlab.storage import locks


@dataclass
class ToyConfig:
    name: str = "toy"
    value: float = 1.0


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Return a function that runs `work(config, run)` as a task of its own."""

    def run(work, seed=0, **settings):
        toy = types.ModuleType("toy")
        toy.MODELS = toy.DATASETS = ("none",)
        toy.HEADLINE = ("value",)
        toy.validate = lambda config: None
        toy.plan = lambda config: {}
        toy.run = work
        monkeypatch.setattr(registry, "task", lambda name: toy)
        run_config = RunConfig(root=str(tmp_path), **settings)
        parts = (ToyConfig(), NoneConfig(), NoneConfig(), HardwareConfig(device="cpu"), TrackerConfig(name="none"))
        return execute.start(Config(*parts, run_config, ExperimentConfig(), seed))

    return run


def read(outcome, name="result.json"):
    return json.loads((outcome.directory / name).read_text())


def test_everything_a_run_leaves(start):
    def work(config, run):
        from permlab import figures

        run.log({"loss": 0.5}, step=1)
        run.summary(value=2.0)
        run.table("numbers", [{"x": 1, "y": 0.5}, {"x": 2, "z": "a,b"}])
        figure, ax = figures.new()
        ax.plot([0, 1], [0, 1])
        run.figure("line", figure)
        run.artifact("note.txt").write_text("x")

    done = start(work)
    assert (done.status, done.exit_code) == ("done", 0)
    result = read(done)
    assert result["status"] == "done" and result["task"] == "toy" and result["metrics"] == {"value": 2.0}
    assert result["seconds"] > 0 and result["peak_rss_mb"] > 10 and result["seed"] == 0 and result["fingerprint"]
    assert set(result["artifacts"]) == {
        "tables/numbers.csv",
        "figures/line.png",
        "figures/line.svg",
        "artifacts/note.txt",
    }
    assert all((done.directory / name).stat().st_size for name in result["artifacts"])
    assert json.loads((done.directory / "metrics.jsonl").read_text()) == {"step": 1, "loss": 0.5}
    assert (done.directory / "tables" / "numbers.csv").read_text().splitlines() == ["x,y,z", "1,0.5,", '2,,"a,b"']
    environment = read(done, "environment.json")
    assert environment["packages"]["torch"] and environment["seed"] == 0 and environment["cpu"]


def test_a_failing_task_is_recorded_with_its_traceback(start):
    def work(config, run):
        raise ZeroDivisionError("by nothing")

    done = start(work)
    assert (done.status, done.exit_code) == ("failed", 1)
    assert read(done)["status"] == "failed" and "by nothing" in read(done)["error"]
    log = (done.directory / "run.log").read_text()
    assert "Traceback" in log and "ZeroDivisionError: by nothing" in log


def test_a_user_mistake_found_late_leaves_no_directory(start, tmp_path):
    def work(config, run):
        raise UserError("the file has a bad row; mend it")

    done = start(work)
    assert (done.status, done.exit_code, done.message) == ("refused", 2, "the file has a bad row; mend it")
    assert not done.directory.exists()


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_let_the_task_checkpoint_and_mark_the_run(start, signum, code):
    def work(config, run):
        import torch

        os.kill(os.getpid(), signum)
        assert run.stopping
        run.save_checkpoint({"step": 3, "weights": torch.arange(4.0)})
        run.check_stop()

    before = signal.getsignal(signal.SIGINT)
    done = start(work)
    assert (done.status, done.exit_code) == ("interrupted", code)
    assert read(done)["status"] == "interrupted"
    assert len(list((done.directory / "checkpoints").glob("state-*.pt"))) == 1
    assert signal.getsignal(signal.SIGINT) is before


def test_a_task_that_does_not_listen_is_stopped_after_the_grace_time(start, monkeypatch):
    from permlab.runs import signals

    monkeypatch.setattr(signals, "GRACE_SECONDS", 0.2)

    def work(config, run):
        import time

        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)

    assert start(work).exit_code == 143


def test_checkpoints_keep_the_last_two_and_skip_a_broken_one(start):
    seen = {}

    def work(config, run):
        for step in range(5):
            run.save_checkpoint({"step": step})
        kept = sorted((run.dir / "checkpoints").iterdir())
        seen["kept"] = len(kept)
        kept[-1].write_bytes(b"cut off")
        seen["state"] = run.load_checkpoint()

    start(work)
    assert seen == {"kept": 2, "state": {"step": 3}}


def test_finished_runs_are_skipped_when_asked(start):
    first = start(lambda config, run: run.summary(value=1.0))
    second = start(lambda config, run: run.summary(value=1.0), skip_finished=True)
    assert (second.status, second.directory) == ("skipped", first.directory)
    third = start(lambda config, run: run.summary(value=1.0), seed=1, skip_finished=True)
    assert third.status == "done"


def test_random_states_depend_on_the_seed_alone(start):
    import random

    import numpy as np
    import torch

    drawn = []

    def work(config, run):
        drawn.append((random.random(), np.random.rand(), torch.rand(1).item()))

    for seed in (3, 4, 3):
        start(work, seed=seed)
    assert drawn[0] == drawn[2] != drawn[1]


def test_metrics_after_a_resume_are_rewound(start):
    def work(config, run):
        for step in (1, 2, 3):
            run.log({"loss": step}, step=step)
        with (run.dir / "metrics.jsonl").open("a") as file:
            file.write('{"step": 4, "lo')
        run.resumed, run.tracker = True, mirrored
        run.rewind_metrics(2)
        run.log({"loss": 3.5}, step=3)

    class Listening(NullTracker):
        def rewind(self, step):
            heard.append(step)

    heard, mirrored = [], Listening()
    lines = (start(work).directory / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [1, 2, 3.5] and heard == [2]


def interrupted(config, run):
    run.summary(value=0.5)
    os.kill(os.getpid(), signal.SIGTERM)
    run.check_stop()


def test_a_killed_run_is_taken_up_a_finished_one_left_and_a_failed_one_begun_anew(start, monkeypatch):
    def done(config, run):
        run.summary(value=1.0, resumed=float(run.resumed))

    def failing(config, run):
        raise RuntimeError("it broke")

    monkeypatch.setattr(execute, "build_config", lambda plain: made[0])
    kept = execute.start_checked
    made = []
    monkeypatch.setattr(execute, "start_checked", lambda config, *more: made.append(config) or kept(config, *more))
    failed = start(failing, resume="auto")
    stopped = start(interrupted, resume="auto")
    assert stopped.directory != failed.directory
    with locks.hold(stopped.directory):
        other = start(interrupted, resume="auto")
    assert other.directory != stopped.directory, "somebody works on it"
    result = json.loads((other.directory / "result.json").read_text())
    (other.directory / "result.json").write_text(json.dumps({**result, "status": "running"}))
    ended = start(done, resume="auto")
    assert ended.directory == other.directory and read(ended)["metrics"]["resumed"] == 1.0
    assert start(done, resume="auto").status == "skipped"


def test_run_dir_is_taken_up_with_resume_auto(start, tmp_path, monkeypatch):
    made = []
    kept = execute.start_checked
    monkeypatch.setattr(execute, "start_checked", lambda config, *more: made.append(config) or kept(config, *more))
    monkeypatch.setattr(execute, "build_config", lambda plain: made[0])
    place = str(tmp_path / "mine")
    stopped = start(interrupted, dir=place)
    assert start(interrupted, dir=place).status == "refused"
    ended = start(lambda config, run: run.summary(value=3.0), dir=place, resume="auto")
    assert (ended.status, ended.directory) == ("done", stopped.directory)
    assert "other settings" in start(interrupted, seed=4, dir=place, resume="auto").message
