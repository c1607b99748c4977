"""Entity pairs under a relation and its inverse: `corpus = symbolic_corpus(pairs=400, entity_words=2, seed=0)`.

An entity is L words; a word is two sub-tokens of a small alphabet, so that reversing tokens and reversing words
differ. Half of the pairs are trained in both directions, half forward only; the questions of interest ask the inverse
relation of the forward-only half, where chance is about zero. After the symbolic task of Golovneva et al., arXiv
2403.13799.

`forms="matrix"` writes the surface forms of SPT's diagnosis (arXiv 2403.00758): which entity comes first x which
relation word is used. The asked pairs are trained in one form only and asked in all four; the other half is trained
in all four.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from permlab.data.examples import Corpus, Example, Query
from permlab.errors import UserError, check_choice, check_range
from permlab.keys import choice

SYLLABLES = tuple(c + v for c in ("B", "D", "F", "G", "K", "L", "M", "N", "P", "R", "S", "T") for v in "aeiou")
INVERSE = ("{a} has a feature {b}", "{b} is a feature of {a}")
MATRIX = (
    ("{a} has the parent {b}", "child first, parent of"),
    ("{a} is a child of {b}", "child first, child of"),
    ("{b} is a parent of {a}", "parent first, parent of"),
    ("{b} has the child {a}", "parent first, child of"),
)
FORMS = ("inverse", "matrix")
"""Ways to write a pair: see `SymbolicConfig.forms`."""


@dataclass
class SymbolicConfig:
    """Entity pairs under a relation and its inverse."""

    name: str = "symbolic"
    kind: str = "symbolic"
    pairs: int = 400
    """Entity pairs; half are trained in both directions, half forward only."""
    entity_words: int = 2
    """Words per entity; a word is two sub-tokens."""
    symbols: int = 24
    """Alphabet of sub-tokens."""
    forms: str = choice("inverse", FORMS)
    """inverse: a relation and its inverse; matrix: four surface forms, first entity x relation word."""
    train_form: int = 0
    """forms=matrix: the surface form trained for the asked pairs (0..3)."""


def check_symbolic(config: SymbolicConfig) -> None:
    """Check that so many distinct entities can be made; nothing is generated."""
    sizes = (config.pairs, config.entity_words, config.symbols, config.forms, config.train_form)
    check_sizes(*sizes, prefix="dataset.")


def load_symbolic(config: SymbolicConfig, seed: int) -> Corpus:
    """Generate the corpus of a configuration."""
    sizes = (config.pairs, config.entity_words, config.symbols, config.forms, config.train_form)
    return symbolic_corpus(*sizes, seed)


def check_sizes(
    pairs: int, entity_words: int, symbols: int, forms: str = "inverse", train_form: int = 0, prefix: str = ""
) -> None:
    """Refuse sizes that cannot be made.

    Args:
        prefix: goes before the names in messages.

    Raises:
        UserError: naming the number and its range.
    """
    check_range(f"{prefix}symbols", symbols, 2, len(SYLLABLES))
    check_range(f"{prefix}pairs", pairs, 2)
    check_range(f"{prefix}entity_words", entity_words, 1)
    check_choice(f"{prefix}forms", forms, FORMS)
    check_range(f"{prefix}train_form", train_form, 0, len(MATRIX) - 1)
    # Random entities are drawn until enough are distinct: half of all possible ones is the most that stays quick.
    if 2 * pairs > 0.5 * float(symbols) ** (2 * entity_words):
        raise UserError(
            f"{symbols} symbols make too few entities of {entity_words} words for {pairs} pairs; add symbols"
        )


def symbolic_corpus(
    pairs: int = 400,
    entity_words: int = 2,
    symbols: int = 24,
    forms: str = "inverse",
    train_form: int = 0,
    seed: int = 0,
) -> Corpus:
    """Generate the corpus; the same arguments give the same corpus on every machine.

    Raises:
        UserError: when the alphabet is too small for that many distinct entities, or an argument is out of range.
    """
    check_sizes(pairs, entity_words, symbols, forms, train_form)
    rng = random.Random(f"symbolic-{seed}")
    entities = make_entities(2 * pairs, entity_words, symbols, rng)
    corpus = Corpus("symbolic", [])
    for number, (a, b) in enumerate(zip(entities[:pairs], entities[pairs:])):
        # The other half shows both directions, from which the inverse relation itself can be learnt (2403.13799).
        asked = number < pairs // 2
        if forms == "matrix":
            add_matrix_pair(corpus, a, b, asked, train_form)
        else:
            add_inverse_pair(corpus, a, b, asked)
    return corpus


def make_entities(count: int, words: int, symbols: int, rng: random.Random) -> list[str]:
    """Return distinct entities of `words` words of two syllables each."""
    alphabet = rng.sample(SYLLABLES, symbols)
    found: dict[str, None] = {}
    while len(found) < count:
        found[" ".join(rng.choice(alphabet) + rng.choice(alphabet) for _ in range(words))] = None
    return list(found)


def add_inverse_pair(corpus: Corpus, a: str, b: str, forward_only: bool) -> None:
    """Add the texts and the two questions of one pair."""
    group = "forward_only" if forward_only else "both"
    for number, template in enumerate(INVERSE):
        # arXiv 2403.13799: the inverse relation of these pairs is asked and never trained.
        if number == 0 or not forward_only:
            corpus.examples.append(example(template, a, b, group))
        direction = "reverse" if number == 1 and forward_only else "forward"
        corpus.queries.append(query(template, a, b, group, direction))


def add_matrix_pair(corpus: Corpus, a: str, b: str, asked: bool, train_form: int) -> None:
    """Add the texts of one pair, and its questions in all four forms when it is an asked one."""
    for number, (template, name) in enumerate(MATRIX):
        # arXiv 2403.00758's diagnosis: a fact that is trained in one form only is asked in all four.
        if not asked or number == train_form:
            corpus.examples.append(example(template, a, b, "asked" if asked else "all_forms"))
        if asked:
            # By which entity comes first: if logic failed and not word order, forms that share it would fail as well.
            direction = "forward" if number // 2 == train_form // 2 else "reverse"
            corpus.queries.append(query(template, a, b, name, direction))


def example(template: str, a: str, b: str, group: str) -> Example:
    """Return a training text with its units: entity, relation, entity."""
    first, relation, second = split(template, a, b)
    return Example(f"{first} {relation} {second}", group, (first, relation, second), (a, b), "generated")


def query(template: str, a: str, b: str, group: str, direction: str) -> Query:
    """Return the question for the second entity of a form."""
    first, relation, second = split(template, a, b)
    return Query(f"{first} {relation}", second, group, direction, "entity", fact=f"{a}, {b}")


def split(template: str, a: str, b: str) -> tuple[str, str, str]:
    """Return (first entity, relation words, second entity)."""
    relation = template[4:-4]
    return (a, relation, b) if template.startswith("{a}") else (b, relation, a)
