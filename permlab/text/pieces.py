"""What orders move, and into which sequence: `words_and_entities(example)`, `segment_order(REVERSED, keys, ordering)`.

Functions of the rows of `permlab.text.table.ORDERS`. Pieces: from an example to strings. Arrangements: from the kind of
reading, one random number in [0, 1) per piece and the settings to piece indices.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import regex

from permlab.data.examples import Example
from permlab.text.settings import Ordering
from permlab.text.units import find_spans

# `regex` counts the marks on letters of many scripts as parts of words, where `re` cuts words at them.
WORD = regex.compile(r"\w+(?:['’\-]\w+)*|[^\w\s]+")
AFTER_NAME = regex.compile(rf"['’]\w+|{WORD.pattern}")
"""A possessive 's stays together behind the name it belongs to."""
END = re.compile(r"[.!?…。！？]+")
CLOSING = re.compile(rf"(.*\w)({END.pattern})", re.DOTALL)
ORIGINAL, REVERSED, PERMUTED = 0, 1, 2
"""Kinds of readings; a text's kind is drawn with `Ordering.probabilities()`."""

Keys = np.ndarray[Any, np.dtype[np.float32]]


def with_closing_apart(pieces: list[str]) -> list[str]:
    """Cut the punctuation that ends a sentence off the last piece, so that no other piece is read behind it.

    "the composer of" | "Abyssal Melodies." reversed would read "Abyssal Melodies. the composer of": a name is then
    followed by a full stop wherever it stands, and asked for it the model answers ". Daphne Barrington".
    """
    found = CLOSING.fullmatch(pieces[-1])
    return [*pieces[:-1], found[1], found[2]] if found else pieces


def is_closing(piece: str) -> bool:
    """Whether a piece is nothing but punctuation that ends a sentence."""
    return END.fullmatch(piece) is not None


def whole_text(example: Example) -> list[str]:
    """The text as one piece."""
    return [example.text]


def units_of(example: Example) -> list[str]:
    """The units that a segmenter found: what SPT permutes (arXiv 2403.00758)."""
    return list(example.units or (example.text,))


def words_of(example: Example) -> list[str]:
    """Words and punctuation: word reversal (arXiv 2403.13799)."""
    return split_words(example.text)


def words_and_entities(example: Example) -> list[str]:
    """Words with entities kept whole: entity-preserving reversal (arXiv 2403.13799)."""
    return split_words(example.text, example.protected)


def split_words(text: str, protected: Sequence[str] = ()) -> list[str]:
    """Split a text into words and punctuation; whole-word occurrences of protected strings stay one piece."""
    pieces: list[str] = []
    at = 0
    for start, end in [*find_spans(text, protected), (len(text), len(text))]:
        between = text[at:start]
        first = AFTER_NAME.match(between) if at else None
        pieces += [first[0]] if first else []
        pieces += WORD.findall(between, first.end() if first else 0)
        pieces += [text[start:end]] if end > start else []
        at = end
    return pieces


def whole_order(kind: int, keys: Keys, ordering: Ordering) -> list[int]:
    """Return piece indices as they are, last to first, or sorted by the random keys."""
    if kind == PERMUTED:
        # SPT's permutation of the units: sorting independent uniform keys makes every order equally likely.
        return [int(index) for index in np.argsort(keys, kind="stable")]
    indices = list(range(len(keys)))
    # Pieces change places and each reads forwards inside: entities survive only where they are pieces.
    return indices[::-1] if kind == REVERSED else indices


def segment_order(kind: int, keys: Keys, ordering: Ordering) -> list[int]:
    """Return piece indices with segments of 1 to `max_segment` pieces in reverse, each kept in itself.

    Random segment reversal (arXiv 2403.13799): the lengths are drawn uniformly from 1 to k.
    """
    if kind != REVERSED:
        return whole_order(kind, keys, ordering)
    count = len(keys)
    segments, start = [], 0
    while start < count:
        length = 1 + int(keys[start] * ordering.max_segment)
        segments.append(range(start, min(start + length, count)))
        start += length
    return [index for segment in reversed(segments) for index in segment]
