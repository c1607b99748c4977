"""LoRA-LEGO: can LoRA adapters be taken apart by rank and rebuilt as one? (arXiv 2409.16167)

permlab task=lora_lego                                             # train three adapters here, merge by every method
permlab task=lora_lego task.adapters=[A,B] task.method=lego        # merge adapters of your own
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from permlab.adapters.benchmark.settings import BenchmarkSettings
from permlab.adapters.benchmark.table import BENCHMARKS, REGIMES
from permlab.adapters.merge_rule import MergeRule, check_reference_rank, unranked
from permlab.adapters.table import CHOICES, EXTRA_RULES, LORA_METHODS
from permlab.config import Config
from permlab.errors import UserError, check_range
from permlab.tasks.lora_lego.table import LORA_STUDIES

if TYPE_CHECKING:
    from permlab.runs.run import Run

HEADLINE = ("average_score", "single_score", "base_score", "seconds_merging")
MODELS = ("none", "causal_lm")
DATASETS = ("none",)


@dataclass
class LoraLegoConfig(MergeRule, BenchmarkSettings):
    """`task=lora_lego`: how adapters are merged, and which benchmark trains some where none are given."""

    name: str = "lora_lego"
    adapters: list[str] = field(default_factory=list)
    """PEFT adapter folders or hub ids to merge; empty trains adapters of the benchmark instead."""
    data: list[str] = field(default_factory=list)
    """With adapters: one JSONL file per adapter with `prompt` and `completion`, asked of `model`; empty skips it."""
    data_limit: int | None = None
    """Rows read per file."""
    spread_seeds: int = 2
    """With adapters and method=lego: merge again with as many other seeds and report the difference; 0 skips it."""
    extra: str = "same"
    """Tensors beside the LoRA factors (modules_to_save): same | average | first | drop"""
    study: str = "merge"
    """merge (every method on trained adapters) | prune (one adapter, fewer ranks) | identities (no training)"""


def validate(config: Config[LoraLegoConfig]) -> None:
    """Check choices, ranges and combinations."""
    task: LoraLegoConfig = config.task
    for key, table in {**CHOICES, "extra": EXTRA_RULES, "study": LORA_STUDIES, "benchmark": BENCHMARKS}.items():
        table.check(f"task.{key}", getattr(task, key))
    for regime in task.regimes:
        REGIMES.check("task.regimes", regime)
    check_reference_rank("task.reference_rank", task.reference_rank)
    if task.rank is not None:
        check_range("task.rank", task.rank, 1)
    if task.rank_ratio is not None:
        check_range("task.rank_ratio", task.rank_ratio, 0, 1)
    if (task.rank is not None or task.rank_ratio is not None) and not task.ranked:
        choices = ", ".join(LORA_METHODS.where(ranked=True))
        raise UserError(f"task.{unranked(task)}; drop task.rank or use {choices}")
    if task.rank is not None and task.rank_ratio is not None:
        raise UserError("task.rank and task.rank_ratio are both set; keep one")
    check_range("task.n_init", task.n_init, 1)
    check_range("task.spread_seeds", task.spread_seeds, 0)
    check_range("task.density", task.density, 0, 1)
    if task.adapters:
        validate_files(config)
    else:
        validate_benchmark(config)


def validate_files(config: Config[LoraLegoConfig]) -> None:
    """Check the keys that matter with adapters of the user."""
    task = config.task
    if not LORA_STUDIES[task.study].takes_adapters:
        raise UserError(f"task.study={task.study} makes its own adapters; drop task.adapters or set task.study=merge")
    count = len(task.adapters)
    if task.weights and len(task.weights) != count:
        raise UserError(f"task.weights has {len(task.weights)} values for {count} adapters; give one each")
    if task.data and len(task.data) != count:
        raise UserError(f"task.data has {len(task.data)} files for {count} adapters; give one each")
    for path in task.data:
        if not Path(path).is_file():
            raise UserError(f"task.data: {path} is no file")
    if task.data and not getattr(config.model, "path", None):
        raise UserError("task.data asks a model: set model=local model.path=DIR (or a hub model), or drop task.data")
    if task.data_limit is not None:
        check_range("task.data_limit", task.data_limit, 1)
    if config.model.kind == "causal_lm" and config.model.path:
        from permlab.models.causal_lm_config import validate_causal_lm

        validate_causal_lm(config.model)
        if config.model.lora.rank:
            raise UserError("task.adapters brings its own LoRA; drop model.lora.rank")


def validate_benchmark(config: Config[LoraLegoConfig]) -> None:
    """Check the keys of the benchmarks that train their own adapters."""
    task, benchmark = config.task, BENCHMARKS[config.task.benchmark]
    if task.data:
        raise UserError("task.data belongs to task.adapters; the benchmarks bring their own questions")
    if not LORA_STUDIES[task.study].trains:
        return
    if config.model.kind != "causal_lm" or config.model.path or config.model.lora.rank:
        raise UserError("the benchmarks build a small Llama of their own; use model=tiny-llama, or give task.adapters")
    from permlab.models.causal_lm_config import validate_causal_lm

    validate_causal_lm(config.model)
    for key in ("counts", "regimes", "lora_ranks", "scales", "sweep"):
        if not getattr(task, key):
            raise UserError(f"task.{key} is empty; give at least one value")
    for count in task.counts:
        check_range("task.counts", count, 1, benchmark.most)
    for key in ("scales", "sweep"):
        for value in getattr(task, key):
            check_range(f"task.{key}", value, 0, open_interval=True)
    for rank in task.lora_ranks:
        check_range("task.lora_ranks", rank, 1)
    for key in ("lora_alpha", "density"):
        check_range(f"task.{key}", getattr(task, key), 0, open_interval=True)
    for key in ("repeats", "facts", "facts_per_adapter"):
        check_range(f"task.{key}", getattr(task, key), 1)
    check_range("task.facts_per_adapter", task.facts_per_adapter, 4)
    check_range("task.validation", task.validation, 0, 0.9, open_interval=True)
    check_range("task.train.learning_rate", task.train.learning_rate, 0, open_interval=True)
    for key in ("base_steps", "base_batch", "adapter_steps", "adapter_batch"):
        if getattr(task.train, key) is not None:
            check_range(f"task.train.{key}", getattr(task.train, key), 1)
    if task.weights:
        raise UserError("task.weights belongs to task.adapters; the benchmarks weight all adapters alike")
    if task.questions is not None:
        check_range("task.questions", task.questions, 4)
    if "folder" in benchmark.needs and not (task.folder and Path(task.folder).is_dir()):
        raise UserError(
            f"task.benchmark={task.benchmark} needs task.folder=DIR with the sentence files (got {task.folder})"
        )


def plan(config: Config[LoraLegoConfig]) -> dict[str, str]:
    """Describe a dry run; with adapters, open them and check that they fit together."""
    task = config.task
    if task.adapters:
        from permlab.tasks.lora_lego.own_adapters import describe

        return describe(config)
    if not LORA_STUDIES[task.study].trains:
        return {"study": f"{LORA_STUDIES[task.study].about}; nothing is trained"}
    models = task.repeats * (1 + len(task.regimes) * max(task.counts))
    return {
        "benchmark": f"{task.benchmark}, {task.study}, {task.repeats} seeds, regimes {', '.join(task.regimes)}",
        "training": f"{models} models: a base and {len(task.regimes)} x {max(task.counts)} adapters per seed",
        "adapters merged": ", ".join(map(str, task.counts)),
        "adapter ranks": ", ".join(map(str, task.lora_ranks)),
    }


def run(config: Config[LoraLegoConfig], run: Run) -> None:
    """Merge the adapters that are given, or train some and compare every method."""
    if config.task.adapters:
        from permlab.tasks.lora_lego.own_adapters import merge_own

        merge_own(config, run)
    else:
        LORA_STUDIES[config.task.study].load()(config, run)
