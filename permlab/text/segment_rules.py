"""Segmenters without a model: `segment_corpus(corpus.examples, EntitySegmenter())` cuts before and after each entity.

The three-way split at the entity (text before, entity, text after) kept forward recall and cured the reversal curse on
Berglund's texts from scratch, where the finer units of the SPT authors' release did not: cut little, but at entities.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from permlab.data.examples import Example
from permlab.data.texts.rows import read_entities
from permlab.errors import UserError
from permlab.text.segment import Progress, Proposal
from permlab.text.settings import SegmenterSettings, check_settings_file
from permlab.text.table import ENTITY_SOURCES
from permlab.text.units import cut_text, find_spans, split_by_spans

if TYPE_CHECKING:
    from permlab.data.table import DataRow

_LISTED = """
a about above across after against all along also although am among an and are around as at be because been before
behind being below beneath beside between beyond but by can could did do does during each either every for from had
has have having he her hers him his how i if in inside into is it its let may might more most must my near neither
no nor not of off on once one onto or our out outside over own per q she should since so some such than that the
their them then there these they this those through throughout till to toward towards under underneath until up upon
us was we were what when where whether which while who whom whose why will with within without would yet you your
"""
FUNCTION_WORDS = frozenset(_LISTED.split())
"""English words that open a phrase or hold one together; the rule segmenter cuts before them."""
_PARTICLES = frozenset(
    {"al", "bin", "da", "de", "del", "den", "der", "di", "dos", "du", "el", "la", "le", "van", "von", "y"}
)
_WORD = re.compile(r"[^\W_]+(?:[-.'’](?=[^\W_])[^\W_]+)*")
_SENTENCE_END = re.compile(r"[.!?:]['\"”’)\]]*\s+\S*$|^\W*$|\n\s*$")
_TITLES = frozenset({"mr", "mrs", "ms", "dr", "prof", "st"})
_QUOTED = re.compile(r'"(?=[A-Z])[^"\n]{1,80}"|“(?=[A-Z])[^”\n]{1,80}”')
NO_ENTITY = "no entity found"


def sentence_case_words(texts: Iterable[str]) -> frozenset[str]:
    """Return the words that occur in lower case somewhere: their capital at the start of a sentence means nothing."""
    return frozenset(word for text in texts for word in _WORD.findall(text) if word[0].islower())


def capitalised_spans(text: str, lower_case: frozenset[str] = frozenset()) -> list[tuple[int, int]]:
    """Return the (start, end) offsets of runs of capitalised words, a guess at the names in English text.

    Words of a run are parted by single spaces (an initial or title may have its full stop: "J. K. Roe"), and particles
    ("van der") may stand inside. The first word of a sentence counts only when it is neither a function word nor in
    `lower_case`, and when another capitalised word follows or it occurs with a capital elsewhere in a sentence.
    A possessive 's is not part of a name. A title between double quotes is one span with its quotes; a lone
    abbreviation of at most two letters ("AI") is none.

    Args:
        text: one text.
        lower_case: from `sentence_case_words` over the corpus.
    """
    quoted = [match.span() for match in _QUOTED.finditer(text)]
    words = []
    for match in _WORD.finditer(text):
        if any(start <= match.start() < end for start, end in quoted):
            continue
        word = re.sub(r"['’]s$", "", match.group())
        words.append((match.start(), match.start() + len(word), word))
    # A capital within a sentence marks a name; at its start it marks the sentence, unless the word recurs inside.
    inside = {word for start, _, word in words if word[0].isupper() and not _starts_sentence(text, start)}
    spans: list[tuple[int, int]] = []
    run: list[tuple[int, int, str]] = []
    for start, end, word in words:
        if run and not _continues(text[run[-1][1] : start], run[-1][2]):
            spans += _close(run, text, inside)
            run = []
        if _is_capitalised(text, start, word, lower_case) or (run and word.lower() in _PARTICLES):
            run.append((start, end, word))
        else:
            spans += _close(run, text, inside)
            run = []
    return sorted(spans + _close(run, text, inside) + quoted)


def _starts_sentence(text: str, start: int) -> bool:
    """Whether the word at `start` is the first of the text or of a sentence."""
    return bool(_SENTENCE_END.search(text[max(0, start - 12) : start] if start > 12 else text[:start]))


def _continues(gap: str, before: str) -> bool:
    """Whether a run of capitalised words goes on over `gap`."""
    return gap == " " or (gap == ". " and (len(before) == 1 or before.lower() in _TITLES))


def _is_capitalised(text: str, start: int, word: str, lower_case: frozenset[str]) -> bool:
    """Whether a word has a capital that may mean a name."""
    low = word.lower()
    if not word[0].isupper() or low in FUNCTION_WORDS or re.match(r"I['’]", word):
        return False
    return low not in lower_case or not _starts_sentence(text, start)


def _close(run: list[tuple[int, int, str]], text: str, inside: set[str]) -> list[tuple[int, int]]:
    """Return the run as a span, without particles at its end; nothing for a lone word that only starts a sentence."""
    while run and run[-1][2].lower() in _PARTICLES and run[-1][2][0].islower():
        run = run[:-1]
    if not run:
        return []
    if len(run) == 1:
        start, _, word = run[0]
        if (_starts_sentence(text, start) and word not in inside) or (len(word) <= 2 and word.isupper()):
            return []
    return [(run[0][0], run[-1][1])]


class EntitySegmenter:
    """Cuts each text before and after its entities.

    Where the entities come from is a row of `ENTITY_SOURCES`: `protected`, the example's own; `list`, the strings in
    `entities`; `capitalised`, detection by `capitalised_spans`, for which the example's own do not exist; `auto`, the
    example's own and the list together, and detection in texts that have neither. They are protected in the result. A
    text without an entity is a mismatch.
    """

    name = "entities"

    def __init__(self, entities: Sequence[str] = (), source: str = "auto") -> None:
        self.source = ENTITY_SOURCES.check("source", source)
        self.blind = not (self.source.known or self.source.listed)
        if self.source.listed and not self.source.known and not entities:
            raise UserError("source=list needs entities: name a file with one entity per line")
        self.entities = frozenset(entity.strip() for entity in entities if entity.strip())
        self._first_words: dict[str, set[str]] = {}
        for entity in self.entities:
            self._first_words.setdefault(_WORD.findall(entity + " x")[0], set()).add(entity)

    def propose(self, examples: Sequence[Example], *, seed: int, progress: Progress | None = None) -> list[Proposal]:
        """Return the units around each text's entities."""
        lower_case = frozenset[str]()
        if self.source.detected != "never":
            lower_case = sentence_case_words(example.text for example in examples)
        proposals = []
        for index, example in enumerate(examples):
            # The spans of entity-preserving reversal (2403.13799); SPT permutes what lies between them as well.
            spans = self._spans(example, lower_case)
            if spans:
                found = tuple(dict.fromkeys(example.text[start:end] for start, end in spans))
                proposals.append(Proposal(split_by_spans(example.text, spans), entities=found))
            else:
                proposals.append(Proposal(reason=NO_ENTITY))
            if progress:
                progress(index + 1, len(examples))
        return proposals

    def _spans(self, example: Example, lower_case: frozenset[str]) -> list[tuple[int, int]]:
        """Return the offsets of one text's entities."""
        wanted: set[str] = set()
        if self.source.known:
            wanted.update(example.protected)
        if self.source.listed:  # only entities whose first word occurs: a long list stays fast
            for word in set(_WORD.findall(example.text)) & self._first_words.keys():
                wanted |= self._first_words[word]
        spans = find_spans(example.text, wanted)
        if spans or self.source.detected == "never":
            return spans
        return capitalised_spans(example.text, lower_case)


