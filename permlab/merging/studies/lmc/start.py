"""Straight-through matching from its usual start and from random weights: `start(subject)["start"]`."""

from __future__ import annotations

from collections.abc import Sequence

from permlab.matching import straight_through
from permlab.merging.studies.lmc.subject import Subject, Tables
from permlab.tables import Row, pick

STARTS = (("warm", 0.01), ("cold", 0.01), ("cold", 0.1), ("cold", 1.0))
"""Starts of straight-through matching and their learning rates: at the usual rate a cold start does not move."""


def start(subject: Subject) -> Tables:
    """Straight-through matching started at A (as published by Git Re-Basin) or at random weights."""
    rows = []
    weight = subject.match("weight matching").permutation
    for name, rate in (("weight matching", None), *STARTS):
        if rate is None:
            permutation, loss = weight, None
        else:
            options = {"steps": subject.steps, "rate": rate, "start": name, "seed": subject.seed}
            found = straight_through(subject.spec, subject.model, subject.states[:2], subject.small, **options)
            permutation, loss = found.permutation, found.objective
        measured = {**subject.alignment(permutation), **subject.barriers(permutation)}
        rows.append({"pair": subject.pair, "start": name, "rate": rate, "train_midpoint_loss": loss, **measured})
    return {"start": rows}


def start_metrics(lines: Sequence[Row]) -> dict[str, float]:
    """Alignment and barrier of weight matching, of the warm start and of the cold start at its best rate (training)."""
    warm = pick(lines, start="warm")
    cold = min((line for line in lines if line["start"] == "cold"), key=lambda line: line["train_loss_barrier"])
    numbers = {}
    for name, line in (("warm", warm), ("cold", cold), ("weight", pick(lines, start="weight matching"))):
        numbers |= {f"{name}_r": line["r_0.3"], f"{name}_r0": line["r_0"], f"{name}_barrier": line["loss_barrier"]}
    return numbers | {"cold_rate": cold["rate"]}
