"""A unit order is one new file and one row: a made-up one trains, sweeps, is listed, drawn and reported."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from overlay import overlay

from permlab.figures import PALETTE

ORDER = '''"""The second half of the words first: `halves_swapped(REVERSED, keys, ordering)`."""

from __future__ import annotations

from permlab.text.pieces import REVERSED


def words(example):
    """Words between white space."""
    return example.text.split()


def halves_swapped(kind, keys, ordering):
    """Piece indices with the second half before the first."""
    indices = list(range(len(keys)))
    return indices[len(keys) // 2 :] + indices[: len(keys) // 2] if kind == REVERSED else indices
'''
OPENING = 'ORDERS = Table(\n    "order",\n    [\n'
ROW = """        OrderRow(
            "swapped",
            "the second half of the words first",
            label="halves swapped",
            target="permlab.text.swapped:words",
            arrange="permlab.text.swapped:halves_swapped",
            color="brown",
        )"""
SMALL = [
    *("dataset.people=6", "dataset.templates=2", "dataset.held_out=1", "task.train.epochs=2", "tracker=none"),
    *("task.evaluation.limit=2", "task.evaluation.likelihood=false", "task.evaluation.save_model=false"),
    *("model.scratch.hidden_size=16", "model.scratch.layers=1", "hardware=cpu", "task.train.log_steps=1"),
]
STREAM = """
from permlab.data.examples import Example
from permlab.text import OrderedTexts, Ordering
words = {"a": 0, "b": 1, "c": 2, "d": 3}
encode = lambda texts: [[words.get(word, 9) for word in text.split()] for text in texts]
ordering = Ordering(order="swapped", p_reordered=1)
print(OrderedTexts([Example("a b c d")], encode, ordering, epochs=1, seed=0)[0]["input_ids"])
"""


@pytest.mark.slow
def test_an_order_is_one_file_and_one_row(permlab, tmp_path, tmp_path_factory):
    folder = overlay(
        tmp_path_factory.mktemp("copy"), {"permlab/text/swapped.py": ORDER}, {"permlab/text/table.py": (OPENING, ROW)}
    )
    path = {"PYTHONPATH": str(folder)}
    command, around = [sys.executable, "-c", STREAM], {**os.environ, **path}
    shown = subprocess.run(command, cwd=tmp_path, env=around, capture_output=True, text=True)
    assert shown.stdout.strip() == "[2, 3, 0, 1]", shown.stderr
    done = permlab("-m", "task=spt", "task.order=original,swapped", *SMALL, **path)
    assert done.returncode == 0, done.stdout + done.stderr
    (figure,) = tmp_path.glob("outputs/**/figures/recall_by_arm.svg")
    assert "swapped" in figure.read_text()
    runs = [json.loads(file.read_text()) for file in tmp_path.glob("outputs/**/result.json")]
    assert sum("train_tokens_per_second" in run.get("metrics", {}) for run in runs) == 2
    curve = next(
        file.parent / "figures" / "training_loss.svg"
        for file in tmp_path.glob("outputs/**/config.yaml")
        if "order: swapped" in file.read_text()
    )
    assert PALETTE["brown"].lower() in curve.read_text().lower()
    assert "halves swapped" in permlab("ls", "orders", **path).stdout
    report = permlab("task=report", "tracker=none", **path)
    assert report.returncode == 0, report.stdout + report.stderr
    (page,) = tmp_path.glob("outputs/report/*/report.md")
    assert "swapped" in page.read_text()
    typo = permlab("task=spt", "task.order=swaped", **path)
    assert typo.returncode == 2 and "did you mean 'swapped'" in typo.stderr
    # Without the row the command of this process does not know it: what ran was the copy.
    assert "task.order=swapped is not known" in permlab("task=spt", "task.order=swapped").stderr
