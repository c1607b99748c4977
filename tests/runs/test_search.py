"""A search finds a planted optimum, goes on where it was killed, and is refused before anything starts."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from permlab.compose import plan_jobs
from permlab.errors import UserError
from permlab.runs.outcome import Outcome
from permlab.runs.search import ASKED, Search, close_search, earlier, open_study
from permlab.runs.sweep import note_job, read_job

pytest.importorskip("optuna")
KEYS = ["task.x=tag(log,interval(0.001,10.0))", "task.y=int(interval(1,8))", "task.way=good,bad"]


class Launcher:
    """Runs jobs as a launcher does: what it leaves is a note and a result."""

    def __init__(self, folder, stop_at=None):
        self.folder, self.stop_at, self.launched = folder, stop_at, []

    def launch(self, jobs, initial_job_idx):
        for number, overrides in enumerate(jobs, start=initial_job_idx):
            self.launched.append((number, overrides))
            if number == self.stop_at:
                raise KeyboardInterrupt
            keys = dict(each.split("=") for each in overrides)
            loss = (float(keys["task.x"]) - 0.1) ** 2 + (int(keys["task.y"]) - 3) ** 2 + (keys["task.way"] == "bad")
            directory = self.folder / f"run{number}"
            directory.mkdir(exist_ok=True)
            (directory / "result.json").write_text(json.dumps({"metrics": {"loss": loss}, "seconds": 1}))
            note_job(self.folder, number, keys, Outcome(directory, "failed" if number == 1 else "done", 0))


def search(folder, launcher, trials=40, at_once=1):
    found = Search(trials, at_once, seed=0)
    found.launcher = launcher
    found.config = SimpleNamespace(
        hydra=SimpleNamespace(sweep=SimpleNamespace(dir=str(folder))), run=SimpleNamespace(objective="-loss")
    )
    found.sweep([*KEYS, "task=toy"])
    return open_study(folder, "-loss")


@pytest.mark.slow
def test_a_planted_optimum_is_found_and_a_killed_search_goes_on(tmp_path):
    cut = Launcher(tmp_path, stop_at=5)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, cut)
    rest = Launcher(tmp_path)
    study = search(tmp_path, rest)
    assert rest.launched[0] == cut.launched[-1], "the job that was cut off comes first, the same"
    assert [number for number, _ in rest.launched] == list(range(5, 40))
    drawn = [tuple(trial.params.values()) for trial in study.trials]
    assert len(set(drawn)) == len(drawn), "what was drawn before the end is not drawn again"
    assert study.trials[1].value is None, "a failed job has no value"
    assert study.best_params["task.y"] == 3 and study.best_params["task.way"] == "good"
    assert abs(study.best_params["task.x"] - 0.1) < 0.3
    close_search(tmp_path, "-loss")
    assert {"search_history.png", "search_importance.png"} <= {path.name for path in (tmp_path / "figures").iterdir()}
    rows = (tmp_path / "importance.csv").read_text().splitlines()
    assert rows[0] == "key,importance" and rows[1].startswith("task.x,"), "it decides most of the loss"
    assert rows[3].startswith("task.way,"), "and this the least"
    assert read_job(tmp_path, 1)["status"] == "failed"


@pytest.mark.slow
def test_jobs_side_by_side(tmp_path):
    launcher = Launcher(tmp_path)
    study = search(tmp_path, launcher, trials=5, at_once=2)
    assert len(study.trials) == 5 and [number for number, _ in launcher.launched] == [0, 1, 2, 3, 4]


def test_the_same_command_finds_its_study(tmp_path):
    folder = tmp_path / "sweeps" / "one"
    folder.mkdir(parents=True)
    (folder / ASKED).write_text(json.dumps(["seed=0"]))
    assert earlier(tmp_path, ["seed=0"]) == folder and earlier(tmp_path, ["seed=1"]) is None


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["seed=0"], "needs -m and keys to search"),
        (["task.target=interval(0.5,0.9)"], r"run\.objective=METRIC"),
        (["task.target=interval(0.5,7)", "run.objective=-ensemble_size"], r"task\.target"),
        (["task.target=tag(log,interval(0.0,0.9))", "run.objective=-ensemble_size"], r"task\.target"),
    ],
)
def test_what_cannot_be_searched_is_refused(keys, said):
    with pytest.raises(UserError, match=said):
        plan_jobs(["task=ntk", "hydra/sweeper=optuna", *keys], True)


def test_without_a_search_an_interval_is_refused_with_the_way_to_one():
    with pytest.raises(UserError, match="hydra/sweeper=optuna"):
        plan_jobs(["task=ntk", "task.target=interval(0.5,0.9)"], True)


@pytest.mark.slow
def test_a_job_that_does_worse_than_those_before_is_pruned(permlab, tmp_path):
    """Probes that learn nothing (a rate of 1e-9) are ended early; the table says so, and the search goes on."""
    from tiny_runs import overrides

    keys = overrides("inverse_permutation", "task.train.steps=40", "task.target_mse=0", "hydra.sweeper.pruner=median")
    keys = [each for each in keys if not each.startswith("task.train.steps=20")]
    rates = "task.train.learning_rate=choice(0.05,0.06,1e-9)"
    more = ["hydra/sweeper=optuna", "hydra.sweeper.trials=12", "run.objective=-test_mse", rates]
    done = permlab("-m", *keys, *more)
    assert done.returncode == 0, done.stdout + done.stderr
    (sweep,) = (tmp_path / "outputs" / "sweeps").iterdir()
    rows = [line.split(",") for line in (sweep / "jobs.csv").read_text().splitlines()[1:]]
    pruned = [row for row in rows if "pruned" in row]
    assert len(rows) == 12 and "1e-09" in {row[1] for row in pruned} <= {"1e-09", "0.05"}
    study = open_study(sweep, "-test_mse")
    states = [trial.state.name for trial in study.trials]
    assert states.count("PRUNED") == len(pruned) and states.count("COMPLETE") == 12 - len(pruned)
    assert all(len(trial.intermediate_values) < 8 for trial in study.trials if trial.state.name == "PRUNED")
    assert float(study.best_params["task.train.learning_rate"]) == 0.06


def test_an_unknown_pruner_is_refused():
    keys = ["hydra/sweeper=optuna", "task.target=interval(0.5,0.9)", "run.objective=-ensemble_size"]
    with pytest.raises(UserError, match=r"hydra\.sweeper\.pruner.*median"):
        plan_jobs(["task=ntk", *keys, "hydra.sweeper.pruner=medium"], True)


def test_a_study_that_cannot_be_reached_costs_no_run(tmp_path, caplog):
    from permlab.runs.pruning import Trial

    trial = Trial.__new__(Trial)
    trial.metric, trial.trial = "loss", None
    trial.report({"loss": 1.0}, 3)
    trial.report({"loss": 1.0}, 4)
    assert trial.metric == ""
