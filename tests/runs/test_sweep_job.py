"""Jobs of a sweep that a launcher stops and starts again: one directory, one row, the numbers of an undisturbed run."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import hydra
import pytest
from tiny_runs import overrides

from permlab.compose import compose_one, plan_jobs
from permlab.config import register_schemas
from permlab.runs import launchers, sweep_job
from permlab.runs.launchers import Launcher, cluster_defaults, patient, queued
from permlab.runs.run import Run
from permlab.runs.sweep import close_sweep, note_job, noted
from permlab.storage.locks import hold

pytestmark = pytest.mark.filterwarnings("ignore::permlab.errors.Caution")


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Return number -> runs that job of a sweep, as Hydra's launcher calls it; and the sweep's folder."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    monkeypatch.chdir(tmp_path)
    register_schemas()
    composed = compose_one(overrides("inverse_permutation", "run.checkpoint_steps=5", "run.fail_fast=true"))
    sweep = tmp_path / "sweep"

    def run(number=0):
        hydra = {"overrides": {"task": ["seed=0"]}, "job": {"num": number}, "launcher": {"signal_delay_s": 20}}
        monkeypatch.setattr(HydraConfig, "get", staticmethod(lambda: OmegaConf.create(hydra)))
        sweep_job.SweepJob(str(sweep), ["seed"], True)(composed)

    return run, sweep


def signalled(monkeypatch, number):
    """Send this process a signal when a run logs for the second time."""
    log, seen = Run.log, []

    def logged(self, metrics, step=None):
        log(self, metrics, step)
        seen.append(step)
        if len(seen) == 2:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Run, "log", logged)


def steady(directory):
    metrics = json.loads((Path(directory) / "result.json").read_text())["metrics"]
    return {key: value for key, value in metrics.items() if "seconds" not in key}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_job_that_is_stopped_and_started_again_goes_on_in_its_directory(job, monkeypatch, number):
    run, sweep = job
    run(1)
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setattr(sweep_job, "END_SECONDS", 0)
    asked = []
    before = signal.signal(signal.SIGUSR2, lambda signum, _: asked.append(signum))
    try:
        with monkeypatch.context() as patched:
            signalled(patched, number)
            run(0)
        # submitit's handler requeues; after SIGTERM Slurm itself does, where it wants to.
        assert asked == ([signal.SIGUSR2] if number == signal.SIGUSR2 else [])
        stopped = noted(sweep, 0)
        assert stopped["status"] == "interrupted" and "permlab resume" in stopped["message"]
        run(0)
    finally:
        signal.signal(signal.SIGUSR2, before)
    ended = noted(sweep, 0)
    assert (ended["status"], ended["directory"]) == ("done", stopped["directory"])
    assert len(list(Path("outputs/inverse_permutation").iterdir())) == 2, "a directory per job"
    assert steady(ended["directory"]) == steady(noted(sweep, 1)["directory"])
    run(0)
    assert noted(sweep, 0)["status"] == "done", "requeued after its end: nothing to do"


def test_a_job_that_no_launcher_starts_again_says_why(job, monkeypatch):
    run, sweep = job
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")

    def refuse(*_):
        raise RuntimeError("Job not requeued because: timed-out too many times.")

    before = signal.signal(signal.SIGUSR2, refuse)
    try:
        signalled(monkeypatch, signal.SIGUSR2)
        run(0)
    finally:
        signal.signal(signal.SIGUSR2, before)
    note = noted(sweep, 0)
    assert note["status"] == "interrupted" and "too many times" in note["message"]


def test_with_fail_fast_no_job_starts_after_a_failure(job):
    run, sweep = job
    note_job(sweep, 0, {}, sweep_job.Outcome(None, "failed", 1))
    run(1)
    assert noted(sweep, 1) == {} and not Path("outputs").exists()


def test_a_closed_sweep_says_what_became_of_every_job(tmp_path, capsys):
    from types import SimpleNamespace

    sweep, runs = tmp_path / "sweep", [tmp_path / name for name in ("done", "killed", "going")]
    for path, score in zip(runs, (0.5, 0.7, 0.9)):
        path.mkdir()
        (path / "result.json").write_text(json.dumps({"metrics": {"score": score}, "seconds": 1}))
    note_job(sweep, 0, {"seed": "0"}, sweep_job.Outcome(runs[0], "done", 0))
    for number in (1, 2):
        note_job(sweep, number, {"seed": str(number)}, sweep_job.Outcome(runs[number], "running", 1))
    points = [["task=ntk", f"seed={n}"] for n in range(4)]
    with hold(runs[2]):
        assert close_sweep(sweep, points, SimpleNamespace(HEADLINE=("score",)), ["seed"]) == 1
    statuses = [noted(sweep, n)["status"] for n in range(4)]
    assert statuses == ["done", "killed", "running", "not started"]
    assert noted(sweep, 3)["varied"] == {"seed": "3"}
    assert f"permlab resume {runs[1]}" in noted(sweep, 1)["message"]
    assert f"process {os.getpid()}" in noted(sweep, 2)["message"]


@pytest.mark.parametrize(("objective", "best"), [("score", "task.n=8: score 0.8"), ("-score", "task.n=4: score 0.4")])
def test_the_best_job_is_named(tmp_path, capsys, objective, best):
    from types import SimpleNamespace

    for number, n in enumerate((4, 8)):
        path = tmp_path / str(n)
        path.mkdir()
        (path / "result.json").write_text(json.dumps({"metrics": {"score": n / 10}, "seconds": 1}))
        note_job(tmp_path / "sweep", number, {"task.n": str(n)}, sweep_job.Outcome(path, "done", 0))
    assert close_sweep(tmp_path / "sweep", [[], []], SimpleNamespace(OBJECTIVE=objective)) == 0
    assert f"best: {best}\n" in capsys.readouterr().out


@pytest.mark.slow
def test_the_table_is_there_while_the_sweep_goes(job):
    run, sweep = job
    run(3)
    assert "inverse_permutation" in (sweep / "jobs.csv").read_text()


# ---- Slurm ----------------------------------------------------------------------------------------------------------


def test_a_time_limit_is_not_the_end():
    given = {"timeout_min": 60, "signal_delay_s": 120, "max_num_timeout": 0}
    assert cluster_defaults(Launcher("submitit_slurm", given), []) == ["hydra.launcher.max_num_timeout=10"]
    short = Launcher("submitit_slurm", {**given, "timeout_min": 2})
    assert cluster_defaults(short, ["hydra.launcher.max_num_timeout=0"]) == ["hydra.launcher.signal_delay_s=30"], (
        "120 s before the end of two minutes nothing would be done"
    )
    assert cluster_defaults(Launcher("joblib", {"n_jobs": 2}), []) == []


def test_where_slurm_keeps_no_accounts_squeue_is_asked_and_one_line_says_so(tmp_path, monkeypatch, capfd):
    slurm = pytest.importorskip("submitit.slurm.slurm")
    for name, script in {
        "sacct": "echo 'Slurm accounting storage is disabled' >&2; exit 1",
        "squeue": "echo '7_0|RUNNING'; echo '7_1|PENDING'",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(launchers, "_console", None, raising=False)
    assert queued(["7"]) == {"7_0": "RUNNING", "7_1": "PENDING"}
    usual = slurm.SlurmJob.watcher
    with patient(Launcher("submitit_slurm")):
        watcher = slurm.SlurmJob.watcher
        states = [watcher.get_state(f"7_{n}", mode="force") for n in (0, 1, 2)]
        watcher.update()
        assert [watcher.is_done(f"7_{n}", mode="cache") for n in (0, 1, 2)] == [False, False, True]
    assert states == ["RUNNING", "PENDING", "GONE"] and slurm.SlurmJob.watcher is usual
    said = "".join(capfd.readouterr())
    assert said.count("accounting storage is disabled") == 1 and "Bypassing" not in said


def test_a_launcher_makes_a_sweep_of_one_run():
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    plan = plan_jobs(["task=ntk", "hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=7"], False)
    assert plan.multirun and plan.launcher.name == "submitit_slurm" and plan.launcher.keys["timeout_min"] == 7
    assert not plan_jobs(["task=ntk"], False).multirun


@pytest.mark.parametrize(
    ("profile", "keys"),
    [
        ("slurm", {"timeout_min": 7, "max_num_timeout": 10, "gpus_per_node": 1, "mem_gb": 5, "partition": "long"}),
        ("joblib", {"n_jobs": 3}),
        ("ray", {}),
    ],
)
def test_a_profile_sets_the_launcher_from_its_own_keys(profile, keys):
    pytest.importorskip(f"hydra_plugins.hydra_{'submitit' if profile == 'slurm' else profile}_launcher")
    own = ["hardware.minutes=7", "hardware.gpus=1", "hardware.memory=5", "hardware.partition=long", "hardware.jobs=3"]
    plan = plan_jobs(["task=ntk", f"hardware={profile}", *own], False)
    assert plan.multirun and {key: plan.launcher.keys[key] for key in keys} == keys
    plain = plan_jobs(["task=ntk"], False)
    assert plan.jobs[0].config.fingerprint() == plain.jobs[0].config.fingerprint(), "where it runs decides nothing"


def test_the_launcher_of_a_profile_costs_no_composition_of_its_own(monkeypatch):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    composed, original = [], hydra.compose
    monkeypatch.setattr(hydra, "compose", lambda *given, **keys: composed.append(given) or original(*given, **keys))
    plan = plan_jobs(["task=ntk", "hardware=joblib", "hardware.jobs=2"], False)
    assert (plan.launcher.name, plan.launcher.keys["n_jobs"], len(composed)) == ("joblib", 2, 1)
