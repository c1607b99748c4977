from __future__ import annotations

import copy

import pytest
import torch

from permlab.errors import UserError
from permlab.probes.floors import mse_floor
from permlab.probes.layout import Layout
from permlab.probes.problem import sample, squared_error
from permlab.probes.recipes import Recipe
from permlab.probes.series import Series
from permlab.probes.training import Training
from permlab.probes.transformer import Transformer

SHORT = Recipe(steps=60, batch=16, test_every=20, test_examples=32)


def small(seeds, recipe=SHORT, variant="no_mask"):
    return Training(Transformer(Layout.variant(variant, n=3)), recipe, seeds)


@pytest.mark.parametrize("variant", [pytest.param("no_mask", marks=pytest.mark.slow), "scratch"])
def test_learns_small_permutations(variant):
    """n = 4 in both variants that can: all rows right in both seeds."""
    training = Training(Transformer(Layout.variant(variant, n=4)), Recipe(steps=250, batch=128), [0, 1])
    last = training.run()
    assert max(last.test_mse) < 0.01 and min(last.row_accuracy) == 1.0
    assert all(training.steps_to_target())
    assert training.finished and training.step < 250


@pytest.mark.parametrize("readout", ["permutation", pytest.param("string", marks=pytest.mark.slow)])
def test_causal_training_stays_above_the_floor(readout):
    layout = Layout.variant("causal", n=3, readout=readout)
    training = Training(Transformer(layout), Recipe(steps=150, batch=64, test_examples=2000), [0, 1])
    last = training.run()
    floor = mse_floor(layout)
    assert min(min(test.test_mse) for test in training.curve) > floor - 0.005
    assert training.step == 150
    if readout == "permutation":
        assert max(last.test_mse) == pytest.approx(floor, abs=0.02)


def test_interrupted_training_is_bitwise_the_same():
    whole = small([0, 1])
    whole.run()
    states = []
    first = small([0, 1])

    class Stop(Exception):
        pass

    def stop(training, test):
        states.append(training.state_dict())
        raise Stop

    with pytest.raises(Stop):
        first.run(stop)
    second = small([0, 1])
    second.load_state_dict(states[0])
    second.run()
    assert states[0]["step"] == 20
    assert torch.equal(whole.weights, second.weights)
    assert [t.test_mse for t in whole.curve] == [t.test_mse for t in second.curve]


def test_a_seed_does_not_depend_on_its_neighbours():
    together, alone = small([4, 5]), small([5])
    together.run()
    alone.run()
    torch.testing.assert_close(together.weights[1], alone.weights[0], rtol=2e-3, atol=2e-4)


def test_gradient_against_finite_differences():
    layout = Layout.variant("scratch", n=3)
    model = Transformer(layout)
    x, y = sample(layout, 6, torch.Generator().manual_seed(0))
    x, y = x[None].double(), y[None].double()
    flat = model.initial([0], std=0.5).double().requires_grad_()
    loss = lambda w: squared_error(model.forward(model.unpack(w), x), y).sum()  # noqa: E731
    (grad,) = torch.autograd.grad(loss(flat), flat)
    direction = torch.randn(flat.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    step = 1e-5
    numeric = (loss(flat + step * direction) - loss(flat - step * direction)) / (2 * step)
    assert float(numeric.detach()) == pytest.approx(float((grad * direction).sum()), rel=1e-6)


def test_adam_is_the_textbook_update():
    """First step with no decay: every weight moves by rate * g/|g|, up to epsilon."""
    recipe = Recipe(steps=10, batch=8, learning_rate=0.1, schedule="constant", weight_decay=0.0, init_std=0.3)
    training = small([0], recipe)
    before = training.weights.detach().clone()
    training.train_step()
    moved = training.weights.detach() - before
    grad = training.weights.grad
    large = grad.abs() > 1e-3
    torch.testing.assert_close(moved[large], -0.1 * grad[large].sign(), rtol=1e-3, atol=1e-5)


def test_published_recipe_clips_and_follows_the_gradient():
    recipe = Recipe(
        steps=10,
        batch=8,
        learning_rate=1.0,
        optimizer="sgd",
        schedule="cosine",
        clip=1e-4,
        init_std=0.3,
        weight_decay=0,
    )
    training = small([0], recipe)
    before = training.weights.detach().clone()
    training.train_step()
    assert training.weights.grad.abs().max() <= 1e-4
    torch.testing.assert_close(training.weights.detach(), before - training.weights.grad)


def rates(recipe, n=3):
    """The learning rate of every step, as the optimiser gets it."""
    training = Training(Transformer(Layout.variant("no_mask", n)), recipe, [0])
    found = []
    for _ in range(training.steps):
        found += training.schedule.get_last_lr()
        training.optimizer.step()
        training.schedule.step()
    return found


def test_schedules():
    one = rates(Recipe(steps=100, learning_rate=1.0))
    assert max(one) == one[30] == 1.0
    assert one[0] == pytest.approx(1 / 25) and one[99] < 1e-3
    assert one[:31] == sorted(one[:31]) and one[30:] == sorted(one[30:], reverse=True)
    cosine = rates(Recipe(steps=100, learning_rate=2.0, schedule="cosine"))
    assert cosine[0] == 2.0 and cosine[50] == pytest.approx(1.0)
    assert set(rates(Recipe(steps=9, learning_rate=0.3, schedule="constant"))) == {0.3}
    assert rates(Recipe(steps=50), 16)[15] == pytest.approx(rates(Recipe(steps=50), 4)[15] / 2)


@pytest.mark.parametrize(("n", "steps", "batch"), [(4, 600, 256), (12, 600, 128), (30, 750, 64), (64, 1600, 32)])
def test_what_a_recipe_leaves_open_depends_on_n(n, steps, batch):
    found = Recipe().resolved(n)
    assert (found.steps, found.batch) == (steps, batch)
    assert Recipe(steps=7, batch=5, learning_rate=0.5).resolved(n).learning_rate == 0.5


def test_a_series_goes_on_where_it_was():
    layouts = {name: Transformer(Layout.parse(name, 3)) for name in ("causal/string", "no_mask")}
    whole = {label: one.curve[-1].test_mse for label, one in Series(layouts, SHORT, [0, 1]).train()}
    cut = Series(layouts, SHORT, [0, 1])

    def stop(label, training, test):
        if label == "no_mask" and test.step == 40:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        dict(cut.train(stop))
    assert cut.state["label"] == "no_mask" and cut.finished_steps == 60
    again = Series(layouts, SHORT, [0, 1], state=cut.state)
    assert again.steps == 100
    assert {label: one.curve[-1].test_mse for label, one in again.train()} == whole


def test_zero_start_and_no_target():
    training = small([0], Recipe(steps=5, batch=4, init_std=0.0, target_mse=0.0, test_examples=8))
    assert not training.weights.any()
    training.run()
    assert training.step == 5


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"optimizer": "adamm"}, "did you mean 'adam'"),
        ({"schedule": "one-cycle"}, "did you mean 'one_cycle'"),
        ({"steps": 0}, "steps=0"),
        ({"weight_decay": -1}, "weight_decay=-1"),
        ({"betas": [0.9, 1.5]}, "betas=1.5"),
        ({"betas": [0.9]}, "takes two"),
        ({"patience": 0}, "patience=0"),
        ({"restarts": 2}, "restarts=2 is for"),
    ],
)
def test_bad_recipes(change, says):
    with pytest.raises(UserError, match=says):
        Recipe(**change).check()
    with pytest.raises(UserError, match=f"task.train.{next(iter(change))}"):
        Recipe(**change).check("task.train.")


