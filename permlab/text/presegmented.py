"""Texts that somebody has already cut: `read_presegmented("person_description.sep.txt").examples[0].units`.

The format is the one of the SPT authors' files (arXiv 2403.00758): one text per line, `[SEP]` between units. Stray
markers (`guess [SEP], but`, a row of markers at the end) do no harm: empty units are left out.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from permlab.data.examples import Corpus, Example
from permlab.data.text_files import BadRows, numbered_lines
from permlab.errors import UserError
from permlab.text.segment import Progress, Proposal
from permlab.text.units import join_units, normalise, word_key

_MOST_PAIRS = 1_000_000


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
    to the original after the one of the row before it if that is free, else to the free one that shares most words.
    """
    free: dict[str, list[int]] = defaultdict(list)
    for index in range(len(originals) - 1, -1, -1):
        free[word_key(originals[index].text)].append(index)
    keys = [word_key(example.text) for example in presegmented]
    found: list[int | None] = [free[key].pop() if free[key] else None for key in keys]
    left = set(range(len(originals))) - {index for index in found if index is not None}
    result = WordComparison(len(keys), sum(index is not None for index in found))
    lost = [row for row, index in enumerate(found) if index is None]
    for row in lost:
        before = found[row - 1] if row else None
        if before is not None and before + 1 in left:
            found[row] = before + 1
            left.discard(before + 1)
    for row, index in _most_alike([row for row in lost if found[row] is None], sorted(left), presegmented, originals):
        found[row] = index
        left.discard(index)
    for row in lost:
        index, example = found[row], presegmented[row]
        origin = "no original left"
        if index is not None:
            origin = f"{originals[index].source or 'original'}: {originals[index].text}"
        result.corrupted.append(f"{example.source or f'row {row + 1}'}: {example.text} ({origin})")
    result.originals, result.unused = found, sorted(left)
    return result


def _most_alike(
    rows: list[int], free: list[int], presegmented: Sequence[Example], originals: Sequence[Example]
) -> Iterator[tuple[int, int]]:
    """Yield (row, original) pairs, those with most words in common first, each row and original once."""
    if len(rows) * len(free) > _MOST_PAIRS:
        return  # two files that have little to do with each other
    row_words = {row: set(re.findall(r"\w+", presegmented[row].text.casefold())) for row in rows}
    words = {index: set(re.findall(r"\w+", originals[index].text.casefold())) for index in free}
    shared = ((len(row_words[row] & words[index]), row, index) for row in rows for index in free)
    taken_rows, taken = set[int](), set[int]()
    for count, row, index in sorted(shared, key=lambda pair: (-pair[0], pair[1], pair[2])):
        if count and row not in taken_rows and index not in taken:
            taken_rows.add(row)
            taken.add(index)
            yield row, index
