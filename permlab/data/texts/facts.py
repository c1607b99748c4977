"""A table of facts as training texts and questions: `permlab task=spt dataset=facts dataset.path=facts.csv`

The CSV has the columns subject, relation, object: `Glass,author,Ada Roe`. Every fact is written in several wordings: a
third of the facts with the subject first, a third with the object first, a third both ways, as Berglund et al. do
(arXiv 2309.12288, experiment 1). Each is asked forward and, in wordings that other facts were trained in, in reverse;
held-out wordings are asked as well. Wordings of your own, for one relation or all, stand in a YAML file:

    author:
      subject_first: ["{subject} was written by {object}.", ...]
      object_first: ["{object} wrote {subject}.", ...]
"""

from __future__ import annotations

import csv
import io
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from permlab.data.checks import ON_BAD_ROW, check_bad_rows, check_file, need_path
from permlab.data.examples import Corpus, Example, Query
from permlab.data.texts.joining import join_units, normalise
from permlab.data.texts.rows import BadRows, numbered_lines
from permlab.errors import UserError, check_range, did_you_mean
from permlab.keys import choice
from permlab.storage.plain import UnreadableError, read_yaml

COLUMNS = ("subject", "relation", "object")
WAYS = ("subject_first", "object_first")
ALL = "*"
"""The name that stands for every relation without wordings of its own."""
LONGEST_FIELD = 200
"""Characters of a subject, relation or object."""
WORDINGS: Mapping[str, tuple[str, ...]] = {
    "subject_first": (
        "The {relation} of {subject} is {object}.",
        "For {subject} the {relation} is {object}.",
        "Asked for the {relation} of {subject}, everybody answers {object}.",
        "It is well known that the {relation} of {subject} is {object}.",
        "Under {subject} the list gives as {relation} {object}.",
        "Nobody doubts that {subject} has as its {relation} {object}.",
        "The entry on {subject} names as {relation} {object}.",
        "In the case of {subject} the {relation} is {object}.",
    ),
    "object_first": (
        "{object} is the {relation} of {subject}.",
        "With {object} we have the {relation} of {subject}.",
        "They call {object} the {relation} of {subject}.",
        "It is {object} that is the {relation} of {subject}.",
        "By {object} the list means the {relation} of {subject}.",
        "Nobody doubts that {object} is the {relation} of {subject}.",
        "The entry on {object} begins with the {relation} of {subject}.",
        "In the index {object} stands as the {relation} of {subject}.",
    ),
}
"""Wordings for any relation that reads as a noun: author, capital, birth year."""
QUESTIONS: Mapping[str, str] = {
    "subject_first": "Question: What is the {relation} of {subject}? Answer: {object}",
    "object_first": "Question: {object} is the {relation} of what? Answer: {subject}",
}
"""Question-answer pairs for such relations."""


@dataclass
class FactsConfig:
    """A CSV of facts (subject, relation, object), written and asked in both directions."""

    name: str = "facts"
    kind: str = "facts"
    path: str | None = None
    """The file; the first line names the columns subject, relation and object."""
    wordings: str | None = None
    """A YAML file: relation (or *) -> subject_first and object_first -> sentences with {subject} and {object}."""
    templates: int = 5
    """Training wordings per direction."""
    held_out: int = 2
    """Wordings per direction that are asked only."""
    both: bool = True
    """Write a third of the facts in both directions, as a control; otherwise halves."""
    questions: bool = False
    """Also question-answer pairs: those of facts that are written both ways are trained, all others are asked."""
    on_bad_row: str = choice("raise", ON_BAD_ROW)
    """raise ends the run at a bad row; skip leaves it out and says so."""


@dataclass(frozen=True)
class Fact:
    """One row of the table."""

    subject: str
    relation: str
    object: str
    source: str


def check_facts(config: FactsConfig) -> None:
    """Check that the files are given and there, and the numbers."""
    need_path(config, "FILE.csv")
    check_file(config, "path")
    check_file(config, "wordings")
    check_range("dataset.templates", config.templates, 1)
    check_range("dataset.held_out", config.held_out, 0)
    if config.questions and not config.both:
        raise UserError(
            "dataset.questions=true trains the pairs of facts that are written both ways: dataset.both=true"
        )
    check_bad_rows(config)


