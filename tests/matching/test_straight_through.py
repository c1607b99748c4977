from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from permlab.data.images import load_digits_images
from permlab.errors import UserError
from permlab.matching import straight_through, weight_matching
from permlab.matching.straightthrough import classification_loss
from permlab.models.vision import build_vision_model
from permlab.symmetry import apply, declare


@pytest.fixture(scope="module")
def trained():
    """Three small MLPs trained on the digits from different seeds, and batches of training data."""
    data = load_digits_images()
    states = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = build_vision_model("mlp", shape=data.shape, classes=10, width=24, depth=2)
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(8):
            for rows in torch.randperm(len(data.x_train)).split(64):
                optimizer.zero_grad()
                functional.cross_entropy(model(data.x_train[rows]), data.y_train[rows]).backward()
                optimizer.step()
        states.append({name: value.detach().clone() for name, value in model.state_dict().items()})
    batches = list(zip(data.x_train.split(256), data.y_train.split(256)))
    return model, declare(model), states, batches


def midpoint_loss(model, spec, states, permutations, batches):
    moved = [apply(spec, state, permutation) for state, permutation in zip(states, permutations)]
    mean = {name: sum(state[name] for state in moved) / len(moved) for name in moved[0]}
    with torch.no_grad():
        return sum(float(classification_loss(model, mean, batch)) for batch in batches) / len(batches)


@pytest.mark.parametrize("count", [2, 3])
def test_the_midpoint_loss_ends_below_weight_matching(trained, count):
    model, spec, states, batches = trained
    states = states[:count]
    matching = straight_through(spec, model, states, batches, steps=60, rate=0.05)
    loss = midpoint_loss(model, spec, states, matching.permutations, batches)
    assert loss == pytest.approx(matching.objective, rel=1e-4)
    naive = midpoint_loss(model, spec, states, [spec.identity()] * count, batches)
    assert loss < 0.5 * naive
    # Step 0 of a warm start is weight matching of every model to the first.
    assert matching.objective <= matching.trace[0]["objective"]
    if count == 2:
        plain = weight_matching(spec, *states)
        assert matching.trace[0]["objective"] == pytest.approx(
            midpoint_loss(model, spec, states, plain.permutations, batches), rel=0.2
        )
    assert all(group.check(matching.permutations[-1]) == "" for group in spec.groups.values())
    assert set(matching.costs[1]) == set(spec.groups)


def test_a_cold_start_begins_from_unrelated_weights(trained):
    model, spec, states, batches = trained
    warm = straight_through(spec, model, states[:2], batches, steps=1)
    cold = straight_through(spec, model, states[:2], batches, steps=1, start="cold")
    assert cold.trace[0]["objective"] > 2 * warm.trace[0]["objective"]


def test_weights_and_mode_are_left_alone(trained):
    model, spec, states, batches = trained
    before = {name: value.clone() for name, value in states[1].items()}
    model.train()
    straight_through(spec, model, states[:2], batches, steps=2)
    assert model.training
    assert all(torch.equal(before[name], value) and not value.requires_grad for name, value in states[1].items())


def test_bad_input_is_refused(trained):
    model, spec, states, batches = trained
    with pytest.raises(UserError, match="no data"):
        straight_through(spec, model, states[:2], [])
    with pytest.raises(UserError, match="start=tepid"):
        straight_through(spec, model, states[:2], batches, start="tepid")
