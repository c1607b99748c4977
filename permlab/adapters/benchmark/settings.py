"""Settings of the benchmarks: `questions_of(BenchmarkSettings(benchmark="lists"), seed=0).groups`.

Nothing heavy is imported here: `permlab task=lora_lego` takes these fields as its keys.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from permlab.adapters.benchmark.table import BENCHMARKS, REGIMES
from permlab.errors import UserError, check_range
from permlab.keys import choice

if TYPE_CHECKING:
    from permlab.adapters.benchmark.questions import Benchmark
    from permlab.adapters.training import Schedule


@dataclass
class BenchmarkTraining:
    """Training of the benchmark's base model and adapters; null takes the value that suits the benchmark."""

    base_steps: int | None = None
    """Steps of the base model."""
    base_batch: int | None = None
    """Questions per step of the base model."""
    adapter_steps: int | None = None
    """Steps of each adapter."""
    adapter_batch: int | None = None
    """Questions per step of an adapter."""
    learning_rate: float = 3e-3
    """Peak rate of AdamW, for the base and for the adapters."""
    replay: float = 0.25
    """study=real: pieces of general text beside every question of an adapter's batch; 0 = none"""


@dataclass(kw_only=True)
class BenchmarkSettings:
    """What is asked, which adapters are trained, and what is tried on them."""

    benchmark: str = choice("knowledge", BENCHMARKS)
    """Questions that adapters are trained on: entity -> attribute, six list operations, four sentence datasets."""
    folder: str | None = None
    """benchmark=text, study=real: folder, TREC.{train,test}.all, stsa.binary.{train,test}, subj.all, rt-polarity.all"""
    corpus: str | None = None
    """study=real: folder of .txt files that the base is pretrained on; null generates text"""
    ood: list[str] = field(default_factory=list)
    """study=real: files of `label sentence` lines asked out of domain"""
    questions: int | None = 400
    """benchmark=text, study=real: most test sentences per dataset (fewer for validation); null = all"""
    counts: list[int] = field(default_factory=lambda: [3])
    """How many adapters are merged; the largest is how many are trained."""
    regimes: list[str] = choice(["independent"], REGIMES)
    """independent: every adapter starts from its own A; shared: all start from one A."""
    repeats: int = 1
    """Seeds: seed, seed + 1, ...; base, adapters, clustering and test split are all drawn anew."""
    draws: int = 5
    """study=real: draws of LEGO's clusters per seed, of which the mean counts"""
    lora_ranks: list[int] = field(default_factory=lambda: [8])
    """Ranks of the trained adapters, repeated as often as needed."""
    lora_alpha: float = 16.0
    """lora_alpha of the trained adapters."""
    facts: int = 600
    """benchmark=knowledge: facts of the base"""
    facts_per_adapter: int = 40
    """benchmark=knowledge: facts of each adapter"""
    validation: float = 0.5
    """benchmark=knowledge: share of the facts that picks the scale"""
    scales: list[float] = field(default_factory=lambda: [0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0, 3.0])
    """Factors tried on every merged update; the best on the validation questions is the tuned one."""
    sweep: list[float] = field(default_factory=lambda: [0.5, 1.0, 2.0])
    """LEGO's k as multiples of the mean rank; all units together are always added."""
    train: BenchmarkTraining = field(default_factory=BenchmarkTraining)
    """Training of base and adapters."""

    def ranks_of(self, count: int) -> list[int]:
        """Ranks of the first `count` adapters."""
        return [self.lora_ranks[index % len(self.lora_ranks)] for index in range(count)]


def check_settings(settings: BenchmarkSettings, prefix: str = "") -> None:
    """Refuse names that no table has and values out of range.

    Args:
        settings: what to check.
        prefix: put in front of the fields' names in messages ("task.").

    Raises:
        UserError: naming the field.
    """
    benchmark = BENCHMARKS.check(f"{prefix}benchmark", settings.benchmark)
    for regime in settings.regimes:
        REGIMES.check(f"{prefix}regimes", regime)
    for key in ("counts", "regimes", "lora_ranks", "scales", "sweep"):
        if not getattr(settings, key):
            raise UserError(f"{prefix}{key} is empty; give at least one value")
    for count in settings.counts:
        check_range(f"{prefix}counts", count, 1, benchmark.most)
    for rank in settings.lora_ranks:
        check_range(f"{prefix}lora_ranks", rank, 1)
    above_zero = [(key, value) for key in ("scales", "sweep") for value in getattr(settings, key)]
    above_zero += [("lora_alpha", settings.lora_alpha), ("train.learning_rate", settings.train.learning_rate)]
    for key, value in above_zero:
        check_range(f"{prefix}{key}", value, 0, open_interval=True)
    check_range(f"{prefix}train.replay", settings.train.replay, 0)
    for key in ("repeats", "facts", "draws"):
        check_range(f"{prefix}{key}", getattr(settings, key), 1)
    for key in ("base_steps", "base_batch", "adapter_steps", "adapter_batch"):
        if getattr(settings.train, key) is not None:
            check_range(f"{prefix}train.{key}", getattr(settings.train, key), 1)
    check_range(f"{prefix}facts_per_adapter", settings.facts_per_adapter, 4)
    check_range(f"{prefix}validation", settings.validation, 0, 0.9, open_interval=True)
    if settings.questions is not None:
        check_range(f"{prefix}questions", settings.questions, 4)
    if "folder" in benchmark.needs and not (settings.folder and Path(settings.folder).is_dir()):
        needed = f"{prefix}benchmark={benchmark.name} needs {prefix}folder=DIR with the sentence files"
        raise UserError(f"{needed} (got {settings.folder})")


def questions_of(settings: BenchmarkSettings, seed: int, vocabulary: int = 8192) -> Benchmark:
    """Questions of a benchmark, drawn from `seed`: one group per adapter.

    Args:
        settings: which benchmark, and how many adapters (`counts`).
        seed: of the draw.
        vocabulary: most words, where the benchmark is made of text.

    Raises:
        UserError: an unknown benchmark, more groups than it has, or files that are missing or broken.
    """
    found: Benchmark = BENCHMARKS[settings.benchmark].load()(max(settings.counts), seed, settings, vocabulary)
    return found


def schedules(settings: BenchmarkSettings) -> tuple[Schedule, Schedule]:
    """Training of the base and of an adapter: what is set, else what suits the benchmark."""
    from permlab.adapters.training import Schedule

    row, given = BENCHMARKS[settings.benchmark], settings.train
    base = Schedule(given.base_steps or row.base[0], given.base_batch or row.base[1], given.learning_rate)
    adapter = Schedule(
        given.adapter_steps or row.adapter[0], given.adapter_batch or row.adapter[1], given.learning_rate
    )
    return base, adapter
