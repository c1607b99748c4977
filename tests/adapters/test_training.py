"""Training and scoring of the benchmark adapters, and `applied` against PEFT on a model with a tied embedding."""

from __future__ import annotations

import copy

import peft
import pytest
import torch

from permlab.adapters import applied, open_adapter
from permlab.adapters.benchmark.knowledge import knowledge
from permlab.adapters.benchmark.questions import Questions
from permlab.adapters.training import (
    LoraShape,
    Schedule,
    answer_probabilities,
    ask,
    build_base,
    fit,
    score,
    spread_embeddings,
    train_adapter,
)
from permlab.models.causal_lm_config import ScratchConfig

SIZES = ScratchConfig(hidden_size=16, layers=1, heads=2, kv_heads=2, intermediate_size=32)


@pytest.fixture(scope="module")
def made():
    benchmark = knowledge(2, seed=0, facts=12, facts_per_group=6, names=8)
    base = build_base(benchmark, SIZES, seed=0)
    fit(base, base.parameters(), Schedule(120, 32, 1e-2), benchmark.base, seed=0)
    return benchmark, base.eval()


def test_fit_learns_and_is_repeatable(made):
    benchmark, base = made
    assert ask(base, benchmark.base, "exact") == 1.0
    twins = []
    for _ in range(2):
        model = build_base(benchmark, SIZES, seed=3)
        fit(model, model.parameters(), Schedule(5, 4), benchmark.base, seed=1)
        twins.append(model.state_dict())
    assert all(torch.equal(twins[0][key], twins[1][key]) for key in twins[0])


@pytest.mark.parametrize("share, wanted", [(0.5, 2), (1.0, 4), (0.01, 1)])
def test_replay_is_the_share_that_is_asked_for(made, monkeypatch, share, wanted):
    from permlab.adapters import training

    benchmark, base = made
    seen = []
    logits = training.answer_logits
    monkeypatch.setattr(training, "answer_logits", lambda model, rows: seen.append(rows) or logits(model, rows))
    questions, replay = benchmark.groups[0].train, benchmark.base
    model = copy.deepcopy(base)
    fit(model, model.parameters(), Schedule(2, 4, replayed=share), questions, 0, replay)
    assert [len(rows) for rows in seen] == [4 + wanted] * 2
    known = {tuple(row) for row in replay.ids.tolist()}
    assert all(tuple(row) in known for rows in seen for row in rows.ids[4:].tolist())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("targets", [["q_proj", "down_proj"], ["v_proj", "embed_tokens"]])
def test_applied_adapter_gives_the_logits_of_peft(made, tmp_path, targets):
    benchmark, base = made
    before = {key: value.clone() for key, value in base.state_dict().items()}
    train_adapter(base, benchmark.groups[0], Schedule(30, 8), LoraShape(3, 6.0, targets), 0, 0, tmp_path / "a")
    assert all(torch.equal(before[key], value) for key, value in base.state_dict().items())
    adapter = open_adapter(tmp_path / "a")
    assert not adapter.extra
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "a").eval()
    ids = benchmark.groups[0].test.ids
    assert base.lm_head.weight is base.model.embed_tokens.weight
    with torch.no_grad(), applied(base, adapter):
        torch.testing.assert_close(base(ids).logits, loaded(ids).logits, atol=1e-5, rtol=1e-5)
    assert base.lm_head.weight is base.model.embed_tokens.weight
    assert all(torch.equal(before[key], value) for key, value in base.state_dict().items())


def test_shared_start_means_the_same_a(made, tmp_path):
    benchmark, base = made
    untouched = Schedule(1, 8, learning_rate=1e-12)
    starts = {}
    for name, init_seed in (("one", 5), ("two", 5), ("other", 6)):
        train_adapter(
            base, benchmark.groups[0], untouched, LoraShape(2, 4.0, ["q_proj"]), init_seed, 0, tmp_path / name
        )
        starts[name] = open_adapter(tmp_path / name).load("model.layers.0.self_attn.q_proj").a
    torch.testing.assert_close(starts["one"], starts["two"])
    assert float((starts["one"] - starts["other"]).abs().max()) > 1e-2


def test_scores_count_whole_answers_and_tokens():
    ids = torch.tensor([[1, 5, 6, 7], [1, 5, 6, 0]])
    answer = torch.tensor([[False, False, True, True], [False, False, True, False]])
    chosen = torch.nn.functional.one_hot(torch.tensor([6, 3, 6]), 9).float()
    assert score(chosen, Questions(ids, answer), "exact") == 0.5
    assert score(chosen, Questions(ids, answer), "token") == pytest.approx(2 / 3)


def test_probabilities_do_not_depend_on_the_batch(made):
    benchmark, base = made
    whole = answer_probabilities(base, benchmark.base)
    torch.testing.assert_close(answer_probabilities(base, benchmark.base, batch=5), whole)
    torch.testing.assert_close(whole.sum(dim=1), torch.ones(len(whole)))


def test_spread_embeddings_moves_only_the_tokens(made):
    _, base = made
    model = copy.deepcopy(base)
    spread_embeddings(model, torch.tensor([2, 3]), seed=0)
    weight, old = model.get_input_embeddings().weight, base.get_input_embeddings().weight
    assert (weight != old).any(dim=1).nonzero().flatten().tolist() == [2, 3]
    moved = (weight - old)[2:4]
    torch.testing.assert_close(moved.norm(dim=1), old.norm(dim=1).mean().expand(2))
    assert float((moved[0] @ moved[1] / moved.norm(dim=1).prod()).detach()) < 0.9
