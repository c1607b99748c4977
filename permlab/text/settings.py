"""Settings of ordered training on texts, each with its one default: `Ordering(order="spt", budget="data")`.

`permlab task=spt` inherits them, so a key of the command line is a field here. Nothing heavy is imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from permlab import registry
from permlab.data.hub import check_local
from permlab.data.table import DATASETS
from permlab.errors import UserError, check_choice, check_range
from permlab.keys import choice
from permlab.models.table import WEIGHTS
from permlab.text.table import BUDGETS, ENTITY_SOURCES, ON_MISMATCH, ORDERS, SCHEDULES, SEGMENTERS

AUTO = "auto"
"""The name that stands for the segmenter of the data set's own row."""


@dataclass
class Ordering:
    """Which orders are drawn, and how often."""

    order: str = choice("spt", ORDERS)
    """In which order a text is read."""
    # SPT's paper names three readings and no numbers. With one block, more reordered ones than a third each
    # answered more questions in the unread direction on generated persons.
    p_original: float = 0.2
    """order=spt and word_permute: probability of reading the units as they are"""
    p_reversed: float = 0.4
    """order=spt and word_permute: probability of reading the units in reversed order"""
    p_permuted: float = 0.4
    """order=spt and word_permute: probability of reading the units in a random order"""
    p_reordered: float = 0.5
    """the reversals: probability of the reversed reading"""
    max_segment: int = 2
    """order=random_segment: the longest segment in words"""
    keep_entities: bool = False
    """order=random_segment and word_permute: entities of the data set and the segmenter move as one word"""
    dynamic: bool = True
    """draw anew in every epoch"""
    budget: str = choice("replace", BUDGETS)
    """replace: texts, tokens and steps equal those of original; data: each text as it is and reordered; compute: the
    same in half the epochs."""

    @property
    def whole_entities(self) -> bool:
        """Whether words are moved with entities kept whole."""
        kept = ORDERS[self.order].keeps_entities
        return kept == "always" or (kept == "asked" and self.keep_entities)

    @property
    def segmented(self) -> bool:
        """Whether the texts are segmented first, for units or for the entities that must stay whole."""
        return ORDERS[self.order].segmented or self.whole_entities

    def probabilities(self) -> tuple[float, float, float]:
        """Return the probabilities of reading a text as it is, reversed, or permuted.

        Raises:
            UserError: an unknown order or budget.
        """
        row, budget = ORDERS[self.order], BUDGETS[self.budget]
        if not row.reorders:
            return 1.0, 0.0, 0.0
        if row.permutes:
            # SPT draws one of the three readings for every text and epoch (arXiv 2403.00758; how often is ours).
            mixed = (self.p_original, self.p_reversed, self.p_permuted)
        else:
            # Reverse training (arXiv 2403.13799) reads each text in both directions: half of the draws are reversed.
            mixed = (1 - self.p_reordered, self.p_reordered, 0.0)
        if budget.copies == 1:
            return mixed
        # The original is read anyway; the other copy is never the original.
        rest = mixed[1] + mixed[2]
        return 0.0, mixed[1] / rest, mixed[2] / rest


@dataclass
class SegmenterSettings:
    """How texts are cut into units, and which entities are found: for order=spt and those that keep entities."""

    name: str = choice(AUTO, SEGMENTERS, AUTO)
    """auto: oracle for generated data, presegmented for `[SEP]` files, else entities."""
    # Many chunks make most of SPT's orders unnatural; a split into three keeps forward recall at the same budget.
    max_units: int | None = None
    """Merge neighbours until no text has more units: many small units cost forward recall at a fixed budget."""
    on_mismatch: str = choice("fallback", ON_MISMATCH)
    """When the units do not give back the text: fallback makes the whole text one unit."""
    max_fallback: float = 0.2
    """Share of texts without units above which the run is refused: they would train as order=original does."""
    entities: str | None = None
    """segmenter=entities: a file with one protected string per line."""
    source: str = choice("auto", ENTITY_SOURCES)
    """segmenter=entities: where the entities come from."""
    max_words: int = 3
    """segmenter=random: the longest segment in words."""
    units: str | None = None
    """segmenter=presegmented: a `[SEP]` file with the same texts."""
    path: str | None = None
    """segmenter=llm: a local Hugging Face model directory or hub id."""
    base_url: str | None = None
    """segmenter=llm: an OpenAI-compatible server, such as http://localhost:8000/v1."""
    model: str | None = None
    """segmenter=llm: the model name the server knows."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key; null sends none."""
    concurrency: int = 8
    """Requests at a time."""
    cache: str | None = None
    """JSONL of answers; null = <run.root>/cache/segments.jsonl, shared by all runs."""

    def chosen(self, kind: str) -> str:
        """Return the name of the segmenter for a kind of data set: `auto` is the one that suits it."""
        return DATASETS[kind].segmenter if self.name == AUTO else self.name


