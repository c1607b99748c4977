"""Calibrated averages against weight matching, on tiny networks."""

from __future__ import annotations

import pytest

from permlab.data.images import load_digits_images
from permlab.merging import Setting, Subject, batches_of
from permlab.merging.studies.width import ARMS, halves, width_rows


def test_every_arm_has_a_row_and_calibration_lowers_the_loss_of_the_ends(networks):
    data = load_digits_images()
    model, spec, states = networks([data] * 2, epochs=6)
    setting = Setting(batches_of(data.x_train, data.y_train))
    subject = Subject(model, spec, states, halves(data.x_test, data.y_test), setting, points=3)
    rows = {row["arm"]: row for row in width_rows(subject)}
    assert tuple(rows) == ARMS
    for matching in ("no permutation", "weight matching"):
        plain, calibrated = rows[matching], rows[f"{matching}, calibrated"]
        assert plain["end_accuracy"] == calibrated["end_accuracy"]  # a temperature moves no decision
        assert calibrated["end_loss"] < plain["end_loss"] + 0.02  # it suits the other half of the images
        assert plain["accuracy_barrier"] == pytest.approx(calibrated["accuracy_barrier"])
    assert rows["no permutation"]["l2_reduction"] == 0 < rows["weight matching"]["l2_reduction"]
