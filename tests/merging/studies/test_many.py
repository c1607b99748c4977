"""Means of many networks, calibration, inputs along singular vectors: exact answers on networks made for them."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from permlab.data.images import load_digits_images
from permlab.matching import weight_matching
from permlab.merging import Setting, Subject, average
from permlab.merging.measure.evaluate import calibration_error
from permlab.merging.studies.lmc.inputs import GAMMAS, input_shares
from permlab.merging.studies.lmc.many import SCORES, many, many_metrics, split
from permlab.models.vision import build_vision_model
from permlab.symmetry import apply, declare, infer, verify


def subject_of(model, spec, states, batch):
    sets = {"train": [batch], "test": [batch]}
    return Subject(model, spec, states, sets, Setting(sets["train"]))


def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy():
    sure = torch.tensor([[0.9, 0.1]]).log().repeat(4, 1)
    assert calibration_error(sure, torch.tensor([0, 0, 1, 1])) == pytest.approx(0.4, abs=1e-6)
    # Two bins: one whose confidence is met, one that is never right.
    mixed = torch.tensor([[0.75, 0.25]] * 4 + [[0.4, 0.6]] * 4).log()
    assert calibration_error(mixed, torch.tensor([0, 0, 0, 1, 0, 0, 0, 0])) == pytest.approx(0.3, abs=1e-6)
    assert calibration_error(torch.eye(2) * 100, torch.tensor([0, 1])) == 0


@pytest.mark.slow
def test_permuted_copies_of_a_network_merge_into_it_however_many_they_are(networks):
    data = load_digits_images()
    model, spec, (state,) = networks([data], epochs=1)
    copies = [apply(spec, state, spec.random(torch.Generator().manual_seed(k))) for k in range(4)]
    subject = subject_of(model, spec, [state, *copies], (data.x_test, data.y_test))
    rows = many(subject)["many"]
    assert [row["count"] for row in rows[::4]] == [2, 4, 5]
    lines = {(row["count"], row["arm"]): row for row in rows}
    for (count, arm), row in lines.items():
        same = all(row[key] == pytest.approx(lines[2, "single networks"][key], abs=1e-4) for key in SCORES)
        assert same == (arm != "no permutation"), (count, arm)
    assert many_metrics(rows)["weight_matching_5_loss"] == lines[5, "weight matching"]["loss"]
    first = split(subject.first(2))["split"]
    assert [row["loss"] for row in first] == [row["loss"] for row in rows[:4]]


def test_inputs_along_the_only_singular_vector_have_all_their_energy_there():
    model = build_vision_model("mlp", shape=(1, 8, 8), classes=10, width=16)
    spec, state = declare(model), {name: value.clone() for name, value in model.state_dict().items()}
    first = next(name for name, value in state.items() if value.shape == (16, 64))
    along, across = torch.linalg.qr(torch.randn(64, 2, generator=torch.Generator().manual_seed(0)))[0].t()
    state[first] = torch.outer(torch.ones(16), along)
    labels = torch.zeros(6, dtype=torch.long)
    for images, share in ((along, 1.0), (across, 0.0), (3 * along + 4 * across, 9 / 25)):
        steps = torch.arange(1.0, 7.0)[:, None]
        batch = ((steps * images).view(6, 1, 8, 8), labels)
        subject = subject_of(model, spec, [state, state], batch)
        rows = input_shares(subject, subject.spectra[0])
        own = [row for row in rows if row["depth"] == 1]
        assert [row["gamma"] for row in own] == list(GAMMAS)
        for row in own:
            assert row["vectors"] == 1 / 64
            assert row["energy"] == pytest.approx(share, abs=1e-5) == row["centred"]


def test_two_networks_that_no_permutation_connects():
    """XOR by the difference of the inputs, and by their sum: every mean of the two answers nothing.

    Output weights are +1 in one and -1 in the other, so that they cancel whatever is permuted: linear connectivity is
    no matter of the architecture (the counter-example of arXiv 2209.04836 has this purpose, with other networks).
    """
    x = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    y = torch.tensor([0.0, 1, 1, 0])
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    rows = torch.tensor([[1.0, -1], [-1, 1]]), torch.tensor([[1.0, 1], [-1, -1]])
    ends = [
        {"0.weight": row, "0.bias": torch.zeros(2), "2.weight": sign * torch.ones(1, 2) * 9, "2.bias": -sign * at}
        for row, sign, at in zip(rows, (1, -1), (torch.tensor([9.0]), torch.tensor([9.0])))
    ]

    def loss(state):
        logits = torch.func.functional_call(net, state, (x,)).flatten()
        return float(functional.binary_cross_entropy_with_logits(logits, y))

    spec = infer(net, (x,))
    verify(spec, net, x)
    (group,) = spec.groups
    assert max(map(loss, ends)) < 2e-4
    found = weight_matching(spec, *ends).permutation[group]
    for order in (found, *map(torch.tensor, itertools.permutations(range(2)))):
        assert loss(average([ends[0], apply(spec, ends[1], {group: order})])) == pytest.approx(math.log(2))
