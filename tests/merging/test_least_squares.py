from __future__ import annotations

import numpy as np
import pytest
import torch
from architectures import build, pair
from torch import nn
from torch.nn import functional

from permlab.errors import UserError
from permlab.matching import activation_matching, random_matching, weight_matching
from permlab.merging import Layout, align, average, least_squares, noise_batches, pair_scores, regmean
from permlab.merging.methods.grams import Layer, layers_of, solve_ridge
from permlab.models.vision import build_vision_model
from permlab.symmetry import Spec, apply, declare
from permlab.symmetry.functional import call


def images(count=200, seed=0):
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["mlp", "mlp-batch", "vgg11", pytest.param("resnet20", marks=pytest.mark.slow)])
def test_at_full_budget_the_ensemble_stays_as_it_is(name):
    model, spec, states = pair(name)
    layout = Layout(spec, model, ratios=dict.fromkeys(spec.groups, 1.0))
    fitted = least_squares(layout, model, states, [images(48)], max_rows=500)
    wanted = sum(call(model, state, (images(20, 1),)) for state in states) / 2
    assert torch.allclose(call(model, fitted.state, (images(20, 1),)), wanted, atol=1e-5)
    assert max(fitted.after.values()) < 1e-8


@pytest.mark.parametrize("name, ridge", [("mlp", 0.0), ("mlp", 0.1), ("vgg11", 1e-3), ("vit-tiny", 1e-3)])
def test_it_fits_better_than_the_average_and_keeps_the_zeros(name, ridge):
    model, spec, states = pair(name)
    groups = [group for group, each in spec.groups.items() if hasattr(each, "size") and group != "residual"]
    matching = random_matching(spec, 2, seed=0)
    scores = pair_scores(spec, *states, matching)
    layout = Layout(spec, model, scores=scores, ratios=dict.fromkeys(groups, 0.4))
    fitted = least_squares(layout, model, states, images(96).split(32), ridge=ridge, max_rows=400)
    assert fitted.before.keys() == fitted.after.keys() == {each.name for each in layers_of(model, spec)[0]}
    assert all(fitted.after[layer] <= fitted.before[layer] * (1 + 1e-9) + 1e-12 for layer in fitted.after)
    assert sum(fitted.after.values()) < 0.9 * sum(fitted.before.values())
    plain = layout.merge(states)
    for layer in fitted.after:
        weight = f"{layer}.weight"
        mask = layout.mask(weight, states[0][weight])
        assert not fitted.state[weight][~mask].any()
        assert fitted.state[weight].shape == plain[weight].shape and fitted.state[weight].dtype == torch.float32


def test_first_layer_errors_are_those_of_the_network_itself():
    model, spec, states = pair("vgg11")
    layout = Layout(spec, model)
    x = images(30)
    fitted = least_squares(layout, model, states, [x], max_rows=10**6)
    target = sum(functional.conv2d(x, s["features.0.weight"], s["features.0.bias"], padding=1) for s in states) / 2
    for state, error in ((layout.merge(states), fitted.before), (fitted.state, fitted.after)):
        got = functional.conv2d(x, state["features.0.weight"], state["features.0.bias"], padding=1)
        wanted = float((got - target).square().sum() / target.square().sum())
        assert error["features.0"] == pytest.approx(wanted, abs=1e-6)


def test_one_layer_equals_the_least_squares_of_numpy():
    torch.manual_seed(0)
    model = build_vision_model("mlp", shape=(1, 3, 3), classes=4, width=6, depth=1).eval()
    spec = declare(model)
    states = [{k: torch.randn_like(v) for k, v in model.state_dict().items()} for _ in range(2)]
    x = torch.randn(80, 1, 3, 3)
    fitted = least_squares(Layout(spec, model), model, states, [x[:50], x[50:]], ridge=0.0)
    hidden, targets = [], []
    for state in states:
        z = torch.relu(x.flatten(1) @ state["layers.0.weight"].t() + state["layers.0.bias"]).double()
        hidden.append(z)
        targets.append(z @ state["head.weight"].t().double() + state["head.bias"].double())
    design = torch.cat([(hidden[0] + hidden[1]) / 2, torch.ones(80, 1, dtype=torch.float64)], dim=1).numpy()
    wanted = np.linalg.lstsq(design, ((targets[0] + targets[1]) / 2).numpy(), rcond=None)[0]
    assert np.allclose(fitted.state["head.weight"].numpy(), wanted[:-1].T, atol=1e-4)
    assert np.allclose(fitted.state["head.bias"].numpy(), wanted[-1], atol=1e-4)


def test_a_permuted_copy_is_merged_without_loss():
    model, inputs, spec = build("resnet20")
    a = {k: v.detach().clone() for k, v in model.state_dict().items()}
    b = apply(spec, a, spec.random(torch.Generator().manual_seed(3)))
    matching = activation_matching(spec, model, [a, b], [images(64)], where="pre")
    states = align(spec, [a, b], matching)
    fitted = least_squares(Layout(spec, model), model, states, noise_batches((1, 8, 8), 64), max_rows=500)
    assert torch.allclose(call(model, fitted.state, inputs), call(model, a, inputs), atol=1e-4)


