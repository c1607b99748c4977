from __future__ import annotations

import pytest
import torch
from architectures import build

from permlab.errors import UserError
from permlab.matching import identity_matching, random_matching, weight_matching
from permlab.merging import Layout, align, average, find_head, head_tensors, not_separable, pair_scores
from permlab.models.vision import build_vision_model
from permlab.symmetry import apply, declare
from permlab.symmetry.functional import call

GROWING = ["mlp", "mlp-batch", "vgg11", "resnet20"]


def pair(name):
    """(model, inputs, spec, [a, b]) in float64, with moved BatchNorm statistics, B in a random order of units."""
    model, inputs, spec = build(name, seed=0)
    states = []
    for seed in (0, 1):
        other = build(name, seed=seed)[0].double()
        generator = torch.Generator().manual_seed(seed)
        state = {key: value.detach().clone() for key, value in other.state_dict().items()}
        for key in spec.statistics:
            state[key] += torch.rand(state[key].shape, generator=generator, dtype=torch.float64)
        states.append(state)
    inputs = tuple(each.double() for each in inputs) if isinstance(inputs, tuple) else inputs
    states[1] = apply(spec, states[1], spec.random(torch.Generator().manual_seed(5)))
    return model.double(), inputs, spec, states


@pytest.mark.parametrize("name", [*GROWING, "vit-tiny", "llama-tied"])
def test_without_separate_units_it_is_the_average(name):
    model, _, spec, states = pair(name)
    aligned = align(spec, states, random_matching(spec, 2, seed=3))
    merged, plain = Layout(spec, model).merge(aligned), average(aligned, tied=spec.tied)
    assert merged.keys() == plain.keys()
    assert all(torch.equal(merged[key], plain[key]) for key in plain)
    for alias, canonical in spec.tied.items():
        assert merged[alias] is merged[canonical]


@pytest.mark.parametrize("name", GROWING)
def test_everything_separate_is_the_ensemble(name):
    model, inputs, spec, states = pair(name)
    aligned = align(spec, states, random_matching(spec, 2, seed=3))
    merged = Layout(spec, model, ratios=dict.fromkeys(spec.groups, 1.0)).merge(aligned)
    wanted = sum(call(model, state, inputs) for state in states) / 2
    assert torch.allclose(call(model, merged, inputs), wanted, atol=1e-10)


def test_weights_of_the_models_count_in_what_is_merged():
    model, inputs, spec, states = pair("mlp")
    assert torch.equal(
        Layout(spec, model, weights=[3, 1]).merge(states)["head.weight"], average(states, [3, 1])["head.weight"]
    )
    merged = Layout(spec, model, ratios=dict.fromkeys(spec.groups, 1.0), weights=[3, 1]).merge(states)
    wanted = 0.75 * call(model, states[0], inputs) + 0.25 * call(model, states[1], inputs)
    assert torch.allclose(call(model, merged, inputs), wanted, atol=1e-10)


LARGER = {"resnet20", "bert"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in LARGER))
        for name in (*GROWING, "vit-tiny", "llama", "bert")
    ],
)
def test_a_network_merged_with_a_permuted_copy_of_itself_keeps_its_function(name):
    model, inputs, spec, (a, _) = pair(name)
    b = apply(spec, a, spec.random(torch.Generator().manual_seed(1)))
    matching = weight_matching(spec, a, b)
    aligned = align(spec, [a, b], matching)
    fixed = not_separable(spec, model, inputs)
    ratios = {}
    for number, (group, each) in enumerate(spec.groups.items()):
        if group not in fixed:
            ratios[group] = (0.25, 0.5, 1.0)[number % 3] if hasattr(each, "size") else 1.0
    layout = Layout(spec, model, scores=pair_scores(spec, a, b, matching), ratios=ratios)
    found, wanted = call(model, layout.merge(aligned), inputs), call(model, a, inputs)
    found, wanted = (each if isinstance(each, torch.Tensor) else each.logits for each in (found, wanted))
    assert torch.allclose(found, wanted, atol=2e-5)
    assert any(layout.size(group) > spec.groups[group].units for group in ratios)


