"""Packages that are named on the command line: `permlab plugins=[coins] task=coin`, in sweeps, workers and resumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest
import yaml

from permlab import registry

FILES = {
    "coins/__init__.py": """
        from permlab.tasks.table import TaskRow

        PERMLAB_ROWS = [TaskRow("coin", "is a coin fair?", target="coins.task:CoinConfig", section="coins.shown")]
    """,
    "coins/task.py": '''
        """How often does a coin show heads?"""

        from dataclasses import dataclass

        HEADLINE = ("heads",)
        MODELS = DATASETS = ("none",)


        @dataclass
        class CoinConfig:
            name: str = "coin"
            tosses: int = 100
            bias: float = 0.5


        def validate(config):
            pass


        def plan(config):
            return {"tosses": str(config.task.tosses)}


        def run(config, run):
            run.summary(heads=config.task.bias * config.task.tosses + run.seed)
    ''',
    "coins/shown.py": """
        from permlab.reports.document import Text

        TITLE, QUESTION = "Coins", "Is a coin fair?"


        def blocks(collection, out):
            return [Text(f"{len(collection.runs)} tossed coins")]
    """,
    "coins/conf/task/coin.yaml": """
        # @package _global_
        # permlab plugins=[coins] task=coin      is a coin fair?
        defaults:
          - /schema/task/coin@task
          - override /model: none
          - override /dataset: none
          - _self_
    """,
    "coins/conf/experiment/coin/toss.yaml": """
        # @package _global_
        # permlab plugins=[coins] experiment=coin/toss      a biased coin is found out
        defaults:
          - override /task: coin
          - _self_
        experiment:
          name: coin/toss
          claim: A biased coin shows other numbers.
          checks: ["max(heads) > 60"]
          sweep: {task.bias: "0.5,0.7"}
    """,
}
QUIET = ("plugins=[coins]", "tracker=none")


@pytest.fixture
def coins(tmp_path_factory, monkeypatch):
    """The package in a folder of its own, importable in this test alone; returns the folder."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for path, text in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(textwrap.dedent(text).lstrip("\n"))
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(registry, "_activated", {})
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "coins"]:
        del sys.modules[name]


def test_a_task_of_a_plugin_runs_and_is_resumed(permlab, coins, tmp_path):
    done = permlab(*QUIET, "task=coin", "task.tosses=10", "run.dir=run")
    assert done.returncode == 0, done.stdout + done.stderr
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert written["plugins"] == ["coins"] and written["task"]["tosses"] == 10
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["metrics"] == {"heads": 5.0}
    (tmp_path / "run" / "result.json").write_text(json.dumps({**result, "status": "interrupted", "metrics": {}}))
    again = permlab("resume", "run")
    assert again.returncode == 0, again.stdout + again.stderr
    assert json.loads((tmp_path / "run" / "result.json").read_text())["metrics"] == {"heads": 5.0}


def test_mistakes_and_listings_know_the_plugin(permlab, coins, tmp_path):
    typo = permlab(*QUIET, "task=coin", "task.tosess=3")
    assert typo.returncode == 2 and "did you mean 'task.tosses'" in typo.stderr
    assert "did you mean 'coin'" in permlab(*QUIET, "task=conin").stderr
    registry._activated.clear()
    assert "task=coin is not known" in permlab("task=coin").stderr
    missing = permlab("plugins=[conis]", "task=coin")
    assert missing.returncode == 2 and "plugins=conis cannot be imported" in missing.stderr
    shown = permlab("ls", "tasks", "experiments", "plugins=[coins]").stdout
    assert "is a coin fair?" in shown and "coin/toss" in shown
    assert "tosses: 100" in permlab("--cfg", "job", *QUIET, "task=coin").stdout
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_an_experiment_of_a_plugin_is_swept_and_reported_with_its_own_section(permlab, coins, tmp_path):
    done = permlab(*QUIET, "experiment=coin/toss")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "jobs of outputs/sweeps/" in done.stdout
    report = permlab(*QUIET, "task=report", "run.dir=shown")
    assert report.returncode == 0, report.stdout + report.stderr
    page = (tmp_path / "shown" / "report.md").read_text()
    assert "2 tossed coins" in page and "| reproduced |" in page


@pytest.mark.slow
def test_a_job_of_a_sweep_reaches_a_worker_process(coins, tmp_path, monkeypatch):
    """What joblib's launcher does: the job and its configuration are pickled and called in a fresh process."""
    code = """
        import pickle, sys
        from hydra.core.hydra_config import HydraConfig

        job, composed, hydra = pickle.loads(sys.stdin.buffer.read())
        HydraConfig.instance().cfg = hydra
        job(composed)
    """
    compose = """
        import pickle, sys
        from omegaconf import OmegaConf
        from permlab.runs.sweep_job import SweepJob
        from permlab.compose import compose_one, plan_jobs

        overrides = ["plugins=[coins]", "task=coin", "task.bias=0.5,0.7", "tracker=none"]
        plan = plan_jobs(overrides, multirun=True)
        hydra = {"hydra": {"overrides": {"task": plan.jobs[1].overrides}, "job": {"num": 1}}}
        composed = compose_one([*plan.jobs[1].overrides, *plan.search])
        sys.stdout.buffer.write(pickle.dumps((SweepJob("sweep", plan.varied, True), composed, OmegaConf.create(hydra))))
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(coins), os.environ.get("PYTHONPATH")])))
    call = dict(capture_output=True, timeout=120)
    sent = subprocess.run([sys.executable, "-c", textwrap.dedent(compose)], **call)
    assert sent.returncode == 0, sent.stderr.decode()
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], input=sent.stdout, **call)
    assert done.returncode == 0, done.stderr.decode()
    (note,) = (tmp_path / "sweep" / "jobs").glob("*.json")
    told = json.loads(note.read_text())
    assert told["status"] == "done" and told["varied"] == {"task.bias": "0.7"}
