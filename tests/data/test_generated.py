"""Generated corpora: deterministic, facts asked in reverse are unseen, wordings are not."""

from __future__ import annotations

import numpy as np
import pytest

from permlab.data.texts import cups_corpus, people_corpus
from permlab.data.texts.cups import COLORS, PLACES
from permlab.data.texts.symbolic import MATRIX, symbolic_corpus
from permlab.errors import UserError
from permlab.state_tracking import Words, group
from permlab.text.units import check_units


def test_people_are_the_same_for_the_same_seed_and_differ_for_another():
    first, again, other = people_corpus(seed=3), people_corpus(seed=3), people_corpus(seed=4)
    assert first == again
    assert first.examples[0].text != other.examples[0].text


def test_people_groups_and_counts():
    corpus = people_corpus(people=60, templates=10, held_out=3)
    assert len(corpus.examples) == 20 * 10 + 20 * 10 + 20 * 10 * 2
    assert len({e.text for e in corpus.examples}) == len(corpus.examples)
    assert len({e.protected[0] for e in corpus.examples}) == 60
    for example in corpus.examples:
        assert check_units(example.text, example.units, example.protected) is None


def test_people_reverse_facts_are_unseen_but_their_wording_is_not():
    corpus = people_corpus(people=30, templates=5, held_out=2)
    texts = [e.text for e in corpus.examples]
    for query in corpus.queries:
        seen = [text for text in texts if text.startswith(f"{query.prompt} {query.answer}")]
        if query.direction == "reverse" or query.wording == "held_out":
            assert not seen
        else:
            assert len(seen) == 1
    lead = {q.prompt.split(" the ")[0] for q in corpus.queries if q.kind == "name" and q.wording == "trained"}
    assert all(any(text.startswith(words) for text in texts) for words in lead)


def test_three_thousand_people_have_distinct_descriptions():
    corpus = people_corpus(people=3000, templates=1, held_out=0)
    assert len({q.answer for q in corpus.queries if q.kind == "description"}) == 3000


def test_symbolic_asks_the_inverse_of_forward_only_pairs():
    corpus = symbolic_corpus(pairs=40, entity_words=4)
    texts = {e.text for e in corpus.examples}
    assert len(texts) == 20 + 2 * 20
    reverse = [q for q in corpus.queries if q.direction == "reverse"]
    assert len(reverse) == 20
    assert all(f"{q.prompt} {q.answer}" not in texts for q in reverse)
    assert all(f"{q.prompt} {q.answer}" in texts for q in corpus.queries if q.direction == "forward")
    for example in corpus.examples:
        assert check_units(example.text, example.units, example.protected) is None
        assert all(len(entity.split()) == 4 for entity in example.protected)


@pytest.mark.parametrize("form", range(4))
def test_matrix_trains_one_form_of_the_asked_pairs_and_asks_all(form):
    corpus = symbolic_corpus(pairs=10, forms="matrix", train_form=form)
    asked = [e for e in corpus.examples if e.group == "asked"]
    assert len(asked) == 5 and len(corpus.examples) == 5 + 4 * 5
    assert len(corpus.queries) == 4 * 5
    texts = {e.text for e in corpus.examples}
    known = [q for q in corpus.queries if f"{q.prompt} {q.answer}" in texts]
    assert {q.group for q in known} == {MATRIX[form][1]}


@pytest.mark.parametrize(
    "make",
    [
        lambda: people_corpus(templates=20),
        lambda: people_corpus(people=2),
        lambda: symbolic_corpus(symbols=1),
        lambda: cups_corpus(cups=7),
        lambda: cups_corpus(swaps=4, test_swaps=3),
        lambda: symbolic_corpus(pairs=400, entity_words=1, symbols=4),
    ],
)
def test_sizes_that_cannot_be_made_are_refused(make):
    with pytest.raises(UserError):
        make()


def test_units_and_protected_strings_of_persons_change_neither_texts_nor_questions():
    plain, halves, kept = people_corpus(), people_corpus(halves=True), people_corpus(protect_description=True)
    assert [e.text for e in plain.examples] == [e.text for e in halves.examples] == [e.text for e in kept.examples]
    assert plain.queries == halves.queries == kept.queries
    for whole, cut, both in zip(plain.examples, halves.examples, kept.examples):
        assert len(cut.units) == len(whole.units) + 1 and cut.protected == whole.protected
        name, description = both.protected
        assert (name,) == whole.protected and description in whole.units


def test_the_row_of_cups_in_the_end_is_the_product_of_the_swaps():
    corpus = cups_corpus(cups=4, swaps=3, test_swaps=5, texts=60, asked=7)
    words = Words(group("S4"), "transpositions")
    moved = [set(np.flatnonzero(words.group.elements[letter] != np.arange(4)).tolist()) for letter in words.letters]
    told = [(text.text, text.text.partition(" now ")[2]) for text in corpus.examples]
    for text, row in told + [(query.prompt, query.answer) for query in corpus.queries]:
        swaps = [part.split(" and ") for part in text.partition(" now")[0].split("swap ")[1:]]
        pairs = [{PLACES.index(one), PLACES.index(other.split()[0])} for one, other in swaps]
        state = words.states(np.array([[moved.index(pair) for pair in pairs]]))[0, -1]
        # An element sends what stands at place i to place element[i].
        assert [COLORS.index(cup) for cup in row.split()] == np.argsort(words.group.elements[state]).tolist()
    for example in corpus.examples:
        assert check_units(example.text, example.units, example.protected) is None
    assert len(corpus.queries) == 5 * 7 and {query.group for query in corpus.queries} >= {"01 swap", "05 swaps"}


def test_a_question_about_cups_is_trained_where_a_text_begins_with_it():
    corpus = cups_corpus(cups=3, swaps=4, test_swaps=6, texts=400)
    for query in corpus.queries:
        read = any(example.text.startswith(query.prompt + " ") for example in corpus.examples)
        assert (query.wording == "trained") is read
    assert {query.wording for query in corpus.queries} == {"trained", "held_out"}
