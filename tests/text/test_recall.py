"""Recall: greedy answers equal a hand-written decoder's, matching follows the definition, likelihoods are exact."""

from __future__ import annotations

import pytest
import torch

from permlab.data.examples import Query
from permlab.data.texts import people_corpus
from permlab.errors import UserError
from permlab.models.causal_lm import load_causal_lm
from permlab.models.causal_lm_config import CausalLMConfig, ScratchConfig
from permlab.text.choices import (
    answer_log_probabilities,
    choose,
    likelihood_metrics,
    likelihoods,
    shuffle_answers,
)
from permlab.text.recall import answer_queries, encode_queries
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


def test_multiple_choice_takes_the_likeliest_answer_per_token(model):
    """A model that always says one name of three is right where that name is the answer, and nowhere else."""
    network, tokenizer, queries = model
    asked = [q for q in queries if q.kind == "name" and q.group == "name_first" and q.wording == "trained"]
    names = sorted({q.answer for q in asked})
    assert len(names) == 2
    found = choose(network, tokenizer, asked, 2, seed=0)
    pairs = encode_queries(tokenizer, asked)
    for query, right, (_, answer) in zip(asked, found, pairs):
        (other,) = (name for name in names if name != query.answer)
        wrong = Query(query.prompt, other, query.group, query.direction, query.kind)
        scores = answer_log_probabilities(network, tokenizer, [query, wrong])
        lengths = [len(answer), len(encode_queries(tokenizer, [wrong])[0][1])]
        assert right == (scores[0] / lengths[0] > scores[1] / lengths[1])
    assert choose(network, tokenizer, asked, 3) == [None] * len(asked)  # two names are no three choices


def test_the_control_adds_up_rows_as_independent_samples():
    """Two rows of equal size: the mean of the means, and errors that add in squares."""
    row = {"direction": "reverse", "group": "name_first", "queries": 10, "difference": 2.0, "t": 4.0}
    found = likelihood_metrics(
        [row, {**row, "difference": 1.0, "t": 4.0}, {**row, "group": "both", "difference": 90.0}]
    )
    assert found["reverse_likelihood_gain"] == pytest.approx(1.5)
    error = (0.5**2 + 0.25**2) ** 0.5 / 2  # standard errors 2 / 4 and 1 / 4 of samples of equal size
    assert found["reverse_likelihood_t"] == pytest.approx(1.5 / error)


def test_a_chat_template_frames_the_prompt_and_the_answer_begins_the_reply(model):
    network, tokenizer, queries = model
    kept = tokenizer.chat_template
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }} is is{% endfor %}"
    try:
        (prompt, answer) = encode_queries(tokenizer, queries[:1], chat=True)[0]
        assert tokenizer.decode(prompt).endswith("is is") and queries[0].prompt in tokenizer.decode(prompt)
        assert tokenizer.decode(answer).strip() == queries[0].answer
        assert len(answer_queries(network, tokenizer, queries[:2], chat=True)) == 2
    finally:
        tokenizer.chat_template = kept
