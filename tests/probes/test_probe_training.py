from __future__ import annotations

import pytest
import torch

from permlab.errors import UserError
from permlab.probes.construction import construction_weights
from permlab.probes.floors import mse_floor
from permlab.probes.layout import Layout
from permlab.probes.mechanism import routes
from permlab.probes.problem import heldout_batch, sample, squared_error
from permlab.probes.recipes import Recipe
from permlab.probes.series import Series
from permlab.probes.table import ROUTES
from permlab.probes.training import Training
from permlab.probes.transformer import Transformer

SHORT = Recipe(steps=60, batch=16, test_every=20, test_examples=32)


def small(seeds, recipe=SHORT, variant="no_mask"):
    return Training(Transformer(Layout.variant(variant, n=3)), recipe, seeds)


@pytest.mark.parametrize("variant", ["no_mask", "scratch"])
def test_learns_small_permutations(variant):
    """n = 4 in both variants that can: all rows right in both seeds."""
    training = Training(Transformer(Layout.variant(variant, n=4)), Recipe(steps=250, batch=128), [0, 1])
    last = training.run()
    assert max(last.test_mse) < 0.01 and min(last.row_accuracy) == 1.0
    assert all(training.steps_to_target())
    assert training.finished and training.step < 250


@pytest.mark.parametrize("readout", ["permutation", "string"])
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
    layouts = {"causal/string": Layout.parse("causal/string", 3), "no_mask": Layout.parse("no_mask", 3)}
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
    ],
)
def test_bad_recipes(change, says):
    with pytest.raises(UserError, match=says):
        Recipe(**change).check()
    with pytest.raises(UserError, match=f"task.train.{next(iter(change))}"):
        Recipe(**change).check("task.train.")


def test_the_construction_goes_by_lookup():
    layout = Layout.variant("scratch", n=5)
    found = routes(Transformer(layout), construction_weights(layout, 30.0, torch.float32))
    assert found["lookup"][0] > 0.999
    assert found["fetch"][0] < 0.5 and found["carry"][0] == 0


@pytest.mark.parametrize(("route", "variant"), [("fetch", "scratch"), ("carry", "no_mask")])
def test_the_other_two_routes_are_exact_as_well(route, variant):
    """Hand-written: layer 1 moves a fixed number of rows, layer 2 looks for a one in coordinate j."""
    n = 5
    layout = Layout.variant(variant, n=n)
    model = Transformer(layout)
    flat = torch.zeros(1, model.size)
    first, second, w = (part[0] for part in model.unpack(flat))
    at = {layer: dict(model.blocks(layer)) for layer in (0, 1, 2)}
    row, out = at[1]["I"].start, layout.output_rows.start
    asks, holds = (n, 0) if route == "fetch" else (0, n)
    for i in range(n):
        first[at[0]["I"].start + asks + i, 0, at[0]["I"].start + holds + i] = 40.0
        second[row + out + i, 0, at[1]["A1 X" if route == "fetch" else "X"].start + i] = 40.0
        second[row + out + i, 0, row + asks : row + asks + n] = 40.0
    w[at[2]["A2 X" if route == "fetch" else "A2 A1 X"]] = torch.eye(n)
    x, y = heldout_batch(layout, 64, 3)
    assert float(squared_error(model.forward(model.unpack(flat), x[None])[0], y)) < 1e-10
    found = routes(model, flat)
    assert found[route][0] > 0.999
    assert all(found[name][0] < 0.5 for name in ROUTES if name != route)