def test_blocks_follow_the_published_table():
    model, _, spec, (a, b) = pair("mlp")
    scores = {name: torch.arange(24.0).flip(0) for name in spec.groups}  # the last slots match worst
    layout = Layout(spec, model, scores=scores, ratios={"layers.0": 0.25, "layers.1": 0.5})
    merged, weight = layout.merge([a, b])["layers.1.weight"], "layers.1.weight"
    a, b = a[weight], b[weight]
    into, out = slice(0, 18), slice(0, 12)
    assert merged.shape == (36, 30)
    assert torch.equal(merged[:12, :18], (a[out, into] + b[out, into]) / 2)
    assert torch.equal(merged[:12, 18:24], a[out, 18:] / 2)
    assert torch.equal(merged[:12, 24:], b[out, 18:] / 2)
    assert torch.equal(merged[12:24, :18], a[12:, into])
    assert torch.equal(merged[12:24, 18:24], a[12:, 18:])
    assert torch.equal(merged[24:, 24:], b[12:, 18:])
    assert not merged[12:24, 24:].any() and not merged[24:, 18:24].any()
    mask = layout.mask(weight, a)
    assert not mask[12:24, 24:].any() and not mask[24:, 18:24].any() and int((~mask).sum()) == 2 * 12 * 6


def test_the_best_pairs_are_merged():
    model, _, spec, states = pair("mlp")
    matching = weight_matching(spec, *states)
    scores = pair_scores(spec, *states, matching)
    assert scores is matching.scores[1]
    kept = Layout(spec, model, scores=scores, ratios={"layers.1": 0.25}).separate["layers.1"]
    merged = torch.tensor([slot for slot in range(24) if slot not in kept.tolist()])
    assert len(kept) == 6 and scores["layers.1"][kept].max() <= scores["layers.1"][merged].min()


def test_scores_of_a_matching_without_costs_come_from_the_weights():
    _, _, spec, (a, b) = pair("mlp")
    scores = pair_scores(spec, a, b, identity_matching(spec))["layers.0"]
    wanted = (a["layers.0.weight"] * b["layers.0.weight"]).sum(1) + a["layers.0.bias"] * b["layers.0.bias"]
    wanted = wanted + (a["layers.1.weight"] * b["layers.1.weight"]).sum(0)
    assert torch.allclose(scores.double(), wanted, atol=1e-5)


def test_tasks_with_other_labels_keep_their_heads():
    torch.manual_seed(0)
    models = [
        build_vision_model("mlp", shape=(1, 4, 4), classes=classes, width=10).double().eval() for classes in (3, 5)
    ]
    x = torch.randn(6, 1, 4, 4, dtype=torch.float64)
    spec = declare(models[0])
    states = [model.state_dict() for model in models]
    heads = head_tensors(states[0], find_head(models[0], (x,)))
    assert heads == ("head.weight", "head.bias")
    layout = Layout(spec, models[0], ratios=dict.fromkeys(spec.groups, 1.0), heads=heads)
    trunk = layout.merge(states)
    assert "head.weight" not in trunk
    for k, model in enumerate(models):
        own = layout.task_state(trunk, states[k], k)
        assert torch.allclose(call(model, own, (x,)), model(x), atol=1e-12)


@pytest.mark.slow
def test_layers_that_mix_units_are_found():
    model, inputs, spec = build("resnet20-layer")
    assert not_separable(spec, model, inputs).keys() == spec.groups.keys()
    model, inputs, spec = build("llama")
    found = not_separable(spec, model, inputs)
    assert list(found) == ["residual"] and "mixes all units" in found["residual"]
    assert not_separable(*(build("resnet20")[i] for i in (2, 0, 1))) == {}


def test_bad_layouts_are_refused():
    model, _, spec, _ = pair("mlp")
    with pytest.raises(UserError, match=r"no group layers\.9"):
        Layout(spec, model, ratios={"layers.9": 1.0})
    with pytest.raises(UserError, match="out of range"):
        Layout(spec, model, ratios={"layers.0": 1.5})
    with pytest.raises(UserError, match="needs the scores"):
        Layout(spec, model, ratios={"layers.0": 0.5})
    model, _, spec = build("llama")
    with pytest.raises(UserError, match="as a whole"):
        Layout(spec, model, ratios={"layers.0.attention": 0.5})
