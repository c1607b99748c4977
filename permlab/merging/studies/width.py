"""Does width replace permutations? Averages with calibrated outputs against weight matching: `width_rows(subject)`.

A pair is merged without a permutation and with weight matching, and every network on the line, ends included, is scored
as it is and with its logits divided by the temperature that suits half of the test images best; the scores are those of
the other half (arXiv 2510.08023 calibrates averages of wide networks). BatchNorm statistics are measured again at every
point.
"""

from __future__ import annotations

import torch
from torch import Tensor

from permlab.merging.arm import Arm
from permlab.merging.measure.evaluate import batches_of
from permlab.merging.measure.subject import Subject
from permlab.tables import Row

NAIVE, WEIGHT = Arm("identity"), Arm("weight")
CALIBRATED = ", calibrated"
ARMS = tuple(arm.label + end for arm in (NAIVE, WEIGHT) for end in ("", CALIBRATED))
QUANTITIES = ("loss_barrier", "accuracy_barrier", "midpoint_loss", "midpoint_accuracy", "end_loss", "end_accuracy")


def halves(images: Tensor, labels: Tensor, batch: int = 1024) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """Return test images in random halves as sets of a subject: "calibration" and "test"."""
    # Disjoint halves: a temperature fitted on the images it is scored on would flatter the average.
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).to(images.device)
    return {
        name: batches_of(images[half], labels[half], batch)
        for name, half in zip(("calibration", "test"), order.chunk(2))
    }


def width_rows(subject: Subject) -> list[Row]:
    """Return one row per arm of `ARMS` for two networks with the sets of `halves`."""
    rows: list[Row] = []
    for arm in (NAIVE, WEIGHT):
        for calibrate in (None, subject.sets["calibration"]):
            # arXiv 2510.08023: averages of wide networks shrink their logits, which a softmax temperature undoes. The
            # ends have temperatures of their own, so that the barrier compares like with like.
            curve = subject.barriers(arm.match, calibrate=calibrate, sets={"test": subject.sets["test"]})["test"]
            row: Row = {"arm": arm.label if calibrate is None else arm.label + CALIBRATED}
            row |= {key: getattr(curve, key) for key in QUANTITIES[:4]}
            row["end_loss"], row["end_accuracy"] = ((v[0] + v[-1]) / 2 for v in (curve.loss, curve.accuracy))
            row["l2_reduction"] = subject.reduction(subject.match(arm.match))["l2_reduction"]
            rows.append(row)
    return rows
