"""The short forms of `scripts/torture_kill.py`: a small run killed at every rename, and tasks killed here and there."""

from __future__ import annotations

import gc
import types
from dataclasses import dataclass

import pytest
import torch  # noqa: F401  before the children are forked
import torture_kill
from killed import forked, preload, process
from tally import Tally

from permlab import registry
from permlab.config import Config, ExperimentConfig, HardwareConfig, NoneConfig, RunConfig, TrackerConfig
from permlab.runs import execute
from permlab.storage.folders import replacing_folder

STEPS = 3


@dataclass
class ToyConfig:
    name: str = "ntk"
    value: float = 1.0


def work(config, run):
    """What tasks do: steps with checkpoints, weights of the first one, a folder of weights, a table, numbers."""
    done = ((run.load_checkpoint() if run.resumed else None) or {"done": 0})["done"]
    if run.resumed:
        run.rewind_metrics(done)
    for step in range(done + 1, STEPS + 1):
        if step == 1:
            run.artifact("first.pt").write_bytes(b"not written again after the checkpoint")
        run.log({"x": step / 2}, step=step)
        run.save_checkpoint({"done": step})
    with replacing_folder(run.artifact("model"), replace=True) as folder:
        (folder / "weights.pt").write_bytes(b"weights")
    run.table("numbers", [{"x": line["x"]} for line in run.logged()], show=False)
    run.summary(x=STEPS / 2)


@pytest.fixture
def toy(monkeypatch):
    """Make `work` the task ntk, here and in forked children."""
    module = types.ModuleType("toy")
    module.MODELS = module.DATASETS = ("none",)
    module.HEADLINE = ()
    module.validate = module.plan = lambda config: {}
    module.run = work
    schemas = registry.schemas
    monkeypatch.setattr(registry, "task", lambda name: module)
    monkeypatch.setattr(registry, "schemas", lambda kind: {"ntk": ToyConfig} if kind == "task" else schemas(kind))


def start() -> int:
    parts = (ToyConfig(), NoneConfig(), NoneConfig(), HardwareConfig(device="cpu"), TrackerConfig(name="none"))
    return execute.start(Config(*parts, RunConfig(dir="run"), ExperimentConfig(), 0)).exit_code


def go_on() -> int:
    from pathlib import Path

    return execute.resume(Path("run")).exit_code


@pytest.mark.slow
def test_a_run_killed_at_every_rename_ends_like_one_that_was_not(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(execute, "describe_environment", lambda *_: {"seed": 0})  # its packages are slow to list
    for name in ("warm", "whole"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "warm")
    assert start() == 0  # the children find everything imported
    gc.freeze()
    whole = forked(start, tmp_path / "whole")
    assert whole.code == 0, whole.said
    expected = torture_kill.outcome(tmp_path / "whole" / "run")
    assert expected["status"] == "done" and len(expected["metrics.jsonl"]) == STEPS
    tally = Tally("killed at")
    for number, what in enumerate(whole.events, start=1):
        if not what.startswith("before replace"):  # what is there after it is there before the next
            continue
        folder = tmp_path / str(number)
        folder.mkdir()
        killed = forked(start, folder, f"event:{number}")
        begun = (folder / "run" / "config.yaml").exists()
        resumed = forked(go_on if begun else start, folder)
        wrong = torture_kill.difference(expected, folder / "run")
        tally.add(what, killed.code == -9 and resumed.code == 0 and not wrong, f"{wrong} {resumed.said[-300:]}")
    gc.unfreeze()
    assert tally.report() == 0 and sum(tally.tried.values()) >= 10


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ntk", "sweep"])
def test_tasks_are_killed(name):
    preload()
    tally = Tally("killed")
    torture_kill.torture(tally, [name], tries=5, seed=0)
    assert tally.report() == 0


@pytest.mark.slow
def test_a_merge_of_language_models_is_killed_after_the_merged_network_appeared(tmp_path):
    """Between there and the checkpoint of the pair, and in the next pair, where nothing of it is written again."""
    preload()
    settings = torture_kill.RUNS["merge, language"]
    whole = torture_kill.whole(settings, tmp_path / "whole")
    expected = torture_kill.outcome(tmp_path / "whole" / "run")
    assert {"artifacts/networks/a", "artifacts/model", "artifacts/matching.safetensors"} <= set(expected["artifacts"])
    appeared = next(n for n, what in enumerate(whole.events, 1) if what.startswith("after replace .model."))
    saved = next(n for n, what in enumerate(whole.events, 1) if n > appeared and what.endswith("state-000001.pt"))
    last = len(whole.events) - 4
    for at in (appeared, (appeared + saved) // 2, saved, (saved + last) // 2, last):
        wrong = torture_kill.killed_run(settings, expected, tmp_path / str(at), f"event:{at}")
        assert not wrong, f"killed at {whole.events[at - 1]}: {wrong}"


def test_a_fault_strikes_where_it_should(tmp_path):
    """The script itself: an event is counted, and the process that is killed there has done what came before."""

    def make() -> int:
        for name in "ab":
            (tmp_path / name).mkdir()
        return 0

    assert forked(make, tmp_path, "event:3").code == -9
    assert (tmp_path / "a").exists() and not (tmp_path / "b").exists()
    assert process(["--version"], tmp_path).said.startswith("permlab ")