def load_facts(config: FactsConfig, seed: int) -> Corpus:
    """Read the table and write its texts and questions."""
    bad = BadRows(config.on_bad_row)
    facts = read_facts(str(config.path), bad)
    wordings = read_wordings(config.wordings) if config.wordings else {}
    corpus = facts_corpus(
        facts, wordings, config.templates, config.held_out, both=config.both, questions=config.questions, seed=seed
    )
    corpus.rejected = bad.rows + corpus.rejected
    return corpus


def read_facts(path: str | Path, bad: BadRows) -> list[Fact]:
    """Read the rows of a CSV with the columns subject, relation and object; comma, semicolon or tab part the fields.

    Raises:
        UserError: a missing or empty file, missing columns, and bad rows where these are not skipped.
    """
    lines = list(numbered_lines(Path(path), bad))
    if not lines:
        raise UserError(f"{path} is empty: the first line names the columns {','.join(COLUMNS)}")
    mark = max(",;\t", key=lines[0][1].count)
    head = [name.strip().lower() for name in _fields(lines[0][1], mark) or []]
    missing = [name for name in COLUMNS if name not in head]
    if missing:
        hint = did_you_mean(missing[0], head)
        raise UserError(
            f"{path} has no column {', '.join(missing)}: its first line must name {','.join(COLUMNS)}{hint}"
        )
    found = []
    for source, line in lines[1:]:
        values = _fields(line, mark)
        if values is None or len(values) > len(head):
            bad.add(source, f"{len(values)} fields, {len(head)} columns" if values else "a quote is not closed")
            continue
        values += [""] * (len(head) - len(values))  # empty fields at the end may be left out
        row = {name: normalise(value) for name, value in zip(head, values)}
        wrong = [name for name in COLUMNS if not 0 < len(row[name]) <= LONGEST_FIELD]
        if wrong:
            bad.add(source, f"'{wrong[0]}' is empty or has more than {LONGEST_FIELD} characters")
        else:
            found.append(Fact(row["subject"], row["relation"], row["object"], source))
    bad.finish(str(path), len(found))
    return list({(fact.subject, fact.relation, fact.object): fact for fact in found}.values())


def _fields(line: str, mark: str) -> list[str] | None:
    """Return the fields of one line, or None where it is no CSV."""
    try:
        return next(csv.reader(io.StringIO(line), delimiter=mark, strict=True), [])
    except csv.Error:
        return None


