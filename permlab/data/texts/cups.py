"""A row of cups, swapped pair by pair: `corpus = cups_corpus(cups=3, swaps=4, texts=2000, seed=0)`.

"red green blue stand in a row . swap first and third . swap first and second . now green blue red": the word problem of
the symmetric group with transpositions, as text that any causal language model reads. Questions end behind "now".
Guessing gives 1 / cups! of the answers, 2 / cups! once a model knows whether the number of swaps is even.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from permlab.data.examples import Corpus, Example, Query
from permlab.errors import check_range

COLORS = ("red", "green", "blue", "white", "black", "brown")
PLACES = ("first", "second", "third", "fourth", "fifth", "sixth")


@dataclass
class CupsConfig:
    """Rows of cups and their swaps."""

    name: str = "cups"
    kind: str = "cups"
    cups: int = 3
    """Cups in the row."""
    swaps: int = 4
    """Most swaps of a training text; every number from 1 is trained alike."""
    test_swaps: int = 8
    """Most swaps that are asked."""
    texts: int = 2000
    """Training texts."""
    asked: int = 40
    """Questions for every number of swaps."""


def check_cups(config: CupsConfig) -> None:
    """Check ranges; nothing is generated."""
    check_sizes(config.cups, config.swaps, config.test_swaps, config.texts, config.asked, prefix="dataset.")


def load_cups(config: CupsConfig, seed: int) -> Corpus:
    """Generate the corpus of a configuration."""
    return cups_corpus(config.cups, config.swaps, config.test_swaps, config.texts, config.asked, seed)


def check_sizes(cups: int, swaps: int, test_swaps: int, texts: int, asked: int, prefix: str = "") -> None:
    """Refuse sizes that cannot be made.

    Args:
        prefix: goes before the names in messages.

    Raises:
        UserError: naming the number and its range.
    """
    check_range(f"{prefix}cups", cups, 2, len(PLACES))
    check_range(f"{prefix}swaps", swaps, 1)
    check_range(f"{prefix}test_swaps", test_swaps, swaps)
    for name, value in (("texts", texts), ("asked", asked)):
        check_range(f"{prefix}{name}", value, 1)


def cups_corpus(
    cups: int = 3, swaps: int = 4, test_swaps: int = 8, texts: int = 2000, asked: int = 40, seed: int = 0
) -> Corpus:
    """Generate the corpus; the same arguments give the same corpus on every machine.

    Raises:
        UserError: an argument is out of range.
    """
    check_sizes(cups, swaps, test_swaps, texts, asked)
    draw = random.Random(f"cups-{seed}")
    corpus, seen = Corpus("cups", []), set()
    for number in range(texts):
        units, row = drawn(draw, cups, 1 + number % swaps)
        seen.add(units)
        whole = (*units, f"now {row}")
        corpus.examples.append(Example(" ".join(whole), _swaps(units), whole, (), "generated"))
    for count in range(1, test_swaps + 1):
        for _ in range(asked):
            units, row = drawn(draw, cups, count)
            # Few words are short: what was read in training is told apart from what was not by looking.
            wording = "trained" if units in seen else "held_out"
            prompt = " ".join((*units, "now"))
            corpus.queries.append(Query(prompt, row, _swaps(units), "forward", "row", wording, prompt))
    return corpus


def drawn(draw: random.Random, cups: int, swaps: int) -> tuple[tuple[str, ...], str]:
    """The row and its swaps as sentences, and the row in the end."""
    row = list(COLORS[:cups])
    units = [f"{' '.join(row)} stand in a row ."]
    for _ in range(swaps):
        one, other = sorted(draw.sample(range(cups), 2))
        row[one], row[other] = row[other], row[one]
        units.append(f"swap {PLACES[one]} and {PLACES[other]} .")
    return tuple(units), " ".join(row)


def _swaps(units: tuple[str, ...]) -> str:
    return f"{len(units) - 1:02d} swap{'s' * (len(units) > 2)}"
