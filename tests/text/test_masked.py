"""A masked model: what is covered, what it is asked, and that it reads facts both ways."""

from __future__ import annotations

import pytest
import torch

from permlab.compose import plan_jobs
from permlab.data import symbolic_corpus
from permlab.data.examples import Query
from permlab.errors import UserError
from permlab.models.causal_lm import load_causal_lm
from permlab.models.causal_lm_config import CausalLMConfig, ScratchConfig, validate_causal_lm
from permlab.text import OrderedTexts, Ordering, encoder
from permlab.text.batches import NOT_LEARNED, Collator
from permlab.text.masked import Masked, fill_answers


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


def test_what_a_masked_model_cannot_do_is_refused():
    for more, said in (
        (["task.train.pack=64"], r"task\.train\.pack=64 is for causal models"),
        (["model.lora.rank=2"], "trained from scratch, whole"),
    ):
        with pytest.raises(UserError, match=said):
            plan_jobs(["model=bert-tiny", *more], False)
    with pytest.raises(UserError, match="for task=spt alone"):
        validate_causal_lm(CausalLMConfig(objective="masked"))
