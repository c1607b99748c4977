"""Fewer experts: planted duplicates are found and merged without a trace; every step against a plain computation."""

from __future__ import annotations

import pytest
import torch
from architectures import EXPERTS, GROUPED, shaken
from transformers import AutoModelForCausalLM, DeepseekV3ForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from permlab.errors import UserError
from permlab.merging.methods.experts import (
    NONE,
    RANDOM,
    Routing,
    aligned_units,
    compressed,
    expert_parameters,
    low_rank,
    mixtures,
    parts_of,
    plan_groups,
    routing,
)

logging.disable_progress_bar()
TOKENS = torch.randint(3, 101, (6, 9), generator=torch.Generator().manual_seed(0))
BATCHES = [{"input_ids": TOKENS}]


def doubled(name, per_token):
    """Eight experts: four, and each again with its units in another order; router rows of the two are the same."""
    torch.manual_seed(1)
    model = shaken(EXPERTS[name]())
    model.config.num_experts_per_tok = per_token
    state = model.state_dict()
    generator = torch.Generator().manual_seed(2)
    for layer in mixtures(model):
        for key in ("gate.weight", "gate.e_score_correction_bias"):
            if f"{layer}.{key}" in state:
                state[f"{layer}.{key}"][4:] = state[f"{layer}.{key}"][:4]
        for expert in range(4):
            gate, up, down = parts_of(state, layer, expert)
            order = torch.randperm(len(gate), generator=generator)
            state[f"{layer}.experts.gate_up_proj"][4 + expert] = torch.cat([gate[order], up[order]])
            state[f"{layer}.experts.down_proj"][4 + expert] = down[:, order]
    again = type(model)(model.config)
    again.load_state_dict(state)
    return again.eval()


def in_pairs(model):
    """Routing with use that puts one expert of every pair first: use of equal logits is split by chance."""
    found = routing(model, BATCHES)
    for layer in found:
        assert torch.allclose(layer.similarity[:4, 4:].diagonal(), torch.ones(4, dtype=torch.float64))
        layer.used = torch.tensor([4.0, 3, 2, 1, 0.4, 0.3, 0.2, 0.1]).double() / 11
    groups = plan_groups(found, 4)
    assert all(each.members.tolist() == [0, 1, 2, 3] * 2 for each in groups)
    return groups


@pytest.mark.parametrize("name", ["mixtral", "qwen2-moe", "qwen3-moe", "deepseek-v2"])
@pytest.mark.parametrize(("before", "after"), [(8, 4), (2, 1)])
@torch.no_grad()
def test_planted_duplicates_merge_without_a_trace(name, before, after, tmp_path):
    """Whatever is chosen is chosen in pairs of equal logits.

    Of all eight experts an expert of a pair has the weight exp(l) / 2 sum exp(l), half of what one of four has. The two
    best are one pair, and together weigh what the best of four does, divided by the sum of what is chosen or not.
    """
    model = doubled(name, before)
    groups = in_pairs(model)
    compressed(model, groups, per_token=after).save_pretrained(tmp_path / "m")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert loaded.config.num_experts_per_tok == after
    assert expert_parameters(loaded) == expert_parameters(model) // 2
    whole = model(TOKENS).logits
    assert torch.allclose(loaded(TOKENS).logits, whole, atol=1e-5)
    naive = compressed(model, groups, align=False, per_token=after)
    assert not torch.allclose(naive(TOKENS).logits, whole, atol=1e-3)


@pytest.mark.parametrize("name", EXPERTS)
@torch.no_grad()
def test_experts_that_share_weights_keep_the_whole_router(name):
    """Routing of the paper: with planted duplicates the network is the same, however many it chooses."""
    model = doubled(name, 3)
    shared = compressed(model, in_pairs(model), shared=True)
    assert torch.allclose(shared(TOKENS).logits, model(TOKENS).logits, atol=1e-5)


