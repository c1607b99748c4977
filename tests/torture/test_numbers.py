"""Training that diverges, what the data leave open, runs that repeat: the short form of scripts/torture_numbers.py.

python scripts/torture_numbers.py       # the long form
"""

from __future__ import annotations

import json
import os
import random
import warnings

import pytest
import tiny_runs
import torch
import torture_numbers
from tally import Tally

from permlab.diverged import LARGEST_LOSS, check_losses, check_weights
from permlab.errors import Caution, DivergedError, caution
from permlab.hardware import deterministic


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), -float("inf"), LARGEST_LOSS])
def test_a_loss_that_left_the_numbers_names_its_step_and_network(loss):
    check_losses([[0.5, 2.0], [9000.0, -3.0]], 7, "lower rate=1")
    with pytest.raises(DivergedError, match=r"at step 8 \(seed 4\); lower rate=1"):
        check_losses([[0.5, 0.5], [0.5, loss]], 7, "lower rate=1", members=["seed 3", "seed 4"])
    with pytest.raises(DivergedError, match="not finite after step 3"):
        check_weights([torch.ones(2), torch.tensor([1.0, float("nan")])], 3, "lower rate=1")


@pytest.mark.slow
@pytest.mark.parametrize("task", ["inverse_permutation", "ntk", "spt", "merge", "lora_lego"])
def test_a_task_whose_training_diverges_fails_with_one_line(task, tmp_path):
    tally = Tally("numbers")
    torture_numbers.diverge(tally, task, 1, random.Random(0), tmp_path)
    assert tally.failures == []


def test_what_the_data_do_not_decide_is_warned_about():
    for fault, (call, words) in torture_numbers.ambiguous().items():
        assert torture_numbers.warned(call, words) == "", fault


def test_cautions_are_in_the_result_in_the_log_and_in_the_report(tmp_path, monkeypatch, capsys):
    from permlab.reports.build import problem_section
    from permlab.reports.collect import read_run
    from permlab.reports.writer import Output
    from permlab.tasks import ntk

    def work(config, run):
        for _ in range(3):
            caution("the answer is one of several")
        warnings.warn("somebody else's", DeprecationWarning, stacklevel=1)

    monkeypatch.setattr(ntk, "run", work)
    with warnings.catch_warnings(record=True) as others:
        warnings.simplefilter("always")
        assert tiny_runs.permlab(*tiny_runs.overrides("ntk", f"run.root={tmp_path}")) == 0
    assert [str(each.message) for each in others] == ["somebody else's"]
    path = torture_numbers.only_run(tmp_path)
    assert json.loads((path / "result.json").read_text())["warnings"] == ["the answer is one of several"]
    assert "caution: the answer is one of several" in capsys.readouterr().out
    assert "caution: the answer is one of several" in (path / "run.log").read_text()
    problem_section([read_run(path)], Output(tmp_path / "report"))
    assert "the answer is one of several" in (tmp_path / "report" / "tables" / "cautions.csv").read_text()


def test_outside_a_run_a_caution_is_an_ordinary_warning():
    with pytest.warns(Caution, match="one of several"):
        caution("one of several")


@pytest.mark.slow
def test_deterministic_algorithms_are_switched_on_for_the_run_and_off_again(tmp_path, monkeypatch):
    from permlab.tasks import ntk

    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    seen = {}

    def work(config, run):
        seen["on"] = torch.are_deterministic_algorithms_enabled()
        seen["cudnn"] = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
        seen["cublas"] = os.environ["CUBLAS_WORKSPACE_CONFIG"]

    monkeypatch.setattr(ntk, "run", work)
    more = ["run.deterministic=true", f"run.root={tmp_path}"]
    assert tiny_runs.permlab(*tiny_runs.overrides("ntk", *more)) == 0
    assert seen == {"on": True, "cudnn": (True, False), "cublas": ":4096:8"}
    environment = json.loads((torture_numbers.only_run(tmp_path) / "environment.json").read_text())
    assert environment["deterministic"]["algorithms"] and environment["deterministic"]["cublas_workspace"] == ":4096:8"
    assert not torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.benchmark
    assert not torch.backends.cudnn.deterministic and "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    with deterministic(False):
        assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.slow
@pytest.mark.parametrize("task", tiny_runs.TINY)
def test_the_same_seed_gives_the_same_numbers(task, tmp_path):
    tally = Tally("numbers")
    torture_numbers.repeat(tally, task, 0, tmp_path, (1,))
    assert tally.failures == []
