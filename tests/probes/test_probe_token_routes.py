"""What token models do, read from attention and checked by taking it away."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from permlab.probes.architectures import TokenProblem, build
from permlab.probes.readings import combinations, parse_combination
from permlab.probes.recipes import TokenRecipe
from permlab.probes.token_answers import logits
from permlab.probes.token_routes import Attentions, token_edges, token_mechanism

PROBLEM = TokenProblem(n=4, symbols=4)
SURE = 50.0


class HandWritten(nn.Module):
    """Two attentions that solve the problem by one route, exactly; `others` attends to all but the own token first."""

    def __init__(self, route: str, others: bool = False) -> None:
        super().__init__()
        self.route, self.others, self.scale = route, others, nn.Parameter(torch.tensor(SURE))
        self.config = SimpleNamespace(is_encoder_decoder=False, num_hidden_layers=2, _attn_implementation="sdpa")
        self.implementations: list[str] = []

    def set_attn_implementation(self, name: str) -> None:
        self.implementations.append(name)

    def forward(self, input_ids):
        n, length = PROBLEM.n, input_ids.shape[1]
        order = PROBLEM.order(input_ids)
        token = nn.functional.one_hot(input_ids, PROBLEM.vocabulary).float()
        holds = nn.functional.one_hot(order, n).float()  # [example, i, j]: index token i holds j
        same = torch.eye(n).expand(len(input_ids), n, n)
        permutation, string, answer = slice(0, n), slice(n + 1, 2 * n + 1), slice(length - n, length)
        rows, columns, own = {
            "lookup": (answer, permutation, holds.transpose(1, 2)),
            "fetch": (string, permutation, same),
            "carry": (permutation, string, same),
        }[self.route]
        scores = torch.zeros(len(input_ids), 1, length, length)
        scores[:, 0, rows, columns] = self.scale * ((1 - own) if self.others else own)
        first = scores.softmax(-1)[:, 0, rows, columns]
        # All but mine carries (1 - own) / (n - 1): the negative of it says as much.
        first = 1 - (n - 1) * first if self.others else first
        scores = torch.full((len(input_ids), 1, length, length), -SURE)
        if self.route == "lookup":
            scores[:, 0, answer, string] = self.scale * first
        elif self.route == "fetch":
            scores[:, 0, answer, string] = self.scale * (first @ holds).transpose(1, 2)
        else:
            scores[:, 0, answer, permutation] = self.scale * holds.transpose(1, 2)
        second = nn.functional.softmax(scores, -1)[:, 0]
        copied = second[:, :, permutation] @ first @ token[:, string] if self.route == "carry" else second @ token
        return SimpleNamespace(logits=copied)


@pytest.mark.parametrize("others", [False, True])
@pytest.mark.parametrize("route", ["lookup", "fetch", "carry"])
def test_hand_written_routes_are_named_by_ablation(route, others):
    model = HandWritten(route, others)
    found = token_mechanism(model, PROBLEM, "bert", "filler")
    name = f"{route}_others" if others else route
    assert (found.name, found.read, found.row_accuracy) == (name, name, 1.0)
    assert found.without_it < 0.6 and found.without_others == 1.0
    assert model.implementations == ["eager", "sdpa"]


def test_a_model_that_knows_nothing_has_no_mechanism():
    torch.manual_seed(0)
    model = build(PROBLEM, "gpt2", TokenRecipe(hidden=32, heads=4, parameters=40_000))
    assert token_mechanism(model, PROBLEM, "gpt2", "filler").name == "none"
    assert model.config._attn_implementation != "eager"


@pytest.mark.parametrize(("architecture", "reading"), [parse_combination(text) for text in combinations()])
def test_every_attention_is_seen_and_what_is_edited_counts(architecture, reading):
    torch.manual_seed(0)
    recipe = TokenRecipe(hidden=32, heads=4, parameters=60_000, layers=3)
    model = build(PROBLEM, architecture, recipe).eval()
    model.set_attn_implementation("eager")
    ids, answer = PROBLEM.sample(3, torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain = logits(model, reading, ids, answer)
        with Attentions() as seen:
            assert torch.equal(logits(model, reading, ids, answer), plain)
        with Attentions(lambda _, attention: torch.zeros_like(attention)):
            assert not torch.allclose(logits(model, reading, ids, answer), plain)
    per_layer = 3 if architecture == "t5" else 1  # encoder, decoder, and the one between
    assert len(seen.maps) == per_layer * recipe.layers
    assert all(torch.allclose(one.sum(-1), torch.ones(())) for one in seen.maps)
    # Wherever a route is said to run, the attention has those rows and columns.
    length = {"in_place": 9, "filler": 13, "generate": 13}[reading]
    shapes = {(9, 9), (4, 4), (4, 9)} if architecture == "t5" else {(length, length)}
    assert {tuple(one.shape[-2:]) for one in seen.maps} == shapes


def test_edges_follow_the_tokens():
    ids, _ = PROBLEM.sample(5, torch.Generator().manual_seed(2))
    order = PROBLEM.order(ids)
    edges = token_edges(PROBLEM, ids, queries=13, encoder=False)
    assert set(edges) == {"lookup", "fetch", "carry"}
    for example in range(5):
        for j in range(4):
            wanted = int((order[example] == j).nonzero())
            assert edges["lookup"].own[example, 9 + j].nonzero().tolist() == [[wanted]]
            assert edges["fetch"].own[example, 5 + j].nonzero().tolist() == [[j]]
            assert edges["carry"].own[example, j].nonzero().tolist() == [[5 + j]]
    assert set(token_edges(PROBLEM, ids, 9, encoder=True)) == {"fetch", "carry"}
    assert set(token_edges(PROBLEM, ids, 4, encoder=False)) == {"lookup"}
