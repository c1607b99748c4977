"""`debug=fast|limit|overfit|profile`: tiny keys for every task, marked results, a trace and costliest operations."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from permlab import shipped
from permlab.compose import plan_jobs
from permlab.config import Config, TaskSettings
from permlab.reports.collect import collect
from permlab.runs.directory import finished_run

TASKS = ("spt", "inverse_permutation", "ntk", "merge", "lora_lego")
DEBUG = ("fast", "limit", "overfit", "profile")


def composed(*overrides: str) -> Config[TaskSettings]:
    (job,) = plan_jobs([*overrides], False).jobs
    return job.config


def only_run(root: Path, task: str) -> Path:
    (path,) = (root / "outputs" / task).iterdir()
    return path


def test_the_options_are_four_and_their_parts_are_none():
    assert tuple(shipped.names("debug")) == DEBUG


def trackers_on(config) -> list[str]:
    """The trackers that a run mirrors to."""
    return [name for name, on in config.tracker.mirrors.items() if on and name != "none"]


@pytest.mark.parametrize("task", [pytest.param(t, marks=[] if t == "ntk" else pytest.mark.slow) for t in TASKS])
def test_every_option_makes_every_task_smaller(task: str):
    real = composed(f"task={task}")
    assert "debug" not in real.to_container()
    for name in DEBUG:
        config = composed(f"task={task}", f"debug={name}")
        assert (config.debug.name, trackers_on(config)) == (name, [])
        assert config.task != real.task
        assert config.debug.profile == (name == "profile")
        assert bool(config.debug.checks) == (name == "overfit")


def test_the_command_line_wins_over_the_option_and_the_option_over_an_experiment(tmp_path: Path):
    config = composed("experiment=ntk/figure1_left", "debug=fast")
    assert (config.task.name, config.task.k, config.experiment.name) == ("ntk", [4], "ntk/figure1_left")
    config = composed("debug=fast", "task=ntk", "task.k=[7]", "tracker=wandb")
    assert (config.task.k, trackers_on(config)) == ([7], ["wandb"])


def test_options_of_a_folder_have_parts_for_tasks_too(permlab, tmp_path: Path):
    (tmp_path / "my" / "debug" / "mine").mkdir(parents=True)
    (tmp_path / "my" / "debug" / "mine.yaml").write_text("# @package _global_\ndebug: {name: mine}\n")
    (tmp_path / "my" / "debug" / "mine" / "ntk.yaml").write_text("# @package _global_\ntask: {k: [6]}\n")
    done = permlab("--config-dir", "my", "show", "task=ntk", "debug=mine")
    assert done.returncode == 0, done.stderr
    assert "k: [6]" in done.stdout and "name: mine" in done.stdout


@pytest.mark.slow
def test_a_debug_run_is_marked_and_never_taken_for_a_result(permlab, tmp_path: Path):
    keys = ["task=ntk", "debug=fast", "hardware=cpu", "hardware.threads=1"]
    done = permlab(*keys, "debug.checks=['max(ensemble_size) < 0']")
    assert done.returncode == 0, done.stderr
    path = only_run(tmp_path, "ntk")
    result = json.loads((path / "result.json").read_text())
    assert (result["status"], result["debug"]) == ("done", "fast")
    assert "check does not hold: max(ensemble_size) < 0: measured 21" in result["warnings"]
    collected = collect([], tmp_path / "outputs")
    assert (collected.runs, collected.debug) == ([], 1)
    # The same keys without the option are another run.
    twin = composed(*keys)
    twin.debug = type(twin.debug)()
    assert finished_run(tmp_path / "outputs", "ntk", twin.fingerprint()) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "keys",
    [
        ["task=ntk", "task.width=[32]", "task.members=20"],
        ["task=spt", "debug.examples=16", "model.scratch.layers=1"],
        ["task=inverse_permutation", "task.n=3"],
    ],
    ids=["ntk", "spt", "inverse_permutation"],
)
def test_a_profile_has_a_trace_and_ten_operations_by_time(permlab, tmp_path: Path, keys: list[str]):
    done = permlab(*keys, "debug=profile", "hardware=cpu", "hardware.threads=1")
    assert done.returncode == 0, done.stderr
    path = only_run(tmp_path, keys[0].split("=")[1])
    trace = json.loads((path / "artifacts" / "trace.json").read_text())
    assert any(str(event.get("name", "")).startswith("aten::") for event in trace["traceEvents"])
    with (path / "tables" / "profile.csv").open() as file:
        rows = list(csv.DictReader(file))
    times = [float(row["self_ms"]) for row in rows]
    assert len(rows) == 10 and times == sorted(times, reverse=True) and times[-1] > 0
    assert all(float(row["total_ms"]) >= float(row["self_ms"]) * 0.999 for row in rows)
    assert "costliest operations" in done.stdout and "USDT" not in done.stdout + done.stderr
    listed = json.loads((path / "result.json").read_text())["artifacts"]
    assert {"artifacts/trace.json", "tables/profile.csv"} <= set(listed)


@pytest.mark.slow
def test_no_operation_is_said_and_not_a_failure(permlab, tmp_path: Path):
    done = permlab("task=ntk", "debug=profile", "task.mode=law", "hardware=cpu", "hardware.threads=1")
    assert done.returncode == 0, done.stderr
    result = json.loads((only_run(tmp_path, "ntk") / "result.json").read_text())
    assert any("no operation of PyTorch" in text for text in result["warnings"])


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_fast_runs(permlab, tmp_path: Path, task: str):
    done = permlab(f"task={task}", "debug=fast", "hardware=cpu", "hardware.threads=1")
    assert done.returncode == 0, done.stderr
    assert json.loads((only_run(tmp_path, task) / "result.json").read_text())["debug"] == "fast"


@pytest.mark.slow
def test_overfit_learns_its_handful(permlab, tmp_path: Path):
    done = permlab("task=spt", "debug=overfit", "hardware=cpu", "hardware.threads=1")
    assert done.returncode == 0, done.stderr
    assert "check holds: max(final_loss) < 0.3" in done.stdout
