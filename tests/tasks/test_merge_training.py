"""What the networks that `permlab task=merge` trains see, and the space that they are trained in, from its keys."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

KEYS = ["task=merge", "model.width=8", "task.points=3", "tracker=none", "hardware=cpu", "hardware.threads=1"]
CHANGES = ["task.match=identity", "task.combine=task_arithmetic"]


@pytest.mark.slow
@pytest.mark.parametrize("tangent", [True, False])
def test_in_tangent_space_half_of_both_changes_is_the_ensemble(permlab, tmp_path: Path, tangent: bool):
    # Outputs of the expansion are linear in the weights, so that the mean of weights has the mean of logits.
    training = ["task.train.epochs=2", "task.train.rate=0.02", f"task.train.tangent={str(tangent).lower()}"]
    assert permlab(*KEYS, *CHANGES, "task.weights=[0.5,0.5]", *training, "run.dir=run").returncode == 0
    with open(tmp_path / "run/tables/arms.csv") as handle:
        arms = {row["arm"]: row for row in csv.DictReader(handle)}
    gap = abs(float(arms["task arithmetic"]["midpoint_loss"]) - float(arms["ensemble"]["midpoint_loss"]))
    assert gap < 1e-5 if tangent else gap > 1e-3
    record = json.loads((tmp_path / "run/artifacts/model/merge.json").read_text())
    assert ("tangent" in record) == tangent


@pytest.mark.slow
def test_classes_are_dealt_out_unevenly_from_the_command_line(permlab, tmp_path: Path):
    keys = [*KEYS, "task.train.epochs=1", "task.uneven=0.8", "task.combine=regmean", "run.dir=run"]
    assert permlab(*keys).returncode == 0
    with open(tmp_path / "run/tables/endpoints.csv") as handle:
        samples = [int(row["samples"]) for row in csv.DictReader(handle)]
    assert sum(samples) == 1347 and max(samples) < 700


@pytest.mark.parametrize(
    "arguments,words",
    [
        (["task.uneven=1"], "task.uneven=1 is out of range"),
        (["task.uneven=0.8", "task.share=0.5"], "drop task.labels and task.share"),
        (["task.uneven=0.8", "model=tiny-llama", "dataset=people"], "task.uneven is for image networks"),
        (["task.train.tangent=true"], "set task.combine to one"),
        (["task.train.tangent=true", *CHANGES, "model=resnet-tiny"], "model.norm=layer"),
    ],
)
def test_what_does_not_fit_is_refused(permlab, tmp_path: Path, arguments: list[str], words: str):
    said = permlab("task=merge", *arguments, "run.dir=run")
    assert said.returncode == 2 and words in said.stderr and not (tmp_path / "run").exists()
