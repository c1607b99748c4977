"""A way to combine networks is one new file and one row: a made-up one works wherever the shipped ones do."""

from __future__ import annotations

import csv
import json
import re

import pytest
from overlay import overlay

from permlab.figures import PALETTE

METHOD = '''"""The entry of larger size, network by network: `louder([a, b])`."""

from __future__ import annotations

import torch


def louder(states):
    """Keep, of all networks, each entry that is farthest from 0."""
    merged = {}
    for name in states[0]:
        stacked = torch.stack([state[name] for state in states])
        merged[name] = stacked.gather(0, stacked.abs().argmax(0, keepdim=True))[0]
    return merged


def combine_louder(networks, setting):
    """`louder` as a row of `COMBINES`."""
    return louder(networks.trunks())
'''
OPENING = 'COMBINES = Table(\n    "way to combine",\n    [\n'
ROW = """        CombineRow(
            "louder",
            "the entry of larger size",
            label="louder",
            target="permlab.merging.methods.louder:combine_louder",
            color="brown",
        )"""
SMALL = ["model.width=12", "task.train.epochs=1", "task.points=3", "tracker=none", "hardware=cpu"]


@pytest.mark.slow
def test_a_way_to_combine_is_one_file_and_one_row(permlab, tmp_path, tmp_path_factory):
    folder = overlay(
        tmp_path_factory.mktemp("copy"),
        {"permlab/merging/methods/louder.py": METHOD},
        {"permlab/merging/combines.py": (OPENING, ROW)},
    )
    path = {"PYTHONPATH": str(folder)}
    done = permlab("task=merge", "task.combine=louder", "task.compare=[identity/fisher]", *SMALL, "run.dir=run", **path)
    assert done.returncode == 0, done.stdout + done.stderr
    with (tmp_path / "run" / "tables" / "arms.csv").open() as file:
        rows = {row["arm"]: row for row in csv.DictReader(file)}
    # The control without a permutation stands beside it, and beside the shipped arm too.
    assert {"weight matching, louder", "no permutation, louder", "no permutation, Fisher"} <= rows.keys()
    metrics = json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]
    assert metrics["midpoint_loss"] == float(rows["weight matching, louder"]["midpoint_loss"])
    assert metrics["no_permutation_louder_midpoint_loss"] != metrics["no_permutation_fisher_midpoint_loss"]
    figure = (tmp_path / "run" / "figures" / "arms.svg").read_text()
    assert "weight matching, louder" in figure and PALETTE["brown"].lower() in figure.lower()
    swept = permlab("-m", "task=merge", "task.combine=average,louder", "task.controls=false", *SMALL, **path)
    assert swept.returncode == 0, swept.stdout + swept.stderr
    assert "louder" in swept.stdout
    listed = permlab("ls", "combines", **path)
    assert re.search(r"louder\s+the entry of\s+larger", listed.stdout), listed.stdout + listed.stderr
    report = permlab("task=report", "tracker=none", "report.runs=[run]", **path)
    assert report.returncode == 0, report.stdout + report.stderr
    (page,) = tmp_path.glob("outputs/report/*/report.md")
    assert "weight matching, louder" in page.read_text()
    typo = permlab("task=merge", "task.combine=loudr", *SMALL, **path)
    assert typo.returncode == 2 and "did you mean 'louder'" in typo.stderr
    # Without the row the command of this process does not know it: what ran was the copy.
    assert "task.combine=louder is not known" in permlab("task=merge", "task.combine=louder", *SMALL).stderr
