"""The one way from units back to text: `join_units(("Meet", "Ada Roe", "."))` is "Meet Ada Roe."

A unit is stored without surrounding white space; the join writes the spaces, in any order of the units.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

CLOSING = frozenset(",.;:!?)]}’”»…%")
"""Characters before which no space is written."""
OPENING = frozenset("([{‘“«¿¡")
"""Characters after which no space is written."""
_CONTRACTION = re.compile(r"'(?:s|re|ll|d|t|m|ve)(?!\w)", re.IGNORECASE)


_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
_LETTER = rf"[^\W{_UNSPACED}]"
BORDER = rf"(?:(?<!{_LETTER})|(?!{_LETTER}))"
"""Pattern of `regex` for a place where a word may begin or end: not between two letters, marks on letters included, of
scripts that put spaces between words; between those of other scripts anywhere."""


def normalise(text: str) -> str:
    """Return `text` with every run of white space as one space and none at the ends."""
    return " ".join(text.split())


def _closes(unit: str) -> bool:
    """Whether `unit` starts with punctuation that belongs to the word before it (straight quotes by what follows)."""
    first, second = unit[0], unit[1:2]
    if first in "\"'":
        return bool(_CONTRACTION.match(unit)) or not second.isalnum()
    return first in CLOSING


def _opens(unit: str) -> bool:
    """Whether `unit` ends with punctuation that belongs to the word after it (a straight quote after a space)."""
    return unit[-1] in OPENING or (unit[-1] in "\"'" and unit[-2:-1].isspace())


def needs_space(left: str, right: str) -> bool:
    """Return whether the join writes a space between two non-empty neighbours."""
    return not (_opens(left) or _closes(right))


def join_units(units: Sequence[str]) -> str:
    """Join units, in the order given, into one text.

    One space stands between neighbours, except before a unit that starts with closing punctuation (`,` `?` `)` `'s` a
    closing quote) and after one that ends with an opening bracket or quote. The join is associative: joining neighbours
    first does not change the text.

    Args:
        units: non-empty strings without surrounding white space.
    """
    parts = list(units[:1])
    for left, right in pairwise(units):
        # The space depends on the two neighbours alone, so SPT's rearranged units read like text in any order.
        parts.append(f" {right}" if needs_space(left, right) else right)
    return "".join(parts)