class Pace(NamedTuple):
    """How long, how fast and with how much weight decay a model is trained."""

    epochs: float
    learning_rate: float
    weight_decay: float


@dataclass
class GeneralText:
    """General text on which a model is scored, whatever else it is for."""

    path: str | None = None
    """A .txt or .jsonl file, a folder of `datasets` or a hub id; null draws text from the model itself."""
    split: str = "test"
    """Of a folder or hub id."""
    sequences: int = 64
    """Pieces of text; 0 measures nothing."""
    tokens: int = 64
    """Of each piece."""


@dataclass
class GeneralSettings(GeneralText):
    """General text on which a pretrained model is scored before and after: what it forgets."""

    ratio: float = 0.0
    """Share of the trained texts that are pieces of such text, other ones than those that are scored."""


@dataclass
class TrainingSettings:
    """Training with transformers' Trainer."""

    epochs: float | None = None
    """Readings of every text; null suits the model: 24 from scratch, 10 for a pretrained one."""
    batch_size: int = 16
    """Texts per step and device."""
    accumulate: int = 1
    """Batches per step."""
    learning_rate: float | None = None
    """The largest of the schedule; null suits the model: 5e-3 from scratch, 2e-5 pretrained, 2e-4 for its adapters."""
    warmup: float = 0.05
    """Share of the steps."""
    schedule: str = choice("cosine", SCHEDULES)
    """Of the learning rate."""
    weight_decay: float | None = None
    """Of AdamW; null suits the model: 0.3 from scratch, 0.01 for a pretrained one."""
    clip: float = 1.0
    """Largest norm of the gradient; 0 never clips."""
    max_tokens: int = 512
    """Longer texts are cut."""
    pack: int = 0
    """Tokens of a row into which several texts of a step are put, each seeing itself alone; 0: a row for every text."""
    log_steps: int = 10
    """Steps between two recorded losses."""

    def used(self, weights: str = "scratch", adapters: bool = False) -> Pace:
        """Return what is set, or what suits the weights (`permlab.models.table.WEIGHTS`).

        Args:
            weights: pretrained | scratch.
            adapters: only adapters are trained.
        """
        row = WEIGHTS[weights]
        rate = row.adapter_rate if adapters else row.rate
        decay = row.decay if self.weight_decay is None else self.weight_decay
        return Pace(self.epochs or row.epochs, self.learning_rate or rate, decay)


@dataclass
class RecallSettings:
    """Recall after training."""

    batch_size: int = 128
    """Questions asked at a time."""
    limit: int | None = None
    """Queries per wording, direction, group and kind; null = all."""
    likelihood: bool = True
    """Also compare true with shuffled answers by log-probability."""
    choices: int = 0
    """Also ask as multiple choice by log-probability, the true answer among so many of its kind; 0 does not."""
    chat: bool = False
    """Each prompt is what a user says, in the tokenizer's chat template, and the answer begins the reply."""
    harness: list[str] = field(default_factory=list)
    """Tasks of lm-evaluation-harness, before and after training: `[arc_easy]`; needs `permlab[lm-eval]`."""
    harness_limit: int | None = None
    """Questions of each of these tasks; null = all."""


def check_ordering(ordering: Ordering, prefix: str = "") -> None:
    """Check names, probabilities and lengths.

    Args:
        prefix: goes before the names in messages, as of all checks here.

    Raises:
        UserError: naming the setting.
    """
    row = ORDERS.check(f"{prefix}order", ordering.order)
    budget = BUDGETS.check(f"{prefix}budget", ordering.budget)
    for key in ("p_original", "p_reversed", "p_permuted", "p_reordered"):
        check_range(f"{prefix}{key}", getattr(ordering, key), 0, 1)
    total = ordering.p_original + ordering.p_reversed + ordering.p_permuted
    if abs(total - 1) > 1e-6:
        raise UserError(f"{prefix}p_original + {prefix}p_reversed + {prefix}p_permuted = {total:g}; they must sum to 1")
    if budget.copies > 1 and row.reorders:
        if row.permutes and ordering.p_original > 1 - 1e-6:
            raise UserError(f"{prefix}budget={ordering.budget} needs a reordered copy; lower {prefix}p_original")
        if not row.permutes and ordering.p_reordered < 1e-6:
            raise UserError(f"{prefix}budget={ordering.budget} needs a reordered copy; raise {prefix}p_reordered")
    check_range(f"{prefix}max_segment", ordering.max_segment, 1)


