"""Segmenters behind one interface: `segment_corpus(corpus.examples, EntitySegmenter(), max_units=5).mean_units`.

A segmenter proposes units; `segment_corpus` repairs, checks, merges and counts. Nothing that it returns fails
`units.check_units`, whoever proposed it: the released segmentation of arXiv 2403.00758 was not checked, and 0.4 to 6 %
of its rows no longer hold the original words.
"""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from permlab.data.examples import Example
from permlab.data.texts.joining import normalise
from permlab.errors import UserError
from permlab.text.table import ON_MISMATCH, SEGMENTERS
from permlab.text.units import (
    NO_UNITS,
    check_units,
    cut_text,
    find_spans,
    merge_units,
    project_units,
    strip_marks,
)

if TYPE_CHECKING:
    from permlab.data.table import DataRow
    from permlab.text.settings import SegmenterSettings

Progress = Callable[[int, int], None]
"""Called with (texts done, texts in all)."""


@dataclass(frozen=True)
class Proposal:
    """What a segmenter says about one text, not checked yet.

    `units`: the pieces in reading order, empty when there is none; then `reason` says why. `entities`: protected
    strings that the segmenter found itself; they join `Example.protected`.
    """

    units: tuple[str, ...] = ()
    reason: str = ""
    entities: tuple[str, ...] = ()


class Segmenter(Protocol):
    """Proposes units for texts. One with a true attribute `blind` is not told, or checked by, what the data set knows:
    names that come from the answers of a test are an oracle."""

    name: str

    def propose(self, examples: Sequence[Example], *, seed: int, progress: Progress | None = None) -> list[Proposal]:
        """Return one proposal per example, in order, the same for the same `seed`."""
        ...


@dataclass
class SegmentedCorpus:
    """Checked result of `segment_corpus`.

    `examples`: with units; texts dropped are missing. `ok`: accepted as proposed, `repaired` of them with punctuation
    or case taken back from the text, `merged` of them shortened to `max_units`. `fallback`: kept whole as one unit.
    `reasons`: failed texts by reason. `failures`: one line per failed text. `histogram`: units per text -> texts.
    `extra`: the segmenter's own counts (requests, answers from the cache). `seconds`: wall time of the proposals.
    `known`: per text, the entities that the data set knows, or those that were found where it knows none.
    """

    segmenter: str
    examples: list[Example]
    ok: int = 0
    repaired: int = 0
    merged: int = 0
    fallback: int = 0
    dropped: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    histogram: dict[int, int] = field(default_factory=dict)
    extra: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    known: list[tuple[str, ...]] = field(default_factory=list)

    @property
    def mean_units(self) -> float:
        """Units per text, averaged over the texts kept (nan without texts)."""
        texts = sum(self.histogram.values())
        return sum(units * count for units, count in self.histogram.items()) / texts if texts else float("nan")

    @property
    def name_isolated(self) -> float | None:
        """Share of the known entities in the texts that stand alone in a unit, up to punctuation; None without any.

        A name in one unit with what is said of it never changes places with it.
        """
        alone = [
            any(strip_marks(unit) == entity for unit in example.units or ())
            for example, known in zip(self.examples, self.known)
            for entity in {normalise(each) for each in known}
            if find_spans(example.text, [entity])
        ]
        return sum(alone) / len(alone) if alone else None

    @property
    def counts(self) -> dict[str, int]:
        """Flat counts for a table: texts, ok, repaired, merged, fallback, dropped."""
        texts = self.ok + self.fallback + self.dropped
        names = ("ok", "repaired", "merged", "fallback", "dropped")
        return {"texts": texts, **{name: getattr(self, name) for name in names}}


