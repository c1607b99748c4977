"""Networks read from left to right, do not know of those beside them, and follow where theory lets them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from permlab.errors import DivergedError, UserError
from permlab.state_tracking import NETWORKS, Model, Recipe, Training, Words, accuracy, group, reach

SHORT = Recipe(steps=4, batch=4, length=12)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_a_network_reads_from_left_to_right_and_learns_alone(name):
    words = Words(group("S3"))
    torch.manual_seed(0)
    both = Training(Model(name, 6, 6, [5, 7], width=16), words, SHORT, [5, 7])
    alone = Training(Model(name, 6, 6, [7], width=16), words, SHORT, [7])
    for _ in range(3):
        torch.testing.assert_close(both.step()[1:], alone.step(), rtol=1e-4, atol=1e-4)
    symbols = torch.randint(0, 6, (2, 3, 12))
    changed = symbols.clone()
    changed[..., 8:] = (changed[..., 8:] + 1) % 6
    with torch.no_grad():
        before, after = both.model(symbols), both.model(changed)
    torch.testing.assert_close(before[:, :, :8], after[:, :, :8], rtol=1e-4, atol=1e-5)
    assert (before[:, :, 8:] - after[:, :, 8:]).abs().max() > 1e-4


def test_a_training_that_was_saved_goes_on_bit_for_bit():
    words = Words(group("Z3"))
    whole = Training(Model("delta_signed", 3, 3, [0]), words, SHORT, [0])
    losses = [whole.step() for _ in range(4)]
    first = Training(Model("delta_signed", 3, 3, [0]), words, SHORT, [0])
    for _ in range(2):
        first.step()
    state = first.state()
    rest = Training(Model("delta_signed", 3, 3, [1]), words, SHORT, [0])
    rest.load(state)
    assert torch.equal(torch.stack([rest.step() for _ in range(2)]), torch.stack(losses[2:]))


def test_positions_are_counted_up_to_the_first_failure():
    assert reach(np.array([1.0, 0.95, 0.5, 1.0]), 0.9) == 2
    assert reach(np.ones(7)) == 7 and reach(np.zeros(7)) == 0


def test_training_words_are_not_the_tested_ones():
    words, seen = Words(group("S3")), set()
    training = Training(Model("gru", 6, 6, [0]), words, Recipe(steps=50, length=12, shortest=12), [0])
    for step in range(50):
        seen |= {tuple(word) for word in training.batch(step)[0][0].tolist()}
    tested, _ = words.draw(64, 12, seed=0)
    assert not seen & {tuple(word) for word in tested.tolist()}


def test_an_unknown_network_is_refused():
    with pytest.raises(UserError, match="did you mean 'delta_signed'"):
        Model("delta_sign", 2, 2, [0])


@pytest.mark.slow
def test_a_negative_eigenvalue_follows_parity_beyond_the_trained_length_and_a_positive_one_does_not():
    words, recipe = Words(group("Z2")), Recipe(steps=200, length=24)
    for name, follows in (("delta_signed", True), ("delta_positive", False)):
        training = Training(Model(name, 2, 2, [0]), words, recipe, [0])
        for _ in range(recipe.steps):
            training.step()
        curve = accuracy(training.model, words, 32, 96)[0]
        assert (reach(curve) >= 48) is follows, name
        assert follows or curve[48:].mean() < 0.7


def test_training_that_leaves_the_finite_numbers_is_stopped_and_names_the_seed():
    words = Words(group("Z2"))
    training = Training(Model("gru", 2, 2, [4, 9], width=16), words, Recipe(steps=8, batch=2, length=4), [4, 9])
    training.step()
    training.check()
    with torch.no_grad():
        training.model.head.weight[1] = float("nan")
    training.step()
    with pytest.raises(DivergedError, match=r"the loss is nan at step 2 \(seed 9\)"):
        training.check()
