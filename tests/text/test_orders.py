"""Unit orders: every draw is a rearrangement of the text's pieces, decided by the position in the stream alone."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise

import pytest
from torch.utils.data import DataLoader, SequentialSampler

from permlab.data.examples import Example
from permlab.data.texts import join_units, people_corpus, symbolic_corpus
from permlab.errors import UserError
from permlab.models.tokenizers import train_tokenizer
from permlab.text import BUDGETS, ORDERS, OrderedTexts, Ordering, encoder
from permlab.text.pieces import REVERSED, segment_order
from permlab.text.settings import check_ordering


@pytest.fixture(scope="module", params=["word", "bpe"])
def setting(request):
    corpus = people_corpus(people=12, templates=4, held_out=0)
    tokenizer = train_tokenizer([e.text for e in corpus.examples], request.param, 600)
    return corpus.examples, tokenizer


def stream(setting, epochs=4, seed=0, **ordering):
    examples, tokenizer = setting
    ids = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id}
    return OrderedTexts(examples, encoder(tokenizer), Ordering(**ordering), epochs=epochs, seed=seed, **ids)


def texts_of(made, tokenizer, positions=None):
    ids = [made[i]["input_ids"] for i in (positions if positions is not None else range(len(made)))]
    return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]


@pytest.mark.parametrize("order", ORDERS.choices)
def test_every_draw_rearranges_one_text(setting, order):
    examples, tokenizer = setting
    whole = Counter(tuple(sorted(ids)) for ids in encoder(tokenizer)([e.text for e in examples]))
    made = stream(setting, order=order)
    if order == "token_reverse":
        found = Counter(tuple(sorted(made[i]["input_ids"][1:-1])) for i in range(len(examples)))
        assert found == whole
        return
    assert len(made) == 4 * len(examples)
    # Every epoch holds every text once: same words, whatever their order.
    for epoch in range(4):
        shown = texts_of(made, tokenizer, range(epoch * len(examples), (epoch + 1) * len(examples)))
        letters = sorted("".join(sorted(t.replace(" ", ""))) for t in shown)
        assert letters == sorted("".join(sorted(e.text.replace(" ", ""))) for e in examples)


def test_the_original_order_is_the_text_itself(setting):
    examples, tokenizer = setting
    shown = texts_of(stream(setting, epochs=1, order="original"), tokenizer)
    assert sorted(shown) == sorted(e.text for e in examples)


def test_tokens_of_rearranged_pieces_equal_those_of_the_joined_text(setting):
    examples, tokenizer = setting
    made = stream(setting, order="spt")
    assert all(encoded.pieces_fit for encoded in made.encoded)
    for example, encoded in zip(examples, made.encoded):
        order = list(range(len(encoded.pieces)))[::-1]
        joined = join_units([example.units[i] for i in order])
        assert encoded.arranged(order) == encoder(tokenizer)([joined])[0]


def test_reversals_give_what_their_names_say():
    example = Example("Ada Roe wrote three books .", protected=("Ada Roe",))
    tokenizer = train_tokenizer([example.text])

    def read(order, **more):
        settings = {"p_original": 0, "p_reversed": 1, "p_permuted": 0, "p_reordered": 1, **more}
        made = OrderedTexts([example], encoder(tokenizer), Ordering(order=order, **settings), epochs=1, seed=0)
        return tokenizer.decode(made[0]["input_ids"])

    assert read("word_reverse") == ". books three wrote Roe Ada"
    assert read("entity_reverse") == ". books three wrote Ada Roe"
    ids = encoder(tokenizer)([example.text])[0]
    made = OrderedTexts([example], encoder(tokenizer), Ordering(order="token_reverse", p_reordered=1), epochs=1, seed=0)
    assert made[0]["input_ids"] == ids[::-1]


def test_segments_are_reversed_and_never_longer_than_asked():
    import numpy as np

    lengths = Counter()
    for seed in range(400):
        keys = np.random.default_rng(seed).random(12, dtype=np.float32)
        order = segment_order(REVERSED, keys, Ordering(max_segment=3))
        assert sorted(order) == list(range(12))
        runs, length = [], 1
        for before, after in pairwise(order):
            if after == before + 1:
                length += 1
            else:
                runs.append(length)
                length = 1
        assert max([*runs, length]) <= 3
        lengths.update(runs)
    assert set(lengths) == {1, 2, 3}


def test_probabilities_are_respected(setting):
    made = stream(setting, epochs=60, order="spt", p_original=0.5, p_reversed=0.3, p_permuted=0.2)
    kinds = Counter()
    for epoch in range(60):
        kinds.update(made._plan(epoch)[1].tolist())
    total = sum(kinds.values())
    for kind, wanted in enumerate((0.5, 0.3, 0.2)):
        # five standard errors of a binomial share
        assert abs(kinds[kind] / total - wanted) < 5 * (wanted * (1 - wanted) / total) ** 0.5


@pytest.mark.parametrize("budget", BUDGETS.choices)
def test_budgets_count_texts_as_they_say(setting, budget):
    examples, tokenizer = setting
    made = stream(setting, epochs=4, order="spt", budget=budget)
    factor = {"replace": 1, "data": 2, "compute": 1}[budget]
    assert len(made) == 4 * factor * len(examples)
    shown = texts_of(made, tokenizer, range(made.per_epoch))
    untouched = sum(text in {e.text for e in examples} for text in shown)
    if budget != "replace":
        assert untouched >= len(examples)


def test_static_repeats_and_dynamic_does_not(setting):
    examples, tokenizer = setting
    n = len(examples)
    for dynamic in (False, True):
        made = stream(setting, order="spt", p_original=0, p_reversed=0, p_permuted=1, dynamic=dynamic)
        first, second = (Counter(texts_of(made, tokenizer, range(e * n, (e + 1) * n))) for e in (0, 1))
        assert (first == second) is (not dynamic)


def test_the_seed_decides_the_order_and_the_workers_do_not(setting):
    made = stream(setting, order="spt")

    def batches(workers):
        loader = DataLoader(made, 7, sampler=SequentialSampler(made), num_workers=workers, collate_fn=list)
        return [row["input_ids"] for batch in loader for row in batch]

    alone = batches(0)
    assert batches(2) == alone == [made[i]["input_ids"] for i in range(len(made))]
    again, other = stream(setting, order="spt"), stream(setting, seed=1, order="spt")
    assert [again[i] for i in (5, 40, 3)] == [made[i] for i in (5, 40, 3)]
    assert [other[i] for i in range(20)] != [made[i] for i in range(20)]


def test_token_and_word_reversal_differ_on_symbolic_entities():
    corpus = symbolic_corpus(pairs=20, entity_words=2)
    tokenizer = train_tokenizer([e.text for e in corpus.examples])
    entity = corpus.examples[0].protected[0]
    assert len(encoder(tokenizer)([entity])[0]) == 4
    assert len(entity.split()) == 2


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(order="entity_revers"), "did you mean 'entity_reverse'"),
        (dict(budget="replaces"), "did you mean 'replace'"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(settings, words):
    with pytest.raises(UserError, match=words):
        OrderedTexts([Example("a b")], lambda texts: [[1, 2] for _ in texts], Ordering(**settings), epochs=1, seed=0)


@pytest.mark.parametrize(
    "settings", [dict(order="spt", p_original=1, p_reversed=0, p_permuted=0), dict(order="word_reverse", p_reordered=0)]
)
def test_two_copies_need_a_reordered_one(settings):
    """word_reverse with p_reordered=0 passed the check and divided by zero in the run."""
    with pytest.raises(UserError, match="needs a reordered copy"):
        check_ordering(Ordering(budget="data", **settings))
    check_ordering(Ordering(budget="replace", **settings))


def read_all(text: str, units: tuple[str, ...], order: str, count: int = 60) -> set[str]:
    """Every reading of one text in some draws, with words and punctuation as tokens."""
    words: list[str] = []

    def encode(texts: list[str]) -> list[list[int]]:
        found = [re.findall(r"\w+|[^\w\s]", each) for each in texts]
        words.extend(word for row in found for word in row if word not in words)
        return [[words.index(word) for word in row] for row in found]

    stream = OrderedTexts([Example(text, units=units)], encode, Ordering(order=order), epochs=count, seed=0)
    return {" ".join(words[token] for token in stream[i]["input_ids"]) for i in range(len(stream))}


@pytest.mark.parametrize("units", [("Ada Roe", "wrote", "The Sea."), ("Ada Roe", "wrote", "The Sea", ".")])
def test_the_full_stop_stays_the_end_of_a_text_whichever_way_its_units_are_read(units):
    readings = read_all("Ada Roe wrote The Sea.", units, "spt")
    assert len(readings) == 6, "three units move, in every order"
    assert all(reading.endswith(" .") and reading.count(".") == 1 for reading in readings)


def test_a_text_that_ends_without_a_sentence_is_read_as_before():
    assert len(read_all("Ada Roe wrote The Sea", ("Ada Roe", "wrote", "The Sea"), "spt")) == 6
    assert len(read_all("...", ("...",), "spt")) == 1
    assert len(read_all('She said "no!"', ("She said", '"no!"'), "spt")) == 2, "a closing quote holds its full stop"


def test_reversals_of_the_papers_move_the_full_stop_with_the_words():
    assert min(read_all("Ada wrote it.", (), "word_reverse"), key=lambda text: text.index("."))[0] == "."
