"""Straight-through matching from its usual start and from random weights: `start(subject)["start"]`."""

from __future__ import annotations

from collections.abc import Sequence

from permlab.matching import straight_through
from permlab.merging.measure.evaluate import rebatched
from permlab.merging.measure.subject import Subject
from permlab.merging.studies.lmc.arms import STEP_IMAGES, WEIGHT, Tables, barriers
from permlab.symmetry import Permutation
from permlab.tables import Row, pick

STARTS = (("warm", 0.01), ("cold", 0.01), ("cold", 0.1), ("cold", 1.0))
"""Starts of straight-through matching and their learning rates: at the usual rate a cold start does not move."""


def start(subject: Subject) -> Tables:
    """Straight-through matching started at A (as published by Git Re-Basin) or at random weights."""
    rows: list[Row] = []

    def add(name: str, rate: float | None, permutation: Permutation, loss: float | None) -> None:
        measured = {**subject.alignment(permutation), **barriers(subject, permutation)}
        rows.append({"pair": subject.pair, "start": name, "rate": rate, "train_midpoint_loss": loss, **measured})

    add(WEIGHT.label, None, subject.match(WEIGHT.match).permutation, None)
    # arXiv 2402.04051, section 6, compares straight-through matching with weight matching from one start only.
    small = rebatched(subject.setting.batches, STEP_IMAGES)
    for name, rate in STARTS:
        found = straight_through(
            subject.spec, subject.model, subject.states, small,
            steps=subject.setting.steps, rate=rate, start=name, seed=subject.setting.seed,
        )  # fmt: skip
        add(name, rate, found.permutation, found.objective)
    return {"start": rows}


def start_metrics(lines: Sequence[Row]) -> dict[str, float]:
    """Alignment and barrier of weight matching, of the warm start and of the cold start at its best rate (training)."""
    warm = pick(lines, start="warm")
    cold = min((line for line in lines if line["start"] == "cold"), key=lambda line: line["train_loss_barrier"])
    numbers: dict[str, float] = {}
    for name, line in (("warm", warm), ("cold", cold), ("weight", pick(lines, start=WEIGHT.label))):
        numbers |= {f"{name}_r": line["r_0.3"], f"{name}_r0": line["r_0"], f"{name}_barrier": line["loss_barrier"]}
    return numbers | {"cold_rate": cold["rate"]}