PATIENT = Recipe(steps=200, batch=32, test_every=20, test_examples=32, patience=40, target_mse=0.4)


@pytest.mark.slow
def test_a_seed_at_rest_keeps_its_weights_and_the_others_go_on():
    """Three seeds meet an easy target at different tests; each leaves with what it had then."""
    training = Training(Transformer(Layout.variant("scratch", n=3)), PATIENT, [0, 1, 2])
    kept: dict[int, torch.Tensor] = {}

    def watch(one, test):
        for k in set(range(3)) - set(one.rules.live) - set(kept):
            kept[k] = one.weights[k].clone()

    training.run(watch)
    assert training.finished and training.rules.live == [] and training.first_attempts() == [True] * 3
    for k in range(3):
        assert torch.equal(training.weights[k], kept[k])
        alone = Training(Transformer(Layout.variant("scratch", n=3)), PATIENT, [k])
        assert alone.run().step == training.steps_to_target()[k] == alone.steps_to_target()[0]
        torch.testing.assert_close(alone.weights[0], training.weights[k], rtol=5e-3, atol=5e-4)


def test_errors_that_stop_falling_end_the_training():
    """Read at P nothing can be learned: the error stands at its floor long before the steps are over."""
    recipe = Recipe(steps=2000, batch=16, test_every=10, test_examples=30, patience=30, restarts=3, target_mse=1e-9)
    training = Training(Transformer(Layout.variant("causal", n=3)), recipe, [0, 1])
    last = training.run()
    assert last.step < 1000 and training.floor == 0.75
    assert training.rules.attempt == 1, "a floor above 0 is not tried again"
    cooled = training.rules.cooling
    assert last.step == cooled + 30 and training.schedule.get_last_lr() == [0.0]


def test_restarts_are_other_weights_and_the_best_attempt_stays():
    recipe = Recipe(steps=20, batch=16, test_every=10, test_examples=30, patience=100, restarts=2, target_mse=1e-9)
    training = Training(Transformer(Layout.variant("scratch", n=3)), recipe, [0, 1])
    starts = [training.weights.detach().clone()]
    training.run(lambda one, test: starts.append(one.weights.detach().clone()) if test.step in (20, 40) else None)
    assert training.step == 60 and training.rules.attempt == 3
    assert not torch.allclose(starts[0], starts[1]) and not torch.allclose(starts[1], starts[2])
    best = [min(test.test_mse[k] for test in training.curve if test.step % 20 == 0) for k in range(2)]
    assert training.curve[-1].test_mse == best
    output = training.model.forward(training.model.unpack(training.weights), training._tests[0])
    assert squared_error(output, training._tests[1]).tolist() == pytest.approx(best)
    assert training.first_attempts() == [False, False]


@pytest.mark.slow
def test_a_training_with_patience_goes_on_bitwise():
    """Stopped after every test, with some seeds at rest, before and after a restart."""
    recipe = Recipe(steps=100, batch=32, test_every=10, test_examples=32, patience=100, target_mse=0.4, restarts=1)
    whole = small([0, 1, 2], recipe, "scratch")
    states = []
    whole.run(lambda training, test: states.append(copy.deepcopy(training.state_dict())))
    partly = [state for state in states if 0 < len(state["rules"]["live"]) < 3]
    for state in (states[0], partly[0], partly[-1]):
        again = small([0, 1, 2], recipe, "scratch")
        again.load_state_dict(state)
        again.run()
        assert torch.equal(whole.weights, again.weights)
        assert [t.test_mse for t in whole.curve] == [t.test_mse for t in again.curve]
