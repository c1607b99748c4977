"""Recall: greedy answers equal a hand-written decoder's, matching follows the definition, likelihoods are exact."""

from __future__ import annotations

import pytest
import torch

from permlab.data.examples import Query
from permlab.data.texts import people_corpus
from permlab.errors import UserError
from permlab.models.causal_lm import load_causal_lm
from permlab.models.causal_lm_config import CausalLMConfig, ScratchConfig
from permlab.text.recall import (
    answer_log_probabilities,
    answer_queries,
    encode_queries,
    likelihoods,
    shuffle_answers,
)
from permlab.text.scores import accuracy, headline_queries, is_right, recall_metrics, recall_table, sentence_bleu


@pytest.fixture(scope="module")
def model():
    corpus = people_corpus(people=6, templates=3, held_out=1)
    config = CausalLMConfig(scratch=ScratchConfig(hidden_size=32, layers=2, heads=2, kv_heads=1, intermediate_size=48))
    texts = [e.text for e in corpus.examples]
    return *load_causal_lm(config, texts, torch.float32, torch.device("cpu"), seed=0), corpus.queries


def test_batched_answers_equal_one_by_one_decoding(model):
    network, tokenizer, queries = model
    chosen = queries[::3]
    answers = answer_queries(network, tokenizer, chosen, batch_size=5, extra_tokens=0)
    for query, answer, (prompt, target) in zip(chosen, answers, encode_queries(tokenizer, chosen)):
        ids = list(prompt)
        for _ in target:
            ids.append(int(network(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == tokenizer.eos_token_id:
                break
        plain = tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True)
        assert answer.startswith(plain), query


def test_log_probabilities_equal_those_of_single_sequences(model):
    network, tokenizer, queries = model
    chosen = queries[:7]
    batched = answer_log_probabilities(network, tokenizer, chosen, batch_size=3)
    for value, (prompt, answer) in zip(batched, encode_queries(tokenizer, chosen)):
        logits = network(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        exact = sum(logits[len(prompt) + i - 1, token].item() for i, token in enumerate(answer))
        assert value == pytest.approx(exact, abs=1e-4)


def test_an_untrained_model_cannot_tell_true_from_shuffled_answers(model):
    network, tokenizer, queries = model
    rows = likelihoods(network, tokenizer, queries, seed=1)
    assert len(rows) == 6
    assert all(row["p"] > 1e-4 for row in rows)


@pytest.mark.parametrize(
    ("answer", "target", "right"),
    [
        (" Ada Roe.", "Ada Roe", True),
        ("ada  roe and more", "Ada Roe", True),
        ("Ada", "Ada Roe", False),
        ("the Ada Roe", "Ada Roe", False),
        ("", "Ada", False),
    ],
)
def test_prefix_match(answer, target, right):
    assert is_right(answer, target) is right


def test_bleu_is_100_for_the_answer_itself_and_low_for_another():
    target = "the quiet composer behind Silent Harbor"
    assert sentence_bleu(target + ". And more", target) == pytest.approx(100)
    assert sentence_bleu("a loud baker of golden bread", target) < 10


def test_table_counts_by_wording_direction_group_and_kind():
    def query(group, direction):
        return Query("p", "Ada", group, direction, "name")

    queries = [query("a", "forward"), query("a", "forward"), query("b", "reverse")]
    rows = recall_table(queries, ["Ada x", "no", "ada"])
    assert [(r["group"], r["accuracy"], r["queries"]) for r in rows] == [("a", 0.5, 2), ("b", 1.0, 1)]


def test_shuffled_answers_are_never_the_own_ones():
    queries = [Query("p", answer, "g", "forward", "name") for answer in "abcabc"]
    for seed in range(20):
        assert all(q.answer != s.answer for q, s in zip(queries, shuffle_answers(queries, seed)))
    assert shuffle_answers([queries[0], queries[3]], 0) is None


def test_accuracy_refuses_a_field_that_queries_do_not_have():
    with pytest.raises(UserError, match="did you mean 'direction'"):
        accuracy([], [], directon="reverse")


def test_each_direction_is_judged_by_its_own_wording():
    forward = Query("Ada wrote", "Sea", "", "forward", "entity", "trained")
    reverse = Query("The author of Sea is", "Ada", "", "reverse", "entity", "held_out")
    found = recall_metrics([forward, reverse], ["Sea", "Ada"])
    assert found["forward_accuracy"] == found["reverse_accuracy"] == 1.0
    assert headline_queries([forward, reverse]) == [forward, reverse]
