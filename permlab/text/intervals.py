"""How sure a share of right answers is: `clustered_interval(right, facts)`, a bootstrap over facts.

    recall_interval(answers, "reverse")                # of the table `answers` of runs, facts that were read one way
    recall_interval(answers, "reverse", "in_text")     # of a masked model, the answer covered in the text it read

Ten wordings of one fact are no ten independent questions: a model that knows the fact answers most of them. What is
drawn again and again is therefore whole facts with all their questions (cluster bootstrap).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from permlab.tables import Row

LEVEL = 0.95
DRAWS = 2000


@dataclass(frozen=True)
class Interval:
    """A share with its interval of 95 %, and how many facts stand behind it."""

    share: float
    low: float
    high: float
    facts: int

    def __str__(self) -> str:
        return f"{self.share:.2f} [{self.low:.2f}, {self.high:.2f}]"


def clustered_interval(right: Sequence[bool], facts: Sequence[Hashable], seed: int = 0) -> Interval:
    """Return the share of right answers with the percentiles of the share over facts drawn with replacement.

    Where all answers are right, or none is, every draw is the same; the interval then is that of Clopper and Pearson
    for as many answers as there are facts.

    Args:
        right: of every question.
        facts: what each question asks about; as many, at least one.
        seed: of the draws.
    """
    places = {fact: place for place, fact in enumerate(dict.fromkeys(facts))}
    count = len(places)
    asked, answered = np.zeros(count), np.zeros(count)
    for fact, each in zip(facts, right, strict=True):
        asked[places[fact]] += 1
        answered[places[fact]] += bool(each)
    share = float(answered.sum() / asked.sum())
    tail = (1 - LEVEL) / 2
    if share in (0.0, 1.0):
        end = tail ** (1 / count)  # of k = n answers: the share p with p^n = tail
        return Interval(share, end, 1.0, count) if share else Interval(share, 0.0, 1 - end, count)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=DRAWS)
    low, high = np.quantile(drawn @ answered / (drawn @ asked), [tail, 1 - tail])
    return Interval(share, float(low), float(high), count)


def recall_interval(answers: Sequence[Row], direction: str, wording: str = "") -> Interval | None:
    """Return the share of right answers about facts that were read one way, with its interval; None without any.

    Args:
        answers: rows of the table `answers` of one or more runs, with the seed of their run in `run_seed`: facts of
            different seeds are different facts.
        direction: forward or reverse.
        wording: of the questions; where it is empty, trained wordings if half of them are, else held-out ones.
    """
    asked = [row for row in answers if row["direction"] == direction and row["group"] != "both"]
    if not wording:
        asked = [row for row in asked if row["wording"] in ("trained", "held_out")]
        trained = sum(row["wording"] == "trained" for row in asked)
        wording = "trained" if 2 * trained >= len(asked) else "held_out"
    asked = [row for row in asked if row["wording"] == wording and "right" in row]
    if not asked:
        return None
    facts = [(row["run_seed"], row.get("fact") or row["prompt"]) for row in asked]
    return clustered_interval([str(row["right"]).lower() == "true" for row in asked], facts)
