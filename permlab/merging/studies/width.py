"""Does width replace permutations? Averages with calibrated outputs against weight matching: `width_rows(...)`.

A pair is merged without a permutation and with weight matching, and every network on the line, ends included, is scored
as it is and with its logits divided by the temperature that suits half of the test images best; the scores are those of
the other half (arXiv 2510.08023 calibrates averages of wide networks). BatchNorm statistics are measured again at every
point.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from permlab.matching import weight_matching
from permlab.merging import align, barrier_curve, batches_of, l2_reduction
from permlab.merging.networks.states import State
from permlab.symmetry import Spec
from permlab.tables import Row

ARMS = ("no permutation", "no permutation, calibrated", "weight matching", "weight matching, calibrated")
QUANTITIES = ("loss_barrier", "accuracy_barrier", "midpoint_loss", "midpoint_accuracy", "end_loss", "end_accuracy")


def width_rows(
    spec: Spec,
    model: nn.Module,
    states: Sequence[State],
    test: tuple[Tensor, Tensor],
    reset: Sequence[Any],
    *,
    points: int = 3,
    restarts: int = 1,
    seed: int = 0,
    batch: int = 1024,
) -> list[Row]:
    """Return one row per arm of `ARMS` for two networks.

    Args:
        spec, model, states: the architecture and two networks as trained.
        test: (images, labels); one random half calibrates, the other is scored.
        reset: training batches for BatchNorm statistics.
        points: of the barrier curves.
        restarts, seed: of weight matching.
        batch: images per batch.
    """
    matching = weight_matching(spec, *states, restarts=restarts, seed=seed)
    images, labels = test
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).to(images.device)
    calibration, judged = (batches_of(images[half], labels[half], batch) for half in order.chunk(2))
    rows = []
    for arm in ARMS:
        matched = arm.startswith("weight")
        ends = align(spec, states, matching) if matched else states
        options = {"calibrate": calibration} if arm.endswith("calibrated") else {}
        curve = barrier_curve(model, *ends, judged, points=points, reset=reset, **options)
        row: Row = {"arm": arm, **{key: getattr(curve, key) for key in QUANTITIES[:4]}}
        row["end_loss"], row["end_accuracy"] = ((v[0] + v[-1]) / 2 for v in (curve.loss, curve.accuracy))
        row["l2_reduction"] = l2_reduction(spec, *states, matching.permutation) if matched else 0.0
        rows.append(row)
    return rows