def test_statistics_are_those_of_the_logits_and_choices():
    torch.manual_seed(0)
    model = shaken(EXPERTS["mixtral"]())
    kept = {}
    for layer in mixtures(model):
        model.get_submodule(layer + ".gate").register_forward_hook(
            lambda m, a, out, layer=layer: kept.update({layer: out})
        )
    found = routing(model, BATCHES)
    for layer in found:
        logits, _, chosen = kept[layer.layer]
        by_hand = torch.stack([(chosen == expert).sum() for expert in range(8)]) / chosen.numel()
        assert torch.allclose(layer.used, by_hand.double()) and abs(float(layer.used.sum()) - 1) < 1e-12
        cosine = torch.nn.functional.cosine_similarity(logits.T[:, None], logits.T[None], dim=-1)
        assert torch.allclose(layer.similarity, cosine.double(), atol=1e-5)


def test_groups_form_around_the_experts_that_are_used_most():
    used = torch.tensor([0.1, 0.4, 0.05, 0.3, 0.15]).double()
    similarity = torch.eye(5).double()
    similarity[0, 3] = similarity[2, 1] = similarity[4, 3] = 0.5
    layer = Routing("l", used, similarity)
    (group,) = plan_groups([layer], 2)
    assert group.dominant.tolist() == [1, 3] and group.members.tolist() == [1, 0, 0, 1, 1]
    assert torch.allclose(
        group.weights, torch.tensor([0.1 / 0.55, 0.4 / 0.45, 0.05 / 0.45, 0.3 / 0.55, 0.15 / 0.55]).double()
    )
    (group,) = plan_groups([layer], 2, uniform=True)
    assert torch.allclose(group.weights, torch.tensor([1 / 3, 1 / 2, 1 / 2, 1 / 3, 1 / 3]).double())
    (group,) = plan_groups([layer], 2, NONE)
    assert group.members.tolist() == [-1, 0, -1, 1, -1] and group.weights[group.dominant].tolist() == [1, 1]
    drawn = [plan_groups([layer], 2, RANDOM, seed=seed)[0].members.tolist() for seed in range(8)]
    assert all(each[1] == 0 and each[3] == 1 for each in drawn) and len({tuple(each) for each in drawn}) > 2
    with pytest.raises(UserError, match="kept"):
        plan_groups([layer], 6)


def test_a_planted_order_of_units_is_found():
    generator = torch.Generator().manual_seed(0)
    gate, up, down = (torch.randn(shape, generator=generator) for shape in ((7, 5), (7, 5), (5, 7)))
    order = torch.randperm(7, generator=generator)
    found = aligned_units((gate, up, down), (gate[order], up[order], down[:, order]))
    assert torch.equal(order[found], torch.arange(7))


def test_low_rank_is_exact_where_the_matrix_is_and_columns_mend_what_it_misses():
    generator = torch.Generator().manual_seed(0)
    low = torch.randn(9, 2, generator=generator) @ torch.randn(2, 6, generator=generator)
    assert torch.allclose(low_rank(low, 2), low, atol=1e-5)
    matrix = torch.randn(9, 6, generator=generator)
    errors = [float((low_rank(matrix, rank) - matrix).norm()) for rank in range(1, 7)]
    singular = torch.linalg.svdvals(matrix)
    assert errors == pytest.approx([float(singular[rank:].norm()) for rank in range(1, 7)], abs=1e-5)
    mended = low_rank(matrix, 2, 3)
    exact = ((mended - matrix).norm(dim=0) == 0).sum()
    assert exact == 3 and (mended - matrix).norm() < errors[1]


def test_what_has_no_experts_or_groups_of_them_is_refused():
    sizes = dict(hidden_size=16, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=20)
    with pytest.raises(UserError, match="has no experts"):
        routing(LlamaForCausalLM(LlamaConfig(**sizes)), BATCHES)
    with pytest.raises(UserError, match="n_group"):
        routing(DeepseekV3ForCausalLM(GROUPED), BATCHES)
    with pytest.raises(UserError, match="on a text"):
        routing(EXPERTS["mixtral"](), [])
