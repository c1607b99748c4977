"""Mixtures of experts: matrices compute what the stacked experts do, and a network permuted elsewhere comes back."""

from __future__ import annotations

import pytest
import torch
from architectures import EXPERTS, experts

from permlab.errors import UserError
from permlab.matching import weight_matching
from permlab.merging import average
from permlab.symmetry import apply, declare_huggingface, flat_experts, folded_experts

TOKENS = torch.arange(3, 21).reshape(2, 9)


def shaken(name):
    model = EXPERTS[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("name", EXPERTS)
def test_matrices_compute_what_stacked_experts_do_and_fold_back(name):
    torch.manual_seed(0)
    model = shaken(name)
    flat = flat_experts(model)
    assert torch.equal(flat(TOKENS).logits, model(TOKENS).logits)
    folded = folded_experts(flat.state_dict())
    assert set(folded) == set(model.state_dict())
    assert all(torch.equal(folded[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", EXPERTS)
def test_experts_permuted_by_hand_come_back_bit_for_bit(name):
    """Eight experts and the units of each are shuffled in the stacked tensors, without our groups."""
    torch.manual_seed(1)
    model = shaken(name)
    other = type(model)(model.config).eval()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    generator = torch.Generator().manual_seed(2)
    shuffled = 0
    for key in [each for each in state if each.endswith("experts.gate_up_proj")]:
        down, router = key.replace("gate_up_proj", "down_proj"), key.replace("experts.gate_up_proj", "gate.weight")
        order = torch.randperm(8, generator=generator)
        state[router] = state[router][order]
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
