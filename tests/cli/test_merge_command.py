"""The installed command merges networks: a run, its folder, and mistakes in one line."""

from __future__ import annotations

import json

import pytest

SMALL = ["task=merge", "model.width=16", "task.train.epochs=2", "task.points=3", "tracker=none", "hardware=cpu"]


@pytest.mark.slow
def test_merging_from_the_command_line(permlab, tmp_path):
    done = permlab(*SMALL, "run.dir=run", "task.renorm=reset")
    assert done.returncode == 0, done.stderr
    assert "weight matching + reset" in done.stdout and "no permutation + reset" in done.stdout
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == "done" and "naive_loss_barrier" in result["metrics"]
    assert (tmp_path / "run" / "artifacts" / "model" / "model.safetensors").is_file()
    again = permlab("task=merge", "model=none", "task.models=[run/artifacts/model,run/artifacts/model]", "tracker=none")
    assert again.returncode == 0, again.stderr
    assert len(list((tmp_path / "outputs" / "merge").iterdir())) == 1


@pytest.mark.slow
def test_a_sweep_over_the_width_ends_with_one_figure(permlab, tmp_path):
    done = permlab("-m", *SMALL, "model.width=8,16", "task.controls=false", "task.compare=[identity]")
    assert done.returncode == 0, done.stderr
    figure = list((tmp_path / "outputs").rglob("arms_against_width.png"))
    assert len(figure) == 1 and figure[0].stat().st_size > 5000


def test_mistakes_are_named(permlab, tmp_path):
    wrong = permlab("task=merge", "task.match=zip")
    assert wrong.returncode == 2 and "go together" in wrong.stderr and "Traceback" not in wrong.stderr
    (tmp_path / "a.pt").write_bytes(b"\x80\x04pickle")
    pickled = permlab("task=merge", "task.models=[a.pt,a.pt]")
    assert pickled.returncode == 2 and "a.pt" in pickled.stderr and "Traceback" not in pickled.stderr
    assert not (tmp_path / "outputs").exists()
