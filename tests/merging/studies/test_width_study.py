"""Calibrated averages against weight matching, on tiny networks."""

from __future__ import annotations

import pytest

from permlab.data.images import load_digits_images
from permlab.merging import batches_of
from permlab.merging.studies.width import ARMS, width_rows


def test_every_arm_has_a_row_and_calibration_lowers_the_loss_of_the_ends(networks):
    data = load_digits_images()
    model, spec, states = networks([data] * 2, epochs=6)
    reset = batches_of(data.x_train, data.y_train)
    rows = {row["arm"]: row for row in width_rows(spec, model, states, (data.x_test, data.y_test), reset)}
    assert tuple(rows) == ARMS
    for matching in ("no permutation", "weight matching"):
        plain, calibrated = rows[matching], rows[f"{matching}, calibrated"]
        assert plain["end_accuracy"] == calibrated["end_accuracy"]  # a temperature moves no decision
        assert calibrated["end_loss"] < plain["end_loss"] + 0.02  # it suits the other half of the images
        assert plain["accuracy_barrier"] == pytest.approx(calibrated["accuracy_barrier"])
    assert rows["no permutation"]["l2_reduction"] == 0 < rows["weight matching"]["l2_reduction"]
