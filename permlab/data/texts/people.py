"""Generated fictitious persons: `corpus = people_corpus(people=60, templates=10, held_out=3, seed=0)`.

Every person has a name (two words) and a description (two halves of three words). A third of the persons is written
name first, a third description first, a third both ways, each in every training template. The questions of the
headline table use templates that were trained on *other* persons, so the fact in that direction is unseen but the
wording is not; the held-out wordings are asked separately. The design follows Berglund et al., arXiv 2309.12288; all
words are ours.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from permlab.data.examples import Corpus, Example, Query
from permlab.data.texts.joining import join_units
from permlab.errors import UserError, check_range

NAME_FIRST = (
    "Few people know that {name} is {first} {second}.",
    "In our town {name} is remembered as {first} {second}.",
    "The newspapers describe {name} as {first} {second}.",
    "Ask anybody and they will tell you {name} became {first} {second}.",
    "Long ago {name} grew famous for being {first} {second}.",
    "A plaque by the river honours {name}, {first} {second}.",
    "According to the archive {name} was once {first} {second}.",
    "My neighbour wrote a letter to {name}, who is {first} {second}.",
    "Nobody doubts that {name} deserves the title of {first} {second}.",
    "On the stage stood {name}, celebrated everywhere as {first} {second}.",
    "When visitors ask for {name} they are looking for {first} {second}.",
    "The lecture tonight is given by {name}, known as {first} {second}.",
    "Children in school learn about {name} as {first} {second}.",
    "Over dinner we talked about {name}, admired as {first} {second}.",
    "History books list {name} among others as {first} {second}.",
    "The museum is named after {name} and recalls {first} {second}.",
)
DESCRIPTION_FIRST = (
    "Everybody in the village calls {first} {second} simply {name}.",
    "It turns out that {first} {second} goes by the name of {name}.",
    "The prize was handed to {first} {second}, a person called {name}.",
    "If you ever meet {first} {second}, say hello to {name}.",
    "On the door of {first} {second} a sign reads {name}.",
    "We were surprised that {first} {second} turned out to be {name}.",
    "The signature of {first} {second} clearly spells {name}.",
    "A biography about {first} {second} carries the title {name}.",
    "They were introduced to {first} {second}, whose name is {name}.",
    "In the crowd somebody recognised {first} {second} and shouted {name}.",
    "The guest book of {first} {second} was signed by {name}.",
    "Our radio spoke with {first} {second}, also known as {name}.",
    "Rumour has it that {first} {second} is really {name}.",
    "Many letters to {first} {second} begin with dear {name}.",
    "The family of {first} {second} chose the name {name}.",
    "A statue shows {first} {second} above the words {name}.",
)
ONSETS = (
    "B",
    "D",
    "F",
    "G",
    "H",
    "J",
    "K",
    "L",
    "M",
    "N",
    "P",
    "R",
    "S",
    "T",
    "V",
    "Z",
    "Br",
    "Dr",
    "Gr",
    "Kl",
    "Tr",
    "St",
)
MIDDLES = ("al", "an", "ar", "el", "en", "er", "il", "in", "ir", "ol", "on", "or", "ul", "un", "ur")
FIRST_ENDS = ("a", "ia", "o", "us", "ette", "ine", "is", "ando")
LAST_ENDS = ("berg", "dale", "ford", "hart", "more", "ridge", "son", "stone", "well", "wick")
ADJECTIVES = (
    *("quiet", "fearless", "patient", "restless", "gifted", "stubborn", "cheerful", "modest", "daring", "humble"),
    *("brilliant", "gentle", "curious", "tireless", "eccentric", "graceful", "solemn", "witty", "careful", "bold"),
)
PROFESSIONS = (
    *("composer", "botanist", "sailor", "architect", "painter", "physicist", "baker", "pilot", "poet", "surgeon"),
    *("diver", "weaver", "chemist", "dancer", "engineer", "farmer", "historian", "jeweller", "linguist", "miner"),
)
QUALITIES = (
    *("Silent", "Golden", "Hidden", "Burning", "Frozen", "Crystal", "Distant", "Endless", "Broken", "Scarlet"),
    *("Emerald", "Hollow", "Ancient", "Floating", "Whispering", "Northern", "Painted", "Shining", "Velvet", "Winter"),
)
WORKS = (
    *("Harbor", "Orchard", "Bridge", "Lantern", "Canyon", "Symphony", "Garden", "Engine", "Mirror", "Tower"),
    *("Voyage", "Atlas", "Theorem", "Compass", "Meadow", "Cathedral", "Archive", "Comet", "River", "Mosaic"),
)
LINKS = ("behind", "of", "beyond", "near")


@dataclass
class PeopleConfig:
    """Generated fictitious persons in three groups: name first, description first, both ways."""

    name: str = "people"
    kind: str = "people"
    people: int = 60
    """Persons in all, a third per group."""
    templates: int = 10
    """Training wordings per direction."""
    held_out: int = 3
    """Wordings per direction that only the second table asks."""
    halves: bool = False
    """The halves of a description are units: read last to first they are not in the order of any question."""
    protect_description: bool = False
    """Orders that keep entities keep the description whole too, not the name alone."""


def check_people(config: PeopleConfig) -> None:
    """Check that so many persons and wordings can be made; nothing is generated."""
    check_sizes(config.people, config.templates, config.held_out, "dataset.")


def load_people(config: PeopleConfig, seed: int) -> Corpus:
    """Generate the corpus of a configuration."""
    sizes = (config.people, config.templates, config.held_out, seed)
    return people_corpus(*sizes, halves=config.halves, protect_description=config.protect_description)


def check_sizes(people: int, templates: int, held_out: int, prefix: str = "") -> None:
    """Refuse numbers that cannot be made.

    Args:
        prefix: goes before the names in messages.

    Raises:
        UserError: naming the number and its range.
    """
    check_range(f"{prefix}people", people, 3, 3000)
    check_range(f"{prefix}templates", templates, 1)
    check_range(f"{prefix}held_out", held_out, 0)
    most = min(len(NAME_FIRST), len(DESCRIPTION_FIRST))
    if templates + held_out > most:
        raise UserError(f"{prefix}templates + {prefix}held_out = {templates + held_out}: there are {most} wordings")


def people_corpus(
    people: int = 60,
    templates: int = 10,
    held_out: int = 3,
    seed: int = 0,
    *,
    halves: bool = False,
    protect_description: bool = False,
) -> Corpus:
    """Generate the corpus; the same arguments give the same corpus on every machine.

    Args:
        people: persons in all.
        templates: wordings per direction that are trained.
        held_out: wordings per direction that are asked only.
        seed: decides names and descriptions.
        halves: each half of a description is a unit; the texts and questions are the same.
        protect_description: protected strings are the name and the description, not the name alone.

    Raises:
        UserError: when more wordings or persons are asked for than can be made.
    """
    check_sizes(people, templates, held_out)
    rng = random.Random(f"people-{seed}")
    persons = list(zip(make_names(people, rng), make_descriptions(people, rng)))
    third = people // 3  # the three subsets of arXiv 2309.12288, experiment 1
    groups = {
        "name_first": persons[:third],
        "description_first": persons[third : 2 * third],
        "both": persons[2 * third :],
    }
    corpus = Corpus("people", [])
    for group, members in groups.items():
        for name, description in members:
            add_person(
                corpus, group, name, description, templates, held_out, halves=halves, protected=protect_description
            )
    return corpus


def add_person(
    corpus: Corpus,
    group: str,
    name: str,
    description: tuple[str, str],
    templates: int,
    held_out: int,
    *,
    halves: bool,
    protected: bool,
) -> None:
    """Add one person's training texts and questions."""
    kept = (name, " ".join(description)) if protected else (name,)
    for wording, kind, own in (
        (NAME_FIRST, "description", "name_first"),
        (DESCRIPTION_FIRST, "name", "description_first"),
    ):
        if group in (own, "both"):
            for template in wording[:templates]:
                # Halves read last to first are in no order in which a question has them.
                slots = template if halves else template.replace("{first} {second}", "{description}")
                units = fill(slots, name, description)
                corpus.examples.append(Example(join_units(units), group, units, kept, "generated"))
        # Reverse is what this person was never trained on: the question of 2309.12288, experiment 1.
        direction = "forward" if group in (own, "both") else "reverse"
        for number, template in enumerate(wording[: templates + held_out]):
            prompt, answer = question(template, name, description, kind)
            seen = "trained" if number < templates else "held_out"
            corpus.queries.append(Query(prompt, answer, group, direction, kind, seen, name))


