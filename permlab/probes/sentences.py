"""Words of real sentences to shuffle: `windows(["The cat sat on the mat."], n=3)` is [(The, cat, sat), (on, the, mat)].

Lists of unrelated words can be restored by the places alone; a model that knows the language may also guess from
grammar, so what it does with sentences is to be held against what it does with lists.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from permlab.errors import UserError

Words = tuple[str, ...]
_SENTENCES = re.compile(r"(?<=[.!?])\s+|\n+")
_WORDS = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
HELD_OUT = 5
"""One window in so many is kept for tests."""


def windows(texts: Iterable[str], n: int) -> list[Words]:
    """Return runs of n different words within a sentence, each word in one run at most, as they stand in the texts.

    Different, because only then a random order has each word in its place with probability 1/n.
    """
    found: dict[Words, None] = {}
    for text in texts:
        for sentence in _SENTENCES.split(text):
            words, start = _WORDS.findall(sentence), 0
            while start + n <= len(words):
                run = tuple(words[start : start + n])
                if len(set(run)) == n:
                    found[run] = None
                start += n if len(set(run)) == n else 1
    return list(found)


def drawn_from(texts: Sequence[str], n: int) -> list[Words]:
    """As `windows`, refusing texts that give too few to train on some and test on others.

    Raises:
        UserError: naming n and what the texts give.
    """
    found = windows(texts, n)
    if len(found) < HELD_OUT:
        raise UserError(
            f"{len(texts)} texts have {len(found)} runs of n={n} different words within a sentence, and at least "
            f"{HELD_OUT} are needed: lower n, or give more texts"
        )
    return found


def divided(found: Sequence[Words]) -> tuple[list[Words], list[Words]]:
    """Return the windows to train on, and those kept for tests."""
    return [words for k, words in enumerate(found) if k % HELD_OUT], list(found[::HELD_OUT])
