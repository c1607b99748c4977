"""Lines for people: cut, with nothing in them that acts on a terminal, hides, or is a secret."""

from __future__ import annotations

import time

import pytest

from permlab.errors import UserError, as_lines, blotted, first_line, visible

ODD = "a\x1b[2Jb\u202ec\x00d\x9be\ud800f\u2028g\rh"
ESCAPED = r"a\x1b[2Jb\u202ec\x00d\x9be\ud800f\u2028g\rh"


def test_what_acts_on_a_terminal_or_hides_is_escaped():
    assert visible(ODD) == ESCAPED
    assert visible("größe\t日本 ±\nשלום") == "größe\t日本 ±\nשלום"
    assert str(UserError(ODD)) == ESCAPED and first_line(ValueError(ODD)) == ESCAPED


@pytest.mark.parametrize(
    "text", ["x" * 1_000_000, "\x1b" * 1_000_000, "x\n" * 500_000, "a:" * 500_000, "?key=" * 200_000]
)
def test_a_message_has_two_lines_of_300_characters_and_keeps_its_end(text):
    started = time.monotonic()
    said = str(UserError(f"{text}; the remedy"))
    assert time.monotonic() - started < 1
    assert len(said.split("\n")) <= 2 and max(map(len, said.split("\n"))) <= 300
    assert said.replace("\n", "").isprintable()
    if "\n" not in text:
        assert said.endswith("; the remedy")


def test_a_short_message_stays_as_it_is():
    assert as_lines("one\ntwo") == "one\ntwo" and as_lines("one\n\ntwo\nthree") == "one\ntwo"
    assert first_line(ValueError("")) == "ValueError" and first_line(KeyError("x")) == "'x'"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("https://user:pass@host/v1?api_key=abc&x=1", "https://***@host/v1?api_key=***&x=1"),
        ("https://u:p@ss@host:80", "https://***@host:80"),
        ("task.segmenter.base_url=user:pass@host/v1", "task.segmenter.base_url=***@host/v1"),
        ("['run.name=hf_abcdEFGHijklMNOPqrst', 1]", "['run.name=***', 1]"),
        ("sk-proj-1234567890abcdefghij", "***"),
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
        ("defaults: - /schema/dataset/people@_here_", "defaults: - /schema/dataset/people@_here_"),
        ("hf_models and task-specific-learning-of-words", "hf_models and task-specific-learning-of-words"),
        ("0a1b2c3d4e5f60718293a4b5c6d7e8f901234567", "0a1b2c3d4e5f60718293a4b5c6d7e8f901234567"),
    ],
)
def test_passwords_and_keys_are_blotted_and_nothing_else(text, clean):
    assert blotted(text) == clean