def make_entities(settings: SegmenterSettings, device: str, cache: str | None) -> EntitySegmenter:
    """For `SEGMENTERS`."""
    return EntitySegmenter(read_entities(settings.entities) if settings.entities else (), settings.source)


def check_entities(settings: SegmenterSettings, data: DataRow, prefix: str) -> None:
    """Check that a file with entities is there where one is named, and named where it is needed and used.

    Raises:
        UserError: naming the setting.
    """
    check_settings_file(settings, "entities", prefix)
    source = ENTITY_SOURCES[settings.source]
    if settings.entities and not source.listed:
        raise UserError(f"{prefix}source={source.name} reads no list: leave {prefix}entities out, or source=auto|list")
    if source.listed and not source.known and not settings.entities:
        raise UserError(f"{prefix}source={source.name} needs {prefix}entities=FILE, one entity per line")


class RuleSegmenter:
    """Cuts English text after punctuation, before function words, and around names.

    Names are the example's protected entities and `capitalised_spans`; punctuation after a name stays with it. A run of
    function words opens one unit ("in the world"), and no such cut leaves a unit of one word.
    """

    name = "rule"

    def __init__(self, function_words: Iterable[str] = FUNCTION_WORDS) -> None:
        self.function_words = frozenset(word.lower() for word in function_words)

    def propose(self, examples: Sequence[Example], *, seed: int, progress: Progress | None = None) -> list[Proposal]:
        """Return the units of each text."""
        lower_case = sentence_case_words(example.text for example in examples)
        proposals = []
        for index, example in enumerate(examples):
            proposals.append(Proposal(cut_text(example.text, self._cuts(example, lower_case))))
            if progress:
                progress(index + 1, len(examples))
        return proposals

    def _cuts(self, example: Example, lower_case: frozenset[str]) -> list[int]:
        """Return the offsets at which one text is cut."""
        text = example.text
        own = find_spans(text, example.protected)
        found = capitalised_spans(text, lower_case)
        # Known entities win over guesses: a run of capitals may take a neighbour into the name.
        spans = own + [span for span in found if not any(span[0] < end and start < span[1] for start, end in own)]
        cuts = []
        for start, end in spans:
            after = re.match(r"\S*", text[end:])  # "Roe," and "Roe's" end after the comma and the 's
            cuts += [start, end + (after.end() if after else 0)]
        cuts += [match.end() for match in re.finditer(r"[,.;:!?]['\"”’)\]]*(?=\s)", text)]
        # SPT must not split an entity: the full stops of "J. K. Roe" and commas in a quoted title are no boundaries.
        cuts = [cut for cut in cuts if not any(start < cut < end for start, end in spans)]
        return cuts + self._phrase_starts(text, {0, *cuts}, spans)

    def _phrase_starts(self, text: str, cuts: set[int], spans: Sequence[tuple[int, int]]) -> list[int]:
        """Return where a function word opens a phrase, with two words or more on either side before the next cut."""
        words = [(match.start(), match.group().lower()) for match in _WORD.finditer(text)]
        fixed = {min((at for at, _ in words if at >= cut), default=len(text)) for cut in cuts}
        found, length = [], 0
        for index, (start, word) in enumerate(words):
            length = 0 if start in fixed else length
            follows = words[index + 1][0] if index + 1 < len(words) else len(text)
            opens = word in self.function_words and (index == 0 or words[index - 1][1] not in self.function_words)
            in_name = any(left < start < right for left, right in spans)
            if opens and length >= 2 and not in_name and follows < len(text) and follows not in fixed:
                found.append(start)
                length = 0
            length += 1
        return found


def make_rule(settings: SegmenterSettings, device: str, cache: str | None) -> RuleSegmenter:
    """For `SEGMENTERS`."""
    return RuleSegmenter()
