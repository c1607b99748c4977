"""Words of real sentences, shuffled."""

from __future__ import annotations

import pytest

from permlab.errors import UserError
from permlab.probes.prompts import Prompt, prompts_of
from permlab.probes.recipes import PromptSettings
from permlab.probes.sentences import HELD_OUT, divided, drawn_from, windows

TEXTS = [
    "The cat sat on the mat. It purred!\nWell-known facts don't change.",
    "So it goes. Ten men went to mow a field of hay.",
]


def test_runs_stay_within_a_sentence_and_hold_different_words():
    assert windows(TEXTS, 3) == [
        ("The", "cat", "sat"),
        ("on", "the", "mat"),
        ("Well-known", "facts", "don't"),
        ("So", "it", "goes"),
        ("Ten", "men", "went"),
        ("to", "mow", "a"),
        ("field", "of", "hay"),
    ]
    assert windows(["a rose is a rose is a rose"], 4) == []


def test_a_repeated_word_moves_the_run_on_by_one():
    assert windows(["that that is not so"], 3) == [("that", "is", "not")]
    assert windows(["one two three", "one two three"], 3) == [("one", "two", "three")]


def test_too_few_sentences_are_refused():
    with pytest.raises(UserError, match="2 texts have 2 runs of n=6"):
        drawn_from(TEXTS, 6)


def test_held_out_runs_are_not_trained_on():
    found = [(str(k), "x") for k in range(23)]
    train, test = divided(found)
    assert sorted(train + test) == sorted(found) and not set(train) & set(test)
    assert len(test) == -(-23 // HELD_OUT)


def test_prompts_shuffle_the_words_of_sentences():
    settings = PromptSettings(sizes=[3], styles=["plain", "filler"], shots=2)
    for prompt in prompts_of(settings, TEXTS):
        drawn = set()
        for index in range(30):
            made, words = prompt.turns(0, index)
            assert tuple(words) in windows(TEXTS, 3)
            lines = dict(line.split(": ", 1) for line in made[-1][0].splitlines()[:2])
            places = [int(place) - 1 for place in lines["Places"].split()]
            assert [words[place] for place in places] == lines["Shuffled"].split()
            assert prompt.correct(made[-1][1], words) == [True] * 3
            drawn.add(tuple(words))
        assert len(drawn) > 3
    assert "sentences" not in repr(Prompt(3, sentences=(("a", "b", "c"),)))
