"""Runs of `permlab task=spt` in this process: small ones, and what is read back; conftest.py has the fixture."""

from __future__ import annotations

import csv
import json

SMALL = [
    *("tracker=none", "hardware=cpu", "hardware.threads=1", "task.train.batch_size=32", "task.train.log_steps=5"),
    *("model.scratch.hidden_size=48", "model.scratch.layers=2", "model.scratch.intermediate_size=96"),
]
FEW = [
    "dataset.people=6",
    "dataset.templates=2",
    "dataset.held_out=1",
    "task.train.epochs=2",
    "task.evaluation.limit=3",
]


def rows(directory, table):
    return list(csv.DictReader((directory / "tables" / f"{table}.csv").open()))


def logged(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