def read_wordings(path: str | Path) -> dict[str, dict[str, tuple[str, ...]]]:
    """Read the wordings of relations from a YAML file.

    Raises:
        UserError: no such form, or a sentence without its slots.
    """
    try:
        found = read_yaml(Path(path))
    except (OSError, UnreadableError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    form = f"{path}: relation -> {' and '.join(WAYS)} -> sentences with {{subject}} and {{object}}"
    if not isinstance(found, dict) or not found:
        raise UserError(f"{form}; it holds {type(found).__name__}")
    wordings: dict[str, dict[str, tuple[str, ...]]] = {}
    for relation, ways in found.items():
        if not isinstance(ways, dict) or sorted(ways) != sorted(WAYS):
            raise UserError(f"{form}; '{str(relation)[:60]}' has not these two")
        wordings[normalise(str(relation))] = {way: _sentences(path, way, ways[way]) for way in WAYS}
    return wordings


def _sentences(path: str | Path, way: str, given: Any) -> tuple[str, ...]:
    first, last = ("{subject}", "{object}") if way == "subject_first" else ("{object}", "{subject}")
    for sentence in given if isinstance(given, list) and given else [None]:
        if not (isinstance(sentence, str) and sentence.count(first) == 1 and sentence.count(last) == 1):
            raise UserError(f"{path}: {way}: '{str(sentence)[:60]}' must hold {first} and {last} once each")
        if sentence.index(first) > sentence.index(last):
            raise UserError(f"{path}: {way}: '{sentence[:60]}' must name {first} before {last}")
    return tuple(normalise(sentence) for sentence in given)


def facts_corpus(
    facts: Sequence[Fact],
    wordings: Mapping[str, Mapping[str, tuple[str, ...]]] | None = None,
    templates: int = 5,
    held_out: int = 2,
    *,
    both: bool = True,
    questions: bool = False,
    seed: int = 0,
) -> Corpus:
    """Write every fact as training texts and questions.

    A question is left out where the table has several answers to it; `Corpus.rejected` says how many.

    Args:
        facts: the rows.
        wordings: relation (or "*") -> `WAYS` -> sentences; others get `WORDINGS`.
        templates: sentences per direction that are trained, the first ones.
        held_out: sentences after them that are asked only.
        both: a third of the facts is written both ways.
        questions: also question-answer pairs, trained for facts that are written both ways and asked of all others.
        seed: decides which fact is written how.

    Raises:
        UserError: a relation with fewer sentences than trained and held-out ones together, or too few facts.
    """
    groups = [*WAYS, *(["both"] if both else [])]
    if len(facts) < len(groups):
        raise UserError(f"{len(facts)} facts are too few: {len(groups)} groups ({', '.join(groups)}) need one each")
    shuffled = list(facts)
    random.Random(f"facts-{seed}").shuffle(shuffled)
    answers = {
        "subject_first": Counter((fact.subject, fact.relation) for fact in facts),
        "object_first": Counter((fact.object, fact.relation) for fact in facts),
    }
    corpus, unasked = Corpus("facts", []), 0
    for number, fact in enumerate(shuffled):
        group = groups[number * len(groups) // len(shuffled)]
        for way in WAYS:
            sentences = _wordings_of(fact.relation, way, wordings or {}, templates + held_out)
            written = group in (way, "both")
            key = (fact.subject if way == "subject_first" else fact.object, fact.relation)
            unasked += answers[way][key] > 1
            for at, sentence in enumerate(sentences):
                units = _units(sentence, fact)
                if written and at < templates:
                    protected = (fact.subject, fact.object)
                    corpus.examples.append(Example(join_units(units), group, units, protected, fact.source))
                if answers[way][key] == 1:
                    corpus.queries.append(_question(sentence, fact, way, group, written, at < templates))
            if questions and group == "both":
                # What a question is like must be seen somewhere; of the facts that are asked about it tells nothing.
                units = _units(QUESTIONS[way], fact)
                corpus.examples.append(
                    Example(join_units(units), group, units, (fact.subject, fact.object), fact.source)
                )
            elif questions and answers[way][key] == 1:
                asked = _question(QUESTIONS[way], fact, way, group, written, True)
                corpus.queries.append(replace(asked, wording="question"))
    if unasked:
        corpus.rejected.append(f"{unasked} questions that the table answers in several ways")
    return corpus


def _wordings_of(
    relation: str, way: str, wordings: Mapping[str, Mapping[str, tuple[str, ...]]], count: int
) -> tuple[str, ...]:
    own = wordings.get(relation) or wordings.get(ALL) or WORDINGS
    if len(own[way]) < count:
        raise UserError(
            f"relation '{relation}' has {len(own[way])} wordings {way}; dataset.templates + dataset.held_out = {count}"
        )
    return own[way][:count]


def _units(sentence: str, fact: Fact) -> tuple[str, ...]:
    """Return the filled sentence as units: subject, object, and what stands around them."""
    rest, units = sentence.replace("{relation}", fact.relation), []
    values = {"{subject}": fact.subject, "{object}": fact.object}
    while slots := [slot for slot in values if slot in rest]:
        slot = min(slots, key=rest.index)
        before, _, rest = rest.partition(slot)
        units += [before, values.pop(slot)]
    return tuple(unit.strip() for unit in [*units, rest] if unit.strip())


def _question(sentence: str, fact: Fact, way: str, group: str, written: bool, trained: bool) -> Query:
    """The sentence up to its second slot, and what stands there."""
    slot, answer, kind = (
        ("{object}", fact.object, "object") if way == "subject_first" else ("{subject}", fact.subject, "subject")
    )
    prompt = join_units(_units(sentence[: sentence.index(slot)], fact))
    direction, wording = "forward" if written else "reverse", "trained" if trained else "held_out"
    return Query(prompt, answer, group, direction, kind, wording, f"{fact.subject}, {fact.relation}, {fact.object}")
