"""Means of two, four, eight networks and more, and how calibrated they are: `many(subject)["many"]`.

    permlab task=merge task.study=lmc task.analyses=[many]
    permlab task=merge task.study=lmc task.analyses=[split] task.share=0.5

MergeMany of arXiv 2209.04836 (appendix) matches every network to the mean of the others; its split-data experiment
asks what the mean of two networks that saw different images knows beside each of them and beside their ensemble.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from permlab.merging.measure.evaluate import (
    calibration_error,
    ensemble_logits,
    labels_of,
    logits_of,
    score_logits,
    temperature,
)
from permlab.merging.measure.subject import Subject
from permlab.merging.studies.lmc.arms import NAIVE, WEIGHT, Tables
from permlab.tables import Row

NETWORKS, ENSEMBLE = "single networks", "ensemble"
ARMS = (NETWORKS, NAIVE.label, WEIGHT.label, ENSEMBLE)
SCORES = ("loss", "accuracy", "calibration_error", "calibrated_loss")


def scored(logits: Tensor, labels: Tensor) -> Row:
    """Scores of all images, and the loss of one half once the other half has set the temperature."""
    score, heat = score_logits(logits, labels), temperature(logits[::2], labels[::2])
    calibrated = score_logits(logits[1::2] / heat, labels[1::2]).loss
    return dict(zip(SCORES, (score.loss, score.accuracy, calibration_error(logits, labels), calibrated)))


def many(subject: Subject) -> Tables:
    """Scores on the test images of single networks (their mean score), means with and without matching, ensembles.

    The first 2, 4, 8, ... networks are merged, and all of them.
    """
    test = subject.sets["test"]
    labels, total = labels_of(test), len(subject.states)
    own = [logits_of(subject.model, state, test) for state in subject.states]
    single = [scored(logits, labels) for logits in own]
    rows: list[Row] = []
    for count in [*(2**k for k in range(1, 10) if 2**k < total), total]:
        part = subject.first(count)
        found = {NETWORKS: {key: sum(row[key] for row in single[:count]) / count for key in SCORES}}
        for arm in (NAIVE, WEIGHT):
            found[arm.label] = scored(logits_of(subject.model, part.merge(arm).states[0], test), labels)
        found[ENSEMBLE] = scored(ensemble_logits(own[:count]), labels)
        rows += [{"pair": subject.pair, "count": count, "arm": name, **found[name]} for name in ARMS]
    return {"many": rows}


def split(subject: Subject) -> Tables:
    """The same of two networks; with `task.share=0.5` they have no training image in common."""
    return {"split": many(subject)["many"]}


def many_metrics(lines: Sequence[Row]) -> dict[str, float]:
    """Every score by arm and number of networks."""
    return {f"{line['arm'].replace(' ', '_')}_{line['count']:g}_{key}": line[key] for line in lines for key in SCORES}
