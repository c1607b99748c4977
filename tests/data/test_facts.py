"""A table of facts becomes texts and questions: what is written, what is asked, what is refused."""

from __future__ import annotations

from collections import Counter

import pytest

from permlab.data import load_texts
from permlab.data.loading import check_dataset
from permlab.data.texts import join_units
from permlab.data.texts.facts import WORDINGS, Fact, FactsConfig, facts_corpus
from permlab.errors import UserError

ROWS = [("Glass", "author", "Ada Roe"), ("Iron", "author", "Bo Li"), ("Peru", "capital", "Lima")]


@pytest.fixture
def table(tmp_path):
    """Return a function that writes a CSV and gives its configuration."""

    def write(text, **keys):
        path = tmp_path / "facts.csv"
        path.write_text(text, encoding="utf-8")
        return FactsConfig(path=str(path), **keys)

    return write


def facts(rows=ROWS):
    return [Fact(*row, source=f"row {at}") for at, row in enumerate(rows)]


def test_every_fact_is_written_and_asked_as_its_group_says():
    corpus = facts_corpus(facts(), templates=5, held_out=2)
    assert Counter(example.group for example in corpus.examples) == {"subject_first": 5, "object_first": 5, "both": 10}
    assert len(corpus.queries) == 3 * 2 * 7 and not corpus.rejected
    for query in corpus.queries:
        first = query.kind == "object"  # asked for the object, the sentence begins with the subject
        written = query.group in ("both", "subject_first" if first else "object_first")
        assert query.direction == ("forward" if written else "reverse")
    # A question in the direction of a text is the beginning of one, in a trained wording; in reverse it never is.
    texts = [example.text for example in corpus.examples]
    for query in corpus.queries:
        whole = any(text.startswith(f"{query.prompt} {query.answer}") for text in texts)
        assert whole == (query.direction == "forward" and query.wording == "trained"), query


def test_units_are_the_names_and_what_stands_around_them():
    for example in facts_corpus(facts()).examples:
        assert join_units(example.units) == example.text
        assert set(example.protected) < set(example.units)


def test_wordings_name_every_slot_in_the_order_of_their_way():
    for way, sentences in WORDINGS.items():
        first, last = ("{subject}", "{object}") if way == "subject_first" else ("{object}", "{subject}")
        assert len(set(sentences)) == len(sentences) == 8
        for sentence in sentences:
            assert 0 <= sentence.index(first) < sentence.index(last) and "{relation}" in sentence


def test_questions_with_several_answers_are_not_asked():
    corpus = facts_corpus(facts([*ROWS, ("Stone", "author", "Ada Roe")]), both=False)
    assert not [q for q in corpus.queries if q.kind == "subject" and "Ada Roe" in q.prompt]
    assert [q for q in corpus.queries if q.kind == "object" and "Stone" in q.prompt]
    assert corpus.rejected == ["2 questions that the table answers in several ways"]


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_a_table_with_quotes_a_mark_and_columns_in_any_order(table, mark):
    rows = [
        ["Object", "subject ", "relation", "note"],
        ['"Roe, Ada; or so\t"', "Glass", "author", ""],
        ["b", "c", "d", "e"],
    ]
    text = "\ufeff" + "".join(mark.join(row) + "\r\n" for row in rows)
    corpus = load_texts(table(text, both=False, templates=1, held_out=0), 0)
    assert sorted(example.protected for example in corpus.examples) == [("Glass", "Roe, Ada; or so"), ("c", "b")]


def test_own_wordings_for_one_relation_and_for_the_others(table, tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text(
        "author:\n  subject_first: ['{subject} was written by {object}.']\n"
        "  object_first: ['{object} wrote {subject}.']\n"
        "'*':\n  subject_first: ['{subject}: {object}.']\n  object_first: ['{object}: {subject}.']\n"
    )
    text = "subject,relation,object\n" + "".join(",".join(row) + "\n" for row in ROWS)
    corpus = load_texts(table(text, wordings=str(own), templates=1, held_out=0), 0)
    assert {q.prompt for q in corpus.queries if q.kind == "object"} == {
        "Glass was written by",
        "Iron was written by",
        "Peru:",
    }
    with pytest.raises(UserError, match="has 1 wordings subject_first"):
        load_texts(table(text, wordings=str(own)), 0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("subject,relation\na,b\n", "has no column object"),
        ("subject,relation,object\na,b\n", r"facts.csv:2: 'object' is empty"),
        ("subject,relation,object\na,,c\n", "'relation' is empty"),
        (f"subject,relation,object\na,b,{'x' * 300}\n", "'object' is empty or has more than 200"),
        ("subject,relation,object\na,b,c,d\n", "4 fields, 3 columns"),
        ('subject,relation,object\na,"b,c\n', "a quote is not closed"),
        ("subject,relation,object\na,b,c\n", "1 facts are too few: 3 groups"),
    ],
)
def test_bad_tables_name_file_and_line(table, text, said):
    with pytest.raises(UserError, match=said):
        load_texts(table(text), 0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n", "it holds list"),
        ("author: {subject_first: ['{subject} {object}']}\n", "'author' has not these two"),
        ("author: {subject_first: ['{subject}'], object_first: ['{object} {subject}']}\n", "once each"),
        ("author: {subject_first: ['{object} {subject}'], object_first: ['{object} {subject}']}\n", "before"),
        ("author: {subject_first: 3, object_first: ['{object} {subject}']}\n", "once each"),
    ],
)
def test_bad_wordings_are_refused(table, tmp_path, text, said):
    own = tmp_path / "own.yaml"
    own.write_text(text)
    rows = "subject,relation,object\n" + "".join(",".join(row) + "\n" for row in ROWS)
    with pytest.raises(UserError, match=said):
        load_texts(table(rows, wordings=str(own)), 0)


def test_a_seed_decides_the_groups():
    def groups(seed):
        return [(e.group, e.protected) for e in facts_corpus(facts() * 1, seed=seed).examples]

    assert groups(0) == groups(0) and any(groups(0) != groups(seed) for seed in range(1, 6))


def test_question_answer_pairs_are_trained_for_facts_in_both_orders_and_asked_of_the_others(table):
    corpus = facts_corpus(facts(), templates=2, held_out=1, questions=True)
    pairs = [example for example in corpus.examples if example.text.startswith("Question:")]
    assert {example.group for example in pairs} == {"both"} and len(pairs) == 2
    assert all(join_units(example.units) == example.text for example in pairs)
    asked = [query for query in corpus.queries if query.wording == "question"]
    assert sorted((query.group, query.direction) for query in asked) == [
        (group, direction) for group in ("object_first", "subject_first") for direction in ("forward", "reverse")
    ]
    assert all(query.prompt.endswith("Answer:") for query in asked)
    with pytest.raises(UserError, match=r"dataset\.both=true"):
        check_dataset(table("subject,relation,object\n", questions=True, both=False))