def test_heads_and_tied_weights_are_left_alone():
    model, spec, states = pair("mlp")
    layout = Layout(spec, model, heads=("head.weight", "head.bias"))
    fitted = least_squares(layout, model, states, [images(40)])
    assert "head" not in fitted.after and "head.weight" not in fitted.state
    model, _, spec = build("llama-tied")
    found, skipped = layers_of(model, spec)
    assert "tied" in skipped["lm_head"] and all(layer.name != "lm_head" for layer in found)


def test_no_data_is_refused():
    model, spec, states = pair("mlp")
    with pytest.raises(UserError, match="no data"):
        least_squares(Layout(spec, model), model, states, [])
    with pytest.raises(UserError, match="out of range"):
        least_squares(Layout(spec, model), model, states, [images(8)], ridge=-1.0)


@pytest.mark.parametrize(
    "module, shape",
    [
        (nn.Conv2d(3, 5, 3, stride=2, padding=1, dilation=2), (2, 3, 11, 9)),
        (nn.Conv1d(3, 5, 4, stride=3, padding=2, bias=False), (2, 3, 17)),
        (nn.Linear(7, 4), (2, 6, 7)),
    ],
)
def test_rows_make_every_layer_a_matrix_product(module, shape):
    layer = Layer("it", module, "linear" if isinstance(module, nn.Linear) else "conv")
    x = torch.randn(shape)
    rows, out = layer.rows(x, module(x))
    product = rows.double() @ layer.matrix(module.weight).t()
    if module.bias is not None:
        product = product + module.bias.double()
    assert torch.allclose(product, out.double(), atol=1e-5)
    assert torch.equal(layer.tensor(layer.matrix(module.weight), module.weight), module.weight)


def test_ridge_solution_against_stacked_least_squares():
    rng = np.random.default_rng(0)
    x, y, start = rng.standard_normal((30, 5)), rng.standard_normal((30, 3)), rng.standard_normal((3, 5))
    pull = 0.2 * np.mean(np.sum(x * x, axis=0))
    stacked = np.concatenate([x, np.sqrt(pull) * np.eye(5)])
    wanted = np.linalg.lstsq(stacked, np.concatenate([y, np.sqrt(pull) * start.T]), rcond=None)[0].T
    got = solve_ridge(*(torch.from_numpy(each) for each in (x.T @ x, x.T @ y, start)), 0.2)
    assert np.allclose(got.numpy(), wanted)
    singular = torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64))
    held = solve_ridge(singular, torch.zeros(2, 1).double(), torch.tensor([[3.0, 4.0]]).double(), 0.0)
    assert torch.allclose(held, torch.tensor([[0.0, 4.0]]).double())


def test_regmean_equals_its_formula():
    torch.manual_seed(1)
    model = build_vision_model("mlp", shape=(1, 2, 3), classes=3, width=5, depth=1).eval()
    states = [{k: torch.randn_like(v) for k, v in model.state_dict().items()} for _ in range(3)]
    data = [torch.randn(40, 1, 2, 3) + k for k in range(3)]
    got = regmean(declare(model), model, states, [[x[:25], x[25:]] for x in data], shrink=0.7, ridge=0.0)
    left = right = 0
    for state, x in zip(states, data):
        rows = np.concatenate([x.flatten(1).double().numpy(), np.ones((40, 1))], axis=1)
        gram = rows.T @ rows / 40
        gram = 0.7 * gram + 0.3 * np.diag(np.diag(gram))
        weight = np.concatenate([state["layers.0.weight"].numpy(), state["layers.0.bias"].numpy()[:, None]], axis=1)
        left, right = left + gram, right + gram @ weight.T
    wanted = np.linalg.solve(left, right).T
    assert np.allclose(got["layers.0.weight"].numpy(), wanted[:, :-1], atol=1e-4)
    assert np.allclose(got["layers.0.bias"].numpy(), wanted[:, -1], atol=1e-4)


@pytest.mark.parametrize("name", ["resnet20", "gpt2"])
def test_regmean_of_equal_models_changes_nothing(name):
    model, inputs, spec = build(name)
    state = {k: v.detach() for k, v in model.state_dict().items()}
    batch = inputs if isinstance(inputs, dict) else inputs[0]
    got = regmean(spec, model, [state, state], [[batch], [batch]], max_rows=100)
    assert all(torch.allclose(got[k].float(), state[k].float(), atol=1e-5) for k in state)


def test_regmean_with_equal_moments_is_the_average():
    model, spec, states = pair("mlp")
    identity_moments = torch.eye(64).view(64, 1, 8, 8)
    got = regmean(spec, model, states, [[identity_moments]] * 2, shrink=0.0, ridge=0.0)
    assert torch.allclose(got["layers.0.weight"], average(states)["layers.0.weight"], atol=1e-6)
    with pytest.raises(UserError, match="one per model"):
        regmean(Spec(), model, states, [[identity_moments]])
    with pytest.raises(UserError, match="no data"):
        regmean(spec, model, states, [[identity_moments], []])


def test_weight_matching_and_noise_need_no_data_at_all():
    model, spec, states = pair("mlp")
    matching = weight_matching(spec, *states)
    aligned = align(spec, states, matching)
    noise = noise_batches((1, 8, 8), 600, 200, seed=1)
    assert len(noise) == 3 and abs(float(torch.cat(noise).std()) - 1) < 0.02
    fitted = least_squares(Layout(spec, model), model, aligned, noise)
    assert sum(fitted.after.values()) < sum(fitted.before.values())
