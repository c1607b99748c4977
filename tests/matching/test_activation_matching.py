from __future__ import annotations

import pytest
import torch
from architectures import build

from permlab.errors import UserError
from permlab.matching import activation_matching, collect_moments
from permlab.models.vision import build_vision_model
from permlab.symmetry import apply, declare, equal, infer, inverse
from permlab.symmetry.functional import call
from permlab.symmetry.taps import taps

BATCHES = [torch.randn(40, 1, 4, 4, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]


def smooth_mlp():
    """An MLP whose biases keep every unit alive, so that its activations tell the units apart."""
    torch.manual_seed(0)
    model = build_vision_model("mlp", shape=(1, 4, 4), classes=5, width=16)
    for layer in model.layers:
        torch.nn.init.normal_(layer.weight, std=0.3)
        torch.nn.init.constant_(layer.bias, 0.5)
    return model, declare(model), {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("similarity", ["inner", "pearson", "distance"])
@pytest.mark.parametrize("where", ["post", "pre", "all"])
def test_a_planted_permutation_is_recovered_from_activations(similarity, where):
    model, spec, a = smooth_mlp()
    permutation = spec.random(torch.Generator().manual_seed(3))
    b = apply(spec, a, permutation)
    matching = activation_matching(spec, model, [a, b], BATCHES, similarity=similarity, where=where)
    assert equal(matching.permutation, inverse(permutation))


def test_units_are_matched_by_their_correlation_unless_said_otherwise():
    model, spec, a = smooth_mlp()
    b = {name: value + 0.3 * torch.randn(value.shape) for name, value in a.items()}
    by = {kind: activation_matching(spec, model, [a, b], BATCHES, similarity=kind) for kind in ("pearson", "inner")}
    found = activation_matching(spec, model, [a, b], BATCHES)
    assert equal(found.permutation, by["pearson"].permutation)
    assert found.objective == by["pearson"].objective != by["inner"].objective


@pytest.mark.parametrize("name", ["vit-tiny", "llama", "gpt2", "bert"])
def test_heads_are_recovered_from_activations(name):
    model, inputs, spec = build(name)
    a = {key: value.clone() for key, value in model.state_dict().items()}
    permutation = spec.random(torch.Generator().manual_seed(3))
    if isinstance(inputs, tuple):
        batch = torch.randn(16, 1, 8, 8)
    else:
        batch = {"input_ids": torch.randint(3, 101, (16, 12)), "labels": torch.zeros(16, 12)}
    matching = activation_matching(spec, model, [a, apply(spec, a, permutation)], [batch])
    assert equal(matching.permutation, inverse(permutation))


@pytest.mark.parametrize("name", ["vgg11", "resnet20"])
def test_flattened_and_residual_channels_are_recovered_from_activations(name):
    model, _, spec = build(name)
    a = {key: value.clone() for key, value in model.state_dict().items()}
    permutation = spec.random(torch.Generator().manual_seed(3))
    batch = torch.randn(16, 1, 8, 8)
    matching = activation_matching(
        spec, model, [a, apply(spec, a, permutation)], [batch], where="pre", similarity="inner"
    )
    assert equal(matching.permutation, inverse(permutation))  # deep untrained units hardly vary: no correlation there


def test_activations_inside_a_fused_module_are_refused():
    class Fused(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.head = torch.nn.MultiheadAttention(8, 2, batch_first=True), torch.nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.attention(x, x, x)[0])

    model, x = Fused(), torch.randn(4, 5, 8)
    spec, state = infer(model, (x,)), model.state_dict()
    with pytest.raises(UserError, match="fused module"):
        activation_matching(spec, model, [state, state], [x])


def test_streamed_moments_equal_the_direct_computation():
    model, spec, a = smooth_mlp()
    b = {name: value + 0.1 * torch.randn_like(value) for name, value in a.items()}
    moments = collect_moments(spec, model, [a, b], BATCHES, where="pre")["layers.0", "unit"]
    x = torch.cat(BATCHES).flatten(1).double()
    za, zb = (x @ s["layers.0.weight"].double().t() + s["layers.0.bias"].double() for s in (a, b))
    assert torch.allclose(moments.similarity(0, 1, "inner"), za.t() @ zb / 80, atol=1e-5)
    assert torch.allclose(moments.similarity(0, 1, "distance"), -torch.cdist(za.t(), zb.t()), atol=1e-4)
    pearson = torch.corrcoef(torch.cat([za, zb], dim=1).t())[:16, 16:]
    assert torch.allclose(moments.similarity(0, 1, "pearson"), pearson, atol=1e-5)
    assert torch.allclose(moments.similarity(1, 0, "pearson"), pearson.t(), atol=1e-5)
    assert moments.count == 80


def test_units_that_never_vary_have_no_correlation():
    model, spec, a = smooth_mlp()
    a["layers.0.weight"][2] = 0.0
    moments = collect_moments(spec, model, [a, a], BATCHES)["layers.0", "unit"]
    correlation = moments.similarity(0, 1, "pearson")
    assert torch.isfinite(correlation).all() and (correlation[2] == 0).all()


def test_three_models_are_aligned_with_each_other():
    model, spec, a = smooth_mlp()
    one, two = (spec.random(torch.Generator().manual_seed(seed)) for seed in (1, 2))
    matching = activation_matching(spec, model, [a, apply(spec, a, one), apply(spec, a, two)], BATCHES)
    assert equal(matching.permutations[1], inverse(one)) and equal(matching.permutations[2], inverse(two))


def test_scores_are_the_matched_entries_of_the_costs():
    model, spec, a = smooth_mlp()
    b = apply(spec, a, spec.random(torch.Generator().manual_seed(3)))
    matching = activation_matching(spec, model, [a, b], BATCHES)
    for name in spec.groups:
        chosen = matching.costs[1][name][torch.arange(16), matching.permutation[name]]
        assert torch.equal(matching.scores[1][name], chosen)


def test_layers_that_read_the_same_tensor_count_it_once():
    model, inputs, spec = build("llama")
    chosen = taps(spec, model)["residual"]
    assert len(chosen) == 11  # q, k, v, gate, up of two layers and the head
    state = model.state_dict()
    moments = collect_moments(spec, model, [state, state], [inputs])["residual", "unit"]
    assert moments.count == 5 * inputs["input_ids"].numel()  # five different tensors


def test_the_model_is_left_in_its_mode_and_with_its_weights():
    model, spec, a = smooth_mlp()
    model.train()
    activation_matching(spec, model, [a, {name: value * 2 for name, value in a.items()}], BATCHES)
    assert model.training and torch.equal(model.state_dict()["head.weight"], a["head.weight"])
    assert torch.equal(call(model, a, (BATCHES[0],)), model(BATCHES[0]))


def test_bad_input_is_refused():
    model, spec, a = smooth_mlp()
    with pytest.raises(UserError, match="did you mean 'pearson'"):
        activation_matching(spec, model, [a, a], BATCHES, similarity="pearsen")
    with pytest.raises(UserError, match="no data"):
        activation_matching(spec, model, [a, a], [])
    spec.channel("nowhere", 3)
    spec.use("head.bias", 0, "nowhere")
    with pytest.raises(UserError, match="nowhere"):
        activation_matching(spec, model, [a, a], BATCHES)
