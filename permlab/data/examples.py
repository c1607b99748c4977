"""What every text dataset gives to `permlab task=spt`: training texts, their units, and the questions to ask.

Offsets are character offsets into `Example.text`. A unit is a piece of text that a unit order may move as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Example:
    """One training text.

    `units`: the pieces the dataset itself knows, in reading order, or None; joined by `data.texts.join_units` they give
    back `text`. `protected`: strings that no segmenter may split (entities). `source`: file and line, for messages.
    """

    text: str
    group: str = ""
    units: tuple[str, ...] | None = None
    protected: tuple[str, ...] = ()
    source: str = ""


@dataclass(frozen=True)
class Query:
    """One question: the model continues `prompt`; the answer is right when the continuation starts with `answer`.

    `direction`: "forward" (the order of the training text) or "reverse". `kind`: what is asked for ("name",
    "description", "entity"). `wording`: "trained", "held_out" (a template nobody was trained on), "question" (a
    question-answer pair) or "in_text" (a text as it was trained, with the answer covered). `fact`: what is asked about,
    where the data set knows it: questions about one fact are no independent ones. `after`: what stands behind the
    answer, which only a model that reads both sides is shown.
    """

    prompt: str
    answer: str
    group: str
    direction: str
    kind: str
    wording: str = "trained"
    fact: str = ""
    after: str = ""


@dataclass
class Corpus:
    """Training texts and queries of one dataset; `rejected` holds one line per row that a reader dropped."""

    name: str
    examples: list[Example]
    queries: list[Query] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)


def limit_examples(corpus: Corpus, limit: int | None) -> Corpus:
    """Keep at most `limit` training texts, the first ones; all queries stay."""
    return corpus if limit is None else replace(corpus, examples=corpus.examples[:limit])


def limit_queries(queries: Sequence[Query], limit: int | None) -> list[Query]:
    """Keep at most `limit` queries per wording, direction, group and kind, spread evenly over each."""
    if limit is None:
        return list(queries)
    groups: dict[tuple[str, ...], list[Query]] = {}
    for query in queries:
        groups.setdefault((query.wording, query.direction, query.group, query.kind), []).append(query)
    kept = []
    for items in groups.values():
        step = max(1, len(items) / limit)
        kept += [items[int(i * step)] for i in range(min(limit, len(items)))]
    return kept