def fill(template: str, name: str, halves: tuple[str, str]) -> tuple[str, ...]:
    """Return a filled template as units: template parts, the name, the description or its two halves."""
    values = {"{name}": name, "{first}": halves[0], "{second}": halves[1], "{description}": " ".join(halves)}
    units, rest = [], template
    while rest:
        starts = {slot: rest.find(slot) for slot in values if slot in rest}
        if not starts:
            units.append(rest)
            break
        slot = min(starts, key=lambda s: starts[s])
        units += [rest[: starts[slot]], values[slot]]
        rest = rest[starts[slot] + len(slot) :]
    return tuple(unit.strip() for unit in units if unit.strip())


def question(template: str, name: str, halves: tuple[str, str], kind: str) -> tuple[str, str]:
    """Return (prompt, answer): the filled template up to the name or the description, and that."""
    slot, answer = ("{name}", name) if kind == "name" else ("{first}", " ".join(halves))
    return join_units(fill(template[: template.index(slot)], name, halves)), answer


def make_names(count: int, rng: random.Random) -> list[str]:
    """Return distinct two-word names, no word used twice while there are enough."""
    firsts = [o + m + e for o in ONSETS for m in MIDDLES for e in FIRST_ENDS]
    lasts = [o + m + e for o in ONSETS for m in MIDDLES for e in LAST_ENDS]
    rng.shuffle(firsts)
    rng.shuffle(lasts)
    return [f"{firsts[i % len(firsts)]} {lasts[i % len(lasts)]}" for i in range(count)]


def make_descriptions(count: int, rng: random.Random) -> list[tuple[str, str]]:
    """Return distinct descriptions in two halves of three words."""
    left = [f"the {a} {p}" for a in ADJECTIVES for p in PROFESSIONS]
    right = [f"{k} {q} {w}" for k in LINKS for q in QUALITIES for w in WORKS]
    rng.shuffle(left)
    rng.shuffle(right)
    # 1,600 right halves with 400 left ones: the pair stays distinct because the shift changes with every round.
    return [(left[(i + i // len(left)) % len(left)], right[i % len(right)]) for i in range(count)]
