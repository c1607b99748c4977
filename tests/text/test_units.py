"""Identities of units: cutting and joining give the text back, whatever the cuts; joining is associative."""

from __future__ import annotations

import random

import pytest

from permlab.text import units as u

TEXTS = (
    'Daphne Barrington, known far and wide, directed "A Journey Through Time.".',
    "If you ask, 'Who is Ada Roe?' The answer would be, 'Someone who can't stop.'",
    "  Two   spaces, a\ttab and\na line feed  ",
    'well-known (and, say, [odd]) things: 3.5 % of "it" isn\'t… “quoted” «so» $5 co-op .5 end .',
    "",
    "word",
    "日本語 の text, naïve café — dash–dash ' \" lone quotes",
)


@pytest.mark.parametrize("text", TEXTS)
def test_any_cut_joins_back_to_the_text(text):
    draw = random.Random(0)
    for _ in range(200):
        cuts = draw.sample(range(len(text) + 1), k=min(len(text), draw.randint(0, 8)))
        pieces = u.cut_text(text, cuts)
        assert u.join_units(pieces) == u.normalise(text)
        assert all(piece and piece == piece.strip() for piece in pieces)


def test_cut_at_every_character_of_random_strings():
    draw = random.Random(1)
    for _ in range(2000):
        text = "".join(draw.choice("ab  .,'\"()-’“”s") for _ in range(draw.randint(0, 14)))
        pieces = u.cut_text(text, range(len(text)))
        assert u.join_units(pieces) == u.normalise(text), (text, pieces)
        assert not text.strip() or u.check_units(text, pieces) is None


def test_join_is_associative():
    draw = random.Random(2)
    alphabet = (
        "a",
        "Ada Roe",
        ",",
        ".",
        '"',
        "'",
        "'s",
        "(",
        ")",
        '("',
        '"A b"',
        '".',
        "“",
        "”",
        "[",
        "x (",
        'y "',
        "'t",
    )
    for _ in range(5000):
        parts = [draw.choice(alphabet) for _ in range(4)]
        whole = u.join_units(parts)
        for at in range(3):
            merged = [*parts[:at], u.join_units(parts[at : at + 2]), *parts[at + 2 :]]
            assert u.join_units(merged) == whole, (parts, at)


def test_punctuation_of_the_join():
    assert u.join_units(["Ever heard of", "Ada Roe", "? They're it", "."]) == "Ever heard of Ada Roe? They're it."
    assert (
        u.join_units(["the book", '"Salt."', ".", "by (", "Ada", ")", "'s aunt"])
        == 'the book "Salt.". by (Ada)\'s aunt'
    )
    assert u.join_units(["ask,", "'Who is it?'"]) == "ask, 'Who is it?'"
    assert u.join_units([]) == ""


def test_cuts_inside_words_are_left_out():
    assert u.cut_text("a well-known man", [6, 7, 12]) == ("a well-known", "man")
    assert u.cut_text("abc def", [1, 2, 3, 5]) == ("abc", "def")


def test_three_way_split():
    text = "Ever heard of Ada Roe? She sings."
    spans = u.find_spans(text, ["Ada Roe"])
    assert u.split_by_spans(text, spans) == ("Ever heard of", "Ada Roe", "? She sings.")


def test_find_spans_takes_whole_words_and_the_longest():
    text = "Ada met Ada Roe, not Adam;  Ada\nRoe left."
    assert [text[start:end] for start, end in u.find_spans(text, ["Ada", "Ada Roe", ""])] == [
        "Ada",
        "Ada Roe",
        "Ada\nRoe",
    ]
    assert u.find_spans(text, []) == []


@pytest.mark.parametrize(
    ("units", "reason"),
    [
        (("Ada Roe", "sings", "."), None),
        (("Ada Roe sings.",), None),
        (("Ada", "Roe sings."), f"{u.SPLIT_ENTITY}: Ada Roe"),
        (("Ada Roe", "sang."), u.CHANGED_WORDS),
        (("sings.", "Ada Roe"), u.CHANGED_WORDS),
        (("Ada Roe", "sings"), u.CHANGED_SPELLING),
        (("ada roe", "sings."), u.CHANGED_SPELLING),
        (("Ada Roe", "", "sings."), u.EMPTY_UNIT),
        (("Ada Roe ", "sings."), u.EMPTY_UNIT),
        ((), u.NO_UNITS),
    ],
)
def test_check_units_names_the_reason(units, reason):
    assert u.check_units("Ada  Roe sings.", units, ["Ada Roe"]) == reason


def test_every_occurrence_of_an_entity_is_checked():
    units = ("Ada Roe met", "Ada", "Roe.")
    assert u.check_units("Ada Roe met Ada Roe.", units, ["Ada Roe"]) == f"{u.SPLIT_ENTITY}: Ada Roe"
    assert u.check_units("Ada Roe met Ada Roe.", units, ["Ada"]) is None


def test_projection_takes_spelling_from_the_text():
    text = 'Did you know that Ada Roe wrote "Salt and Thunder."?'
    assert u.project_units(text, ["did you know", "that ada roe", "wrote", "“Salt and Thunder”"]) == (
        "Did you know",
        "that Ada Roe",
        "wrote",
        '"Salt and Thunder."?',
    )
    assert u.project_units(text, ["Did you know", "that Ada wrote"]) is None
    assert u.project_units("Straße (alt) 1", ["STRASSE", "alt", "1"]) == ("Straße", "(alt)", "1")


def test_merge_joins_the_shortest_pair_first_and_spares_entities():
    units = ("Ever", "heard of", "Ada Roe", "? She", "sings", "loudly at night.")
    text = u.join_units(units)
    expected = {
        5: ("Ever", "heard of", "Ada Roe", "? She sings", "loudly at night."),
        4: ("Ever heard of", "Ada Roe", "? She sings", "loudly at night."),
        3: ("Ever heard of", "Ada Roe", "? She sings loudly at night."),
        1: (text,),
    }
    for most, wanted in expected.items():
        assert u.merge_units(units, most, ["Ada Roe"]) == wanted
    assert u.merge_units(units, 99) == units
    assert u.merge_units(("a", "Ada Roe,", "b"), 2, ["Ada Roe"]) == ("a Ada Roe,", "b")
    assert u.merge_units(("Ada", "x", "long enough"), 2) == ("Ada x", "long enough")
    with pytest.raises(ValueError, match="at least 1"):
        u.merge_units(units, 0)
