"""A masked model: what is covered, what it is asked, and that it reads facts both ways."""

from __future__ import annotations

import pytest
import torch

from permlab.compose import plan_jobs
from permlab.data import people_corpus, symbolic_corpus
from permlab.data.examples import Query
from permlab.errors import UserError
from permlab.models.causal_lm import load_causal_lm
from permlab.models.causal_lm_config import CausalLMConfig, ScratchConfig, validate_causal_lm
from permlab.text import OrderedTexts, Ordering, encoder
from permlab.text.batches import NOT_LEARNED, Collator
from permlab.text.masked import Masked, covered_first, fill_answers
from permlab.text.scores import headline_wording, recall_metrics


@pytest.fixture(scope="module")
def made():
    corpus = symbolic_corpus(pairs=6)
    config = CausalLMConfig(objective="masked", scratch=ScratchConfig(hidden_size=32, layers=1, intermediate_size=64))
    texts = [example.text for example in corpus.examples]
    return *load_causal_lm(config, texts, torch.float32, torch.device("cpu"), 0, 64), corpus


def test_labels_are_what_is_covered_and_the_position_decides_it(made):
    _, tokenizer, corpus = made
    texts = OrderedTexts(corpus.examples, encoder(tokenizer), Ordering(order="original"), epochs=40, seed=0)
    stream = Masked(texts, tokenizer.mask_token_id, seed=3)
    shares = []
    for position in range(len(stream)):
        row, ids = stream[position], texts[position]["input_ids"]
        assert row == stream[position]
        for shown, label, true in zip(row["input_ids"], row["labels"], ids, strict=True):
            assert (shown, label) in ((true, NOT_LEARNED), (tokenizer.mask_token_id, true))
        covered = sum(label != NOT_LEARNED for label in row["labels"])
        assert covered >= 1
        shares.append(covered / len(ids))
    assert 0.4 < sum(shares) / len(shares) < 0.65 and max(shares) > 0.9 and min(shares) < 0.2
    batch = Collator(tokenizer.pad_token_id)([stream[0], {"input_ids": [5], "labels": [7]}])
    assert batch["labels"][1].tolist() == [7] + [NOT_LEARNED] * (batch["labels"].shape[1] - 1)
    assert batch["labels"][0].tolist() == stream[0]["labels"]


def test_the_surest_token_is_filled_first(made):
    """Against a network that knows a token once the one behind it stands there: it must be filled from the end."""
    _, tokenizer, corpus = made
    query = corpus.queries[0]
    target = encoder(tokenizer)([query.answer])[0]
    wrong = tokenizer.bos_token_id + 4
    assert len(target) == 4 and wrong not in target

    class Network:
        device = torch.device("cpu")

        def eval(self):
            return self

        def __call__(self, input_ids, attention_mask):
            logits = torch.zeros(*input_ids.shape, len(tokenizer))
            for row, ids in enumerate(input_ids):
                first = int(attention_mask[row].sum()) - 1 - len(target)  # the answer stands before the end token
                for at, token in enumerate(target):
                    known = at == 3 or ids[first + at + 1] == target[at + 1]
                    logits[row, first + at, token if known else wrong] = 9.0 if known else 5.0
            return type("Made", (), {"logits": logits})()

    longer = Query(f"{query.prompt} has a", query.answer, "", "forward", "entity")  # another length in the same batch
    assert fill_answers(Network(), tokenizer, [longer, query]) == [query.answer, query.answer]


def test_the_first_entity_is_covered_in_every_text_that_was_read_one_way():
    corpus = symbolic_corpus(pairs=6)
    asked = covered_first(corpus)
    once = [example for example in corpus.examples if example.group == "forward_only"]
    assert [f"{each.answer} {each.after}" for each in asked] == [example.text for example in once]
    assert all(each.prompt == "" and each.direction == "reverse" and each.wording == "in_text" for each in asked)
    assert {each.fact for each in asked} == {q.fact for q in corpus.queries if q.direction == "reverse"}
    # A name that ends its text is what is asked forward; one inside has text on both of its sides.
    people = people_corpus(people=6, templates=2, held_out=0)
    names = covered_first(people)
    assert [f"{each.prompt} {each.answer} {each.after}".strip() for each in names] == [
        example.text for example in people.examples if example.group == "name_first"
    ]


def test_a_covered_text_is_shown_whole_but_for_the_answer(made):
    _, tokenizer, corpus = made
    query = covered_first(corpus)[0]
    answer, whole = encoder(tokenizer)([query.answer, f"{query.answer} {query.after}"])
    seen = []

    class Network:
        device = torch.device("cpu")

        def eval(self):
            return self

        def __call__(self, input_ids, attention_mask):
            seen.append(input_ids.tolist()[0])
            return type("Made", (), {"logits": torch.zeros(*input_ids.shape, len(tokenizer))})()

    fill_answers(Network(), tokenizer, [query], closing=".")
    covered = [tokenizer.mask_token_id] * len(answer)
    assert seen[0] == [tokenizer.bos_token_id, *covered, *whole[len(answer) :], tokenizer.eos_token_id]


def test_covered_texts_have_a_number_of_their_own(made):
    *_, corpus = made
    queries = [*corpus.queries, *covered_first(corpus)]
    answers = [query.answer if query.wording == "in_text" else "nothing" for query in queries]
    metrics = recall_metrics(queries, answers)
    assert metrics["reverse_accuracy_in_text"] == 1 and metrics["reverse_accuracy"] == metrics["forward_accuracy"] == 0
    few = [query for query in queries if query.direction == "reverse"][:1]
    assert headline_wording([*few, *covered_first(corpus)]) == "trained"


@pytest.mark.slow
def test_it_knows_both_ends_of_a_text():
    """Six pairs are enough: the first entity of a text as well as the last, where a causal model knows the last."""
    corpus = symbolic_corpus(pairs=6, entity_words=1)
    sizes = ScratchConfig(hidden_size=64, layers=1, intermediate_size=256)
    texts = [example.text for example in corpus.examples]
    model, tokenizer = load_causal_lm(
        CausalLMConfig(objective="masked", scratch=sizes), texts, torch.float32, torch.device("cpu"), 0, 64
    )
    ends = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id}
    stream = OrderedTexts(corpus.examples, encoder(tokenizer), Ordering(order="original"), epochs=400, seed=0, **ends)
    covered, collate = Masked(stream, tokenizer.mask_token_id, 0), Collator(tokenizer.pad_token_id)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for start in range(0, len(covered), 9):
        loss = model(**collate([covered[at] for at in range(start, start + 9)])).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    forward = [query for query in corpus.queries if query.direction == "forward"]
    for asked in (forward, covered_first(corpus)):
        answers = fill_answers(model, tokenizer, asked)
        assert sum(query.answer == answer.strip() for query, answer in zip(asked, answers)) >= 0.8 * len(asked)


def test_what_a_masked_model_cannot_do_is_refused():
    for more, said in (
        (["task.train.pack=64"], r"task\.train\.pack=64 is for causal models"),
        (["model.lora.rank=2"], "trained from scratch, whole"),
    ):
        with pytest.raises(UserError, match=said):
            plan_jobs(["model=bert-tiny", *more], False)
    with pytest.raises(UserError, match="for task=spt alone"):
        validate_causal_lm(CausalLMConfig(objective="masked"))