def segment_corpus(
    examples: Sequence[Example],
    segmenter: Segmenter,
    *,
    max_units: int | None = None,
    on_mismatch: str = "fallback",
    seed: int = 0,
    progress: Progress | None = None,
) -> SegmentedCorpus:
    """Segment every text and check the result.

    A proposal with the right words but other punctuation is repaired from the text. One that still fails is a mismatch:
    `fallback` keeps the text as one unit, `drop` leaves it out, `raise` stops.

    Args:
        examples: the texts; their `protected` entities are never split.
        max_units: merge neighbours until no text has more units (None: leave them).
        on_mismatch: fallback | drop | raise.
        seed: for segmenters that draw.
        progress: called with (done, total) while the segmenter works.

    Raises:
        UserError: for an unknown `on_mismatch`, `max_units` below 1, and a mismatch with `on_mismatch="raise"`.
    """
    mismatch = ON_MISMATCH.check("on_mismatch", on_mismatch)
    if max_units is not None and max_units < 1:
        raise UserError(f"max_units={max_units} is out of range: it must be at least 1, or null for no limit")
    started = time.perf_counter()
    proposals = segmenter.propose(examples, seed=seed, progress=progress)
    result = SegmentedCorpus(segmenter.name, [], seconds=time.perf_counter() - started)
    stats: Callable[[], Mapping[str, float]] | None = getattr(segmenter, "stats", None)
    result.extra = dict(stats()) if stats else {}
    reasons: Counter[str] = Counter()
    histogram: Counter[int] = Counter()
    for example, proposal in zip(examples, proposals, strict=True):
        own = () if getattr(segmenter, "blind", False) else example.protected
        protected = tuple(dict.fromkeys((*own, *proposal.entities)))
        units, reason = _settle(example, proposal, protected, result)
        if reason:
            reasons[reason.partition(":")[0]] += 1
            result.failures.append(f"{example.source or 'text'}: {reason} ({_excerpt(example.text)})")
            if mismatch.stops:
                remedy = "on_mismatch=fallback keeps such texts whole, on_mismatch=drop leaves them out"
                raise UserError(f"segmenter {segmenter.name}: {result.failures[-1]}; {remedy}")
            if not mismatch.keeps:
                result.dropped += 1
                continue
            result.fallback += 1
            # As SPT's clean-up does: a single unit has one order only, so a bad segmentation costs no words.
            units = (normalise(example.text),)
        elif max_units is not None and len(units) > max_units:
            units = merge_units(units, max_units, protected)
            result.merged += 1
        histogram[len(units)] += 1
        result.examples.append(replace(example, units=units, protected=protected))
        result.known.append(example.protected or protected)
    result.reasons, result.histogram = dict(reasons.most_common()), dict(sorted(histogram.items()))
    return result


def segment_texts(
    examples: Sequence[Example],
    settings: SegmenterSettings,
    kind: str,
    seed: int,
    *,
    segmenter: Segmenter | None = None,
    progress: Progress | None = None,
) -> SegmentedCorpus:
    """Segment texts as the settings say; see `segment_corpus`. `segmenter`: already made by `make_segmenter`."""
    return segment_corpus(
        examples,
        segmenter or make_segmenter(settings, kind),
        max_units=settings.max_units,
        on_mismatch=settings.on_mismatch,
        seed=seed,
        progress=progress,
    )


def check_segmented(segmented: SegmentedCorpus, settings: SegmenterSettings, prefix: str = "") -> None:
    """Refuse a segmentation that leaves too many texts whole: training on them is training in the original order.

    Raises:
        UserError: with the counts and the remedies.
    """
    texts = len(segmented.examples)
    if not texts:
        raise UserError(f"segmenter {segmented.segmenter} left no text; use {prefix}on_mismatch=fallback")
    if segmented.fallback > settings.max_fallback * texts:
        why = ", ".join(f"{count} {reason}" for reason, count in segmented.reasons.items())
        allowed = math.ceil(100 * segmented.fallback / texts) / 100
        raise UserError(
            f"segmenter {segmented.segmenter} found no units in {segmented.fallback} of {texts} texts ({why}), which "
            f"would be read as they are: list the entities ({prefix}entities=FILE), take another segmenter "
            f"({prefix}name=rule), or allow it ({prefix}max_fallback={allowed:g})"
        )


