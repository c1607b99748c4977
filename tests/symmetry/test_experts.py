"""Mixtures of experts: matrices compute what the stacked experts do, and a network permuted elsewhere comes back."""

from __future__ import annotations

import pytest
import torch
from architectures import EXPERTS, GROUPED, experts, shaken
from transformers import DeepseekV3ForCausalLM

from permlab.errors import UserError
from permlab.matching import weight_matching
from permlab.merging import average
from permlab.symmetry import apply, declare_huggingface, flat_experts, folded_experts, verify

TOKENS = torch.arange(3, 21).reshape(2, 9)


@pytest.mark.parametrize("name", EXPERTS)
def test_matrices_compute_what_stacked_experts_do_and_fold_back(name):
    torch.manual_seed(0)
    model = shaken(EXPERTS[name]())
    flat = flat_experts(model)
    assert torch.equal(flat(TOKENS).logits, model(TOKENS).logits)
    folded = folded_experts(flat.state_dict())
    assert set(folded) == set(model.state_dict())
    assert all(torch.equal(folded[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", EXPERTS)
def test_experts_permuted_by_hand_come_back_bit_for_bit(name):
    """Eight experts and the units of each are shuffled in the stacked tensors, without our groups."""
    torch.manual_seed(1)
    model = shaken(EXPERTS[name]())
    other = type(model)(model.config).eval()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    generator = torch.Generator().manual_seed(2)
    shuffled = 0
    for key in [each for each in state if each.endswith("experts.gate_up_proj")]:
        down, router = key.replace("gate_up_proj", "down_proj"), key.replace("experts.gate_up_proj", "gate.weight")
        order = torch.randperm(8, generator=generator)
        state[router] = state[router][order]
        if (bias := router.replace("weight", "e_score_correction_bias")) in state:
            state[bias] = state[bias][order]
        gate, up = state[key][order].chunk(2, dim=1)
        inside = [torch.randperm(gate.shape[1], generator=generator) for _ in range(8)]
        gate, up = (torch.stack([each[e][inside[e]] for e in range(8)]) for each in (gate, up))
        state[key] = torch.cat([gate, up], dim=1)
        state[down] = torch.stack([state[down][order][e][:, inside[e]] for e in range(8)])
        shuffled += 1
    assert shuffled
    other.load_state_dict(state)
    assert torch.allclose(other(TOKENS).logits, model(TOKENS).logits, atol=1e-4)
    a, b = flat_experts(model).state_dict(), flat_experts(other).state_dict()
    spec = declare_huggingface(model.config, a)
    matching = weight_matching(spec, a, b)
    found = apply(spec, b, matching.permutation)
    assert all(torch.equal(found[key], a[key]) for key in a)
    merged = folded_experts(average([a, found]))
    other.load_state_dict(merged)
    assert torch.allclose(other(TOKENS).logits, model(TOKENS).logits, atol=1e-5)


def test_stacked_experts_are_refused_with_what_to_do():
    model = EXPERTS["mixtral"]()
    with pytest.raises(UserError, match="flat_experts"):
        declare_huggingface(model.config, model.state_dict())
    assert len(declare_huggingface(model.config, experts("mixtral").state_dict()).groups) == 5


def test_experts_that_are_chosen_by_groups_keep_their_places_and_their_units_move():
    torch.manual_seed(0)
    model = shaken(DeepseekV3ForCausalLM(GROUPED))
    flat = flat_experts(model)
    spec = declare_huggingface(GROUPED, flat.state_dict())
    verify(spec, flat, {"input_ids": TOKENS})
    assert "chooses groups of experts first" in spec.pinned["layers.1.experts"]
    moved = spec.random(torch.Generator().manual_seed(0))
    assert moved["layers.1.experts.3"].tolist() != sorted(moved["layers.1.experts.3"].tolist())
    state = apply(spec, flat.state_dict(), moved)
    router, own = "model.layers.1.mlp.gate.weight", flat.state_dict()
    assert torch.equal(state[router].sort(1).values, own[router].sort(1).values)
    matching = weight_matching(spec, own, state)
    assert all(torch.equal(value, own[key]) for key, value in apply(spec, state, matching.permutation).items())
    # Two experts of different groups that change places change the network, also with their rows of the router.
    whole = {key: value.clone() for key, value in model.state_dict().items()}
    for key in ("gate.weight", "gate.e_score_correction_bias", "experts.gate_up_proj", "experts.down_proj"):
        whole[f"model.layers.1.mlp.{key}"][[0, 5]] = whole[f"model.layers.1.mlp.{key}"][[5, 0]]
    before = model(TOKENS).logits
    model.load_state_dict(whole)
    assert not torch.allclose(model(TOKENS).logits, before, atol=1e-3)
