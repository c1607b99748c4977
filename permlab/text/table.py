"""Names of the text room: unit orders, segmenters, budgets and what else is chosen by name, one row each.

    from permlab.text.table import ORDERS
    ORDERS["entity_reverse"].load()(example)     # the pieces that this order moves

A new order is one file with a function that cuts a text into pieces, or one that arranges them, or both, and one row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from permlab import registry
from permlab.registry import Row, Table

SPT, REVERSAL_TRAINING = "2403.00758", "2403.13799"


@dataclass(frozen=True)
class OrderRow(Row):
    """A unit order; `target` cuts an `Example` into the pieces that it moves, and is empty where it moves tokens.

    Attributes:
        arrange: "module:function" from (kind, keys, ordering) to piece indices in reading order; kind is one of
            `pieces.ORIGINAL`, REVERSED, PERMUTED, and keys are random numbers, one per piece.
        reorders: it reads anything but the text as it is.
        permutes: texts are read as they are, reversed or permuted (p_original, p_reversed, p_permuted); otherwise as
            they are or reversed (p_reordered).
        segmented: its pieces are the units of a segmenter.
        keeps_entities: "always", or "asked" where it does with `keep_entities=true`: the entities that the data set or
            the segmenter knows stay whole.
        segment_lengths: it moves segments of up to `max_segment` pieces.
        closing_stays: the full stop of a text stays its end; otherwise it moves with the word it follows, or alone.
    """

    arrange: str = "permlab.text.pieces:whole_order"
    reorders: bool = True
    permutes: bool = False
    segmented: bool = False
    keeps_entities: str = ""
    segment_lengths: bool = False
    closing_stays: bool = False

    def load_arrangement(self) -> Any:
        """Import the function that arranges the pieces."""
        return registry.load(self.arrange)


ORDERS = Table(
    "order",
    [
        OrderRow(
            "original",
            "the text as it is",
            target="permlab.text.pieces:whole_text",
            reorders=False,
            color="grey",
        ),
        OrderRow(
            "spt",
            "semantic units as they are, reversed or in a random order",
            label="SPT",
            target="permlab.text.pieces:units_of",
            paper=SPT,
            needs=("units",),
            permutes=True,
            segmented=True,
            closing_stays=True,
            color="blue",
        ),
        OrderRow("token_reverse", "tokens reversed", label="token reversal", paper=REVERSAL_TRAINING, color="green"),
        OrderRow(
            "word_reverse",
            "words reversed",
            label="word reversal",
            target="permlab.text.pieces:words_of",
            paper=REVERSAL_TRAINING,
            color="red",
        ),
        OrderRow(
            "entity_reverse",
            "words reversed, entities kept",
            label="entity-preserving reversal",
            target="permlab.text.pieces:words_and_entities",
            paper=REVERSAL_TRAINING,
            keeps_entities="always",
            color="orange",
        ),
        OrderRow(
            "random_segment",
            "segments of 1 to max_segment words reversed",
            label="random segment reversal",
            target="permlab.text.pieces:words_of",
            arrange="permlab.text.pieces:segment_order",
            paper=REVERSAL_TRAINING,
            keeps_entities="asked",
            segment_lengths=True,
            color="purple",
        ),
        OrderRow(
            "word_permute",
            "SPT on single words",
            label="word permutation",
            target="permlab.text.pieces:words_of",
            permutes=True,
            keeps_entities="asked",
            closing_stays=True,
            color="sky",
        ),
    ],
)


@dataclass(frozen=True)
class BudgetRow(Row):
    """How often a text is read.

    Attributes:
        copies: readings per text and epoch; with two, the first is always the text as it is.
        scale: part of the epochs that is trained.
    """

    copies: int = 1
    scale: float = 1.0


BUDGETS = Table(
    "budget",
    [
        BudgetRow("replace", "one drawn order per text and epoch: texts, tokens and steps equal those of original"),
        BudgetRow("data", "every text as it is and once reordered per epoch", copies=2),
        BudgetRow("compute", "as data, in half the epochs", copies=2, scale=0.5),
    ],
)


@dataclass(frozen=True)
class SegmenterRow(Row):
    """A way to cut texts into units; `target` makes it from (settings, device, cache).

    Attributes:
        check: "module:function" from (settings, row of the data set, prefix), called before anything heavy is imported.
    """

    check: str = ""


SEGMENTERS = Table(
    "segmenter",
    [
        SegmenterRow(
            "oracle",
            "the units that the data set itself knows",
            target="permlab.text.segment:make_oracle",
            check="permlab.text.segment:check_oracle",
            needs=("units",),
        ),
        SegmenterRow(
            "entities",
            "a cut before and after each entity",
            target="permlab.text.segment_rules:make_entities",
            check="permlab.text.segment_rules:check_entities",
        ),
        SegmenterRow(
            "rule",
            "cuts after punctuation, before function words and around names",
            target="permlab.text.segment_rules:make_rule",
        ),
        SegmenterRow(
            "random",
            "segments of 1 to max_words words",
            target="permlab.text.segment:make_random",
            paper=REVERSAL_TRAINING,
        ),
        SegmenterRow(
            "presegmented",
            "units from a file with a separator between them",
            target="permlab.text.presegmented:make_presegmented",
            check="permlab.text.presegmented:check_presegmented",
            paper=SPT,
            needs=("file",),
        ),
        SegmenterRow(
            "llm",
            "units marked by a language model, local or behind a server",
            target="permlab.text.segment_llm:make_llm",
            check="permlab.text.segment_llm:check_llm",
            paper=SPT,
            needs=("model",),
        ),
    ],
)


@dataclass(frozen=True)
class EntitySourceRow(Row):
    """Where the segmenter `entities` takes its entities from.

    Attributes:
        known: those that the data set protects.
        listed: those of the settings.
        detected: capitalised spans: "never", "always", or "else" where there is none of the others in a text.
    """

    known: bool = False
    listed: bool = False
    detected: str = "never"


ENTITY_SOURCES = Table(
    "source of entities",
    [
        EntitySourceRow(
            "auto",
            "the data set's own and the list, and capitalised spans in texts without",
            known=True,
            listed=True,
            detected="else",
        ),
        EntitySourceRow("protected", "those that the data set knows", known=True),
        EntitySourceRow("list", "the file task.segmenter.entities alone", listed=True),
        EntitySourceRow(
            "capitalised", "capitalised spans of the training texts, whatever the data set knows", detected="always"
        ),
    ],
)


@dataclass(frozen=True)
class MismatchRow(Row):
    """What happens to a text whose proposed units do not give it back.

    Attributes:
        stops: the segmentation stops with an error.
        keeps: the text is kept as one unit.
    """

    stops: bool = False
    keeps: bool = False


ON_MISMATCH = Table(
    "way to treat a mismatch",
    [
        MismatchRow("fallback", "the whole text is one unit", keeps=True),
        MismatchRow("drop", "the text is left out"),
        MismatchRow("raise", "the run stops", stops=True),
    ],
)


@dataclass(frozen=True)
class ScheduleRow(Row):
    """A schedule of the learning rate, by its name in transformers."""


SCHEDULES = Table(
    "schedule",
    [
        ScheduleRow("cosine", "warm-up, then half a cosine to zero"),
        ScheduleRow("linear", "warm-up, then a line to zero"),
        ScheduleRow("constant_with_warmup", "warm-up, then constant"),
    ],
)
