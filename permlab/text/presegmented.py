"""Units that somebody has already cut: `PresegmentedSegmenter(read_presegmented("person_description.sep.txt"))`.

The SPT authors' released files (arXiv 2403.00758) are such segmentations; `compare_words` says which of their rows no
longer hold the words of the original.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from permlab.data.examples import Corpus, Example
from permlab.data.texts.presegmented import read_presegmented
from permlab.errors import UserError
from permlab.text.segment import Progress, Proposal
from permlab.text.settings import SegmenterSettings, check_settings_file
from permlab.text.units import word_key

if TYPE_CHECKING:
    from permlab.data.table import DataRow

_MOST_PAIRS = 1_000_000


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


def make_presegmented(settings: SegmenterSettings, device: str, cache: str | None) -> PresegmentedSegmenter:
    """For `SEGMENTERS`."""
    return PresegmentedSegmenter(read_presegmented(settings.units) if settings.units else None)


def check_presegmented(settings: SegmenterSettings, data: DataRow, prefix: str) -> None:
    """Check that the units come from a file that is there, or from the data set.

    Raises:
        UserError: naming the setting.
    """
    if not settings.units and data.segmenter != PresegmentedSegmenter.name:
        raise UserError(f"{prefix}name=presegmented needs {prefix}units=FILE or dataset=presegmented")
    check_settings_file(settings, "units", prefix)


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
    # Backwards, so that pop() hands out equal texts in reading order.
    for index in range(len(originals) - 1, -1, -1):
        free[word_key(originals[index].text)].append(index)
    keys = [word_key(example.text) for example in presegmented]
    found: list[int | None] = [free[key].pop() if free[key] else None for key in keys]
    left = set(range(len(originals))) - {index for index in found if index is not None}
    result = WordComparison(len(keys), sum(index is not None for index in found))
    lost = [row for row, index in enumerate(found) if index is None]
    for row in lost:
        before = found[row - 1] if row else None
        # Bad rows of SPT's files mostly hold a demonstration instead: their neighbour tells the place, their words not.
        if before is not None and before + 1 in left:
            found[row] = before + 1
            left.discard(before + 1)
    for row, index in _most_alike([row for row in lost if found[row] is None], sorted(left), presegmented, originals):
        found[row] = index
        left.discard(index)
    for row in lost:
        place, example = found[row], presegmented[row]
        origin = "no original left"
        if place is not None:
            origin = f"{originals[place].source or 'original'}: {originals[place].text}"
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
