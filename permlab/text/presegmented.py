"""Texts that somebody has already cut: `read_presegmented("person_description.sep.txt").examples[0].units`.

The format is the one of the SPT authors' files (arXiv 2403.00758): one text per line, `[SEP]` between units. Stray
markers (`guess [SEP], but`, a row of markers at the end) do no harm: empty units are left out.
"""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from permlab.data.examples import Corpus, Example
from permlab.data.text_files import BadRows, numbered_lines
from permlab.errors import UserError
from permlab.text.segment import Progress, Proposal
from permlab.text.units import join_units, normalise, word_key


def split_marked(text: str, separator: str = "[SEP]") -> tuple[str, ...]:
    """Split at the separator, in any case and with white space inside its brackets; empty units are left out."""
    marker = r"\s*".join(re.escape(piece) for piece in re.findall(r"\w+|\S", separator)) or re.escape(separator)
    return tuple(unit for piece in re.split(marker, text, flags=re.IGNORECASE) if (unit := normalise(piece)))


def read_presegmented(path: str | Path, separator: str = "[SEP]", *, on_bad_row: str = "raise") -> Corpus:
    """Read one text per line with `separator` between units; a line without one is a text of one unit.

    Blank lines are passed over. A line of nothing but separators, or not in UTF-8, is a bad row.

    Raises:
        UserError: for a missing or empty file, an empty separator, and bad rows with `on_bad_row="raise"`.
    """
    if not separator:
        raise UserError("separator is empty: name the marker between units, such as [SEP]")
    bad = BadRows(on_bad_row)
    examples = []
    for source, line in numbered_lines(Path(path), bad):
        units = split_marked(line, separator)
        if units:
            examples.append(Example(join_units(units), units=units, source=source))
        else:
            bad.add(source, "only separators, no text")
    bad.finish(str(path), len(examples))
    return Corpus("presegmented", examples, rejected=bad.rows)


class PresegmentedSegmenter:
    """Units that were read from a `[SEP]` file: the example's own, or looked up in `corpus` by the words of the text.

    Lookup ignores case, spacing and punctuation; `segment_corpus` then takes those back from the text.
    """

    name = "presegmented"

    def __init__(self, corpus: Corpus | None = None) -> None:
        self._units = {word_key(example.text): example.units for example in corpus.examples} if corpus else None

    def propose(self, examples: Sequence[Example], *, seed: int, progress: Progress | None = None) -> list[Proposal]:
        """Return the units found for each text."""
        if self._units is None:
            return [Proposal(example.units or (), "the dataset has no segmentation") for example in examples]
        found = (self._units.get(word_key(example.text)) for example in examples)
        return [Proposal(units or (), "no row with these words in the segmentation file") for units in found]


@dataclass
class WordComparison:
    """Rows of a segmentation against the texts that they were made from.

    `rows`: rows compared. `matched`: rows with the words of an original. `corrupted`: one line per other row, `source:
    what it has (where it should be: the original)`. `originals[i]`: index of the original of row i, or None. `unused`:
    indices of originals that no row belongs to.
    """

    rows: int
    matched: int
    corrupted: list[str] = field(default_factory=list)
    originals: list[int | None] = field(default_factory=list)
    unused: list[int] = field(default_factory=list)


def compare_words(presegmented: Sequence[Example], originals: Sequence[Example]) -> WordComparison:
    """Find the rows whose words are no longer those of the original, wherever the original stands.

    The two need not be in the same order: rows are matched by their letters and digits. A row without a match belongs
    to the original after the one of the row before it if that is free, else to the most similar free one.
    """
    free: dict[str, list[int]] = defaultdict(list)
    for index in range(len(originals) - 1, -1, -1):
        free[word_key(originals[index].text)].append(index)
    keys = [word_key(example.text) for example in presegmented]
    found: list[int | None] = [free[key].pop() if free[key] else None for key in keys]
    left = set(range(len(originals))) - {index for index in found if index is not None}
    result = WordComparison(len(keys), sum(index is not None for index in found))
    for row, example in enumerate(presegmented):
        if found[row] is not None:
            continue
        index = _closest(example.text, found[row - 1] if row else None, left, originals)
        found[row] = index
        left.discard(-1 if index is None else index)
        origin = (
            f"{originals[index].source or 'original'}: {originals[index].text}"
            if index is not None
            else "no original left"
        )
        result.corrupted.append(f"{example.source or f'row {row + 1}'}: {example.text} ({origin})")
    result.originals, result.unused = found, sorted(left)
    return result


def _closest(text: str, before: int | None, left: set[int], originals: Sequence[Example]) -> int | None:
    """Return the free original that a corrupted row stands for, None when none is free."""
    if before is not None and before + 1 in left:
        return before + 1
    words = text.split()
    scores = {index: difflib.SequenceMatcher(None, words, originals[index].text.split()).ratio() for index in left}
    return max(sorted(scores), key=scores.__getitem__, default=None)