def check_segmenter(settings: SegmenterSettings, kind: str, prefix: str = "") -> None:
    """Check the segmenter and that it fits a kind of data set.

    Raises:
        UserError: naming the setting.
    """
    check_choice(f"{prefix}name", settings.name, (AUTO, *SEGMENTERS))
    ON_MISMATCH.check(f"{prefix}on_mismatch", settings.on_mismatch)
    ENTITY_SOURCES.check(f"{prefix}source", settings.source)
    if settings.max_units is not None:
        check_range(f"{prefix}max_units", settings.max_units, 1)
    check_range(f"{prefix}max_words", settings.max_words, 1)
    check_range(f"{prefix}max_fallback", settings.max_fallback, 0, 1)
    check_range(f"{prefix}concurrency", settings.concurrency, 1, 256)
    row = SEGMENTERS[settings.chosen(kind)]
    if row.check:
        registry.load(row.check)(settings, DATASETS[kind], prefix)


def check_settings_file(settings: SegmenterSettings, key: str, prefix: str = "") -> None:
    """Refuse a file of the settings that is not there; an empty key names none.

    Raises:
        UserError: naming the setting.
    """
    value = getattr(settings, key)
    if value and not Path(value).is_file():
        raise UserError(f"{prefix}{key}={value}: there is no such file")


def check_training(settings: TrainingSettings, prefix: str = "") -> None:
    """Check names and ranges.

    Raises:
        UserError: naming the setting.
    """
    SCHEDULES.check(f"{prefix}schedule", settings.schedule)
    for key in ("epochs", "learning_rate"):
        if getattr(settings, key) is not None:
            check_range(f"{prefix}{key}", getattr(settings, key), 0, open_interval=True)
    check_range(f"{prefix}warmup", settings.warmup, 0, 0.9)
    if settings.weight_decay is not None:
        check_range(f"{prefix}weight_decay", settings.weight_decay, 0)
    check_range(f"{prefix}clip", settings.clip, 0)
    check_range(f"{prefix}max_tokens", settings.max_tokens, 8)
    check_range(f"{prefix}pack", settings.pack, 0)
    for key in ("batch_size", "accumulate", "log_steps"):
        check_range(f"{prefix}{key}", getattr(settings, key), 1)


def check_general(settings: GeneralText, prefix: str = "") -> None:
    """Check ranges, and that a file that can only be local is there.

    Raises:
        UserError: naming the setting.
    """
    check_range(f"{prefix}sequences", settings.sequences, 0)
    check_range(f"{prefix}tokens", settings.tokens, 4)
    if isinstance(settings, GeneralSettings):
        check_range(f"{prefix}ratio", settings.ratio, 0, 0.9)
    if settings.path and not Path(settings.path).exists():
        check_local(settings.path, f"{prefix}path=")


def check_recall(settings: RecallSettings, prefix: str = "") -> None:
    """Check ranges.

    Raises:
        UserError: naming the setting.
    """
    check_range(f"{prefix}batch_size", settings.batch_size, 1)
    if settings.limit is not None:
        check_range(f"{prefix}limit", settings.limit, 1)
    if settings.choices:
        check_range(f"{prefix}choices", settings.choices, 2, 100)
    check_harness(settings.harness, settings.harness_limit, prefix)


def check_harness(tasks: Sequence[str], limit: int | None, prefix: str = "") -> None:
    """Refuse tasks of lm-evaluation-harness where it is not installed.

    Raises:
        UserError: naming the setting.
    """
    if limit is not None:
        check_range(f"{prefix}harness_limit", limit, 1)
    if tasks and find_spec("lm_eval") is None:
        raise UserError(f"{prefix}harness={tasks} needs lm-evaluation-harness: pip install 'permlab[lm-eval]'")