def make_segmenter(
    settings: SegmenterSettings, kind: str = "none", *, device: str = "cpu", cache: str | None = None
) -> Segmenter:
    """Return the segmenter that the settings name.

    Args:
        settings: name and what it needs.
        kind: of the data set; decides what the name `auto` means.
        device: where a language model runs.
        cache: file for the answers of a language model, where the settings name none.

    Raises:
        UserError: an unknown name, missing or broken files.
    """
    made: Segmenter = SEGMENTERS[settings.chosen(kind)].load()(settings, device, cache)
    return made


def _settle(
    example: Example, proposal: Proposal, protected: tuple[str, ...], result: SegmentedCorpus
) -> tuple[tuple[str, ...], str]:
    """Return (units, "") for a proposal that holds, perhaps after repair, else ((), reason); counts ok and repaired."""
    units = tuple(normalise(unit) for unit in proposal.units)
    if not units:
        return (), proposal.reason or NO_UNITS
    reason = check_units(example.text, units, protected)
    if reason:
        # Assistants drop full stops and change quotes: the words decide, the spelling is the text's.
        repaired = project_units(example.text, units)
        if repaired is None or check_units(example.text, repaired, protected):
            return (), reason
        units = repaired
        result.repaired += 1
    result.ok += 1
    return units, ""


def _excerpt(text: str, width: int = 60) -> str:
    """Return the beginning of a text for a message."""
    text = normalise(text)
    return text if len(text) <= width else f"{text[: width - 1]}…"


class OracleSegmenter:
    """The units that the dataset itself knows (`Example.units`)."""

    name = "oracle"

    def propose(self, examples: Sequence[Example], *, seed: int, progress: Progress | None = None) -> list[Proposal]:
        """Return the units of each example."""
        return [Proposal(example.units or (), "the dataset knows no units") for example in examples]


def make_oracle(settings: SegmenterSettings, device: str, cache: str | None) -> OracleSegmenter:
    """For `SEGMENTERS`."""
    return OracleSegmenter()


def check_oracle(settings: SegmenterSettings, data: DataRow, prefix: str) -> None:
    """Refuse data sets whose texts bring no units.

    Raises:
        UserError: naming the segmenter and the data set.
    """
    if not data.knows_units:
        raise UserError(f"{prefix}name=oracle needs generated data; dataset={data.name} does not know its units")


class RandomSegmenter:
    """Consecutive segments of 1 to `max_words` words, the length uniform (arXiv 2403.13799, random segment reversal).

    A protected entity counts as one word, since no segmentation may split one; the order `random_segment`, which works
    on the bare words, does split them.
    """

    name = "random"

    def __init__(self, max_words: int = 3) -> None:
        if max_words < 1:
            raise UserError(f"max_words={max_words} is out of range: it must be at least 1")
        self.max_words = max_words

    def propose(self, examples: Sequence[Example], *, seed: int, progress: Progress | None = None) -> list[Proposal]:
        """Draw segments; text number i depends on (seed, i) only."""
        proposals = []
        for index, example in enumerate(examples):
            # Entities as one word each: else random segments would need the entity's length to keep one whole.
            starts = word_starts(example.text, find_spans(example.text, example.protected))
            draw = random.Random(f"{seed}:{index}")
            cuts, word = [], 0
            while word < len(starts):
                cuts.append(starts[word])
                # Random segments help once the longest reaches an entity's length (2403.13799): uniform in 1..k.
                word += draw.randint(1, self.max_words)
            proposals.append(Proposal(cut_text(example.text, cuts)))
            if progress:
                progress(index + 1, len(examples))
        return proposals


def make_random(settings: SegmenterSettings, device: str, cache: str | None) -> RandomSegmenter:
    """For `SEGMENTERS`."""
    return RandomSegmenter(settings.max_words)


def word_starts(text: str, spans: Sequence[tuple[int, int]] = ()) -> list[int]:
    """Return the offsets at which words (runs without white space) start, without those inside `spans`."""
    starts = [at for at in range(len(text)) if not text[at].isspace() and (at == 0 or text[at - 1].isspace())]
    return [at for at in starts if not any(start < at < end for start, end in spans)]
