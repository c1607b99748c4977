"""Units as pieces of text: `join_units(cut_text("Meet Ada Roe.", [5]))` gives the text back.

A unit is stored without surrounding white space. `join_units` (of `permlab.data.texts`) is the one way back to text;
`cut_text` cuts only where that join restores the text, so that the original order always trains on the original text
(up to runs of white space). This is the identity that every segmentation is checked against (arXiv 2403.00758 asks its
assistant not to add or delete words, and does not check).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise

import regex

from permlab.data.texts.joining import BORDER, join_units, needs_space, normalise

CHANGED_WORDS = "words lost, added or moved"
CHANGED_SPELLING = "punctuation, case or spacing changed"
SPLIT_ENTITY = "protected entity split"
EMPTY_UNIT = "empty unit"
NO_UNITS = "no units"


def cut_text(text: str, cuts: Iterable[int]) -> tuple[str, ...]:
    """Cut `text` at character offsets into units whose join is `normalise(text)`.

    A cut at which the join would add or lose a space (inside a word, before a bracketless dash) is left out.

    Args:
        text: any text, may be empty (no units).
        cuts: offsets from 0 to len(text), in any order; those at the ends and duplicates do nothing.
    """
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(text)}), len(text)]
    units: list[str] = []
    gap = False  # white space stands between the last unit and the piece at hand
    for start, end in pairwise(edges):
        piece = text[start:end]
        unit = normalise(piece)
        gap = gap or piece[:1].isspace()
        if unit:
            # SPT asks its assistant to add and delete nothing; a cut that the join cannot undo would break that here.
            if units and needs_space(units[-1], unit) != gap:
                units[-1] += f" {unit}" if gap else unit
            else:
                units.append(unit)
            gap = False
        gap = gap or piece[-1:].isspace()
    return _until_joined(units, normalise(text))


def _until_joined(units: list[str], text: str) -> tuple[str, ...]:
    """Merge the first boundary whose join deviates from `text`, until none does (a merge can change its neighbour)."""
    while len(units) > 1 and join_units(units) != text:
        at = 0
        for index, (left, right) in enumerate(pairwise(units)):
            at += len(left)
            space = text[at : at + 1] == " "
            if needs_space(left, right) != space:
                units[index : index + 2] = [f"{left} {right}" if space else left + right]
                break
            at += space
    return tuple(units)


def find_spans(text: str, entities: Iterable[str]) -> list[tuple[int, int]]:
    """Return the (start, end) offsets of whole-word occurrences of `entities`, in order and without overlaps.

    Where two entities overlap, the longer one wins ("Ada Roe" before "Ada"). A word of a script that parts no words
    may stand between letters of that script.
    """
    wanted = sorted(
        {entity.strip() for entity in entities if entity.strip()}, key=lambda entity: (-len(entity), entity)
    )
    if not wanted:
        return []
    pattern = "|".join(r"\s+".join(map(regex.escape, entity.split())) for entity in wanted)
    return [match.span() for match in regex.finditer(rf"{BORDER}(?:{pattern}){BORDER}", text)]


def split_by_spans(text: str, spans: Iterable[tuple[int, int]]) -> tuple[str, ...]:
    """Cut `text` into the spans and what stands between them (reference pilot: text before, name, text after)."""
    return cut_text(text, (edge for span in spans for edge in span))


def check_units(text: str, units: Sequence[str], protected: Iterable[str] = ()) -> str | None:
    """Return why `units` are not a segmentation of `text`, or None when they are.

    A segmentation joins to `normalise(text)`, and none of the occurrences of a `protected` entity lies over two units.
    The part of the reason before `: ` is one of this module's constants, for counting.
    """
    if not units:
        return NO_UNITS
    if any(not unit or unit != unit.strip() for unit in units):
        return EMPTY_UNIT
    units = [normalise(unit) for unit in units]
    target, joined = normalise(text), join_units(units)
    # The check that the released SPT data lacks: 2 to 6 % of its celebrity rows have lost the words of their fact.
    if joined != target:
        return CHANGED_SPELLING if word_key(joined) == word_key(target) else CHANGED_WORDS
    steps = [len(units[0])]
    for left, right in pairwise(units):
        steps.append(len(right) + needs_space(left, right))
    ends = list(accumulate(steps))
    for start, end in find_spans(target, protected):
        # What SPT needs of units is that no entity is split: halves of a name would be permuted apart.
        if any(start < cut < end for cut in ends):
            return f"{SPLIT_ENTITY}: {target[start:end]}"
    return None


def word_key(text: str) -> str:
    """Return the letters and digits of `text`, case folded: equal for texts with the same words in the same order."""
    return "".join(character.casefold() for character in text if character.isalnum())


def project_units(text: str, units: Sequence[str]) -> tuple[str, ...] | None:
    """Cut `text` where `units` do, when both have the same letters and digits in the same order; else None.

    Mends a segmentation that lost a full stop or changed a quote: words and punctuation come from `text`.
    """
    if word_key(text) != word_key("".join(units)):
        return None
    ends = set(accumulate(len(word_key(unit)) for unit in units))
    cuts, seen, pending = [], 0, False
    for offset, character in enumerate(text):
        if pending and (character.isspace() or character.isalnum()):
            cuts.append(offset)  # closing punctuation stays on the left of the cut
            pending = False
        if character.isalnum():
            seen += len(character.casefold())
            pending = seen in ends
    return cut_text(text, cuts)


def strip_marks(unit: str) -> str:
    """Return a unit without the punctuation around it."""
    return unit.strip(" ,.;:!?()[]{}'\"‘’“”«»…")


def merge_units(units: Sequence[str], max_units: int, protected: Iterable[str] = ()) -> tuple[str, ...]:
    """Merge neighbours, the shortest joined pair first, until at most `max_units` units are left.

    A unit that is a protected entity (up to punctuation around it) is merged only when no other pair is left.

    Raises:
        ValueError: if `max_units` is below 1.
    """
    if max_units < 1:
        raise ValueError(f"max_units must be at least 1, got {max_units}")
    entities = {normalise(entity) for entity in protected}
    merged = list(units)
    alone = [unit in entities or strip_marks(unit) in entities for unit in merged]
    while len(merged) > max_units:
        pairs = range(len(merged) - 1)
        # An entity must stay apart from what is said of it: within one unit SPT never reverses the two.
        free = [index for index in pairs if not (alone[index] or alone[index + 1])]
        best = min(free or pairs, key=lambda index: len(merged[index]) + len(merged[index + 1]))
        merged[best : best + 2] = [join_units(merged[best : best + 2])]
        alone[best : best + 2] = [alone[best] or alone[best + 1]]
    return tuple(merged)
