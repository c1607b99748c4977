"""LoRA-LEGO: can LoRA adapters be taken apart by rank and rebuilt as one? (arXiv 2409.16167)

permlab task=lora_lego                                             # train three adapters here, merge by every method
permlab task=lora_lego task.adapters=[A,B] task.method=lego        # merge adapters of your own
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from permlab.config import Config
from permlab.errors import UserError, check_choice, check_range

if TYPE_CHECKING:
    from permlab.adapters import MergeRule
    from permlab.runs.run import Run

HEADLINE = ("average_score", "single_score", "base_score", "seconds_merging")
MODELS = ("none", "causal_lm")
DATASETS = ("none",)
STUDIES = ("merge", "prune", "identities")
BENCHMARKS = ("knowledge", "lists", "text")
METHODS = ("lego", "linear", "cat", "svd", "ties", "dare", "knots")
GAUGES = ("none", "balanced", "svd")
PARAM_REWEIGHTS = ("l2", "max", "per_half", "none")
REGIMES = ("independent", "shared")
_RANKED = ("lego", "svd", "ties", "dare", "knots")


@dataclass
class BenchmarkTraining:
    """Training of the benchmark's base model and adapters; null takes the value that suits the benchmark."""

    base_steps: int | None = None
    base_batch: int | None = None
    adapter_steps: int | None = None
    adapter_batch: int | None = None
    learning_rate: float = 3e-3
    """Peak rate of AdamW, for the base and for the adapters."""


@dataclass
class LoraLegoConfig:
    """`task=lora_lego`"""

    name: str = "lora_lego"
    adapters: list[str] = field(default_factory=list)
    """PEFT adapter folders or hub ids to merge; empty trains adapters of the benchmark instead."""
    data: list[str] = field(default_factory=list)
    """With adapters: one JSONL file per adapter with `prompt` and `completion`, asked of `model`; empty skips it."""
    data_limit: int | None = None
    """Rows read per file."""
    method: str = "lego"
    """lego | linear | cat | svd | ties | dare | knots: what is written to artifacts/adapter"""
    rank: int | None = None
    """LEGO's k or the rank cut to; null: mean rank for lego, the largest for svd, all ranks for ties, dare, knots."""
    rank_ratio: float | None = None
    """Merged rank as a share of the pooled ranks of a module."""
    rank_pattern: dict[str, int] = field(default_factory=dict)
    """Merged rank by module, patterns as in PEFT."""
    weights: list[float] = field(default_factory=list)
    """One per adapter; empty is 1 each, and 1/n each for linear."""
    gauge: str = "balanced"
    """none (as in the paper) | balanced (|a| = |b|, fixed sign) | svd (singular basis of each adapter)"""
    features: str = "raw"
    """raw | normalized (both halves of a unit to length 1 for the clustering)"""
    sign_invariant: bool = False
    """Cluster units up to their sign."""
    param_reweight: str = "l2"
    """l2 | max | per_half | none: give a centroid the mean norm of its members"""
    output_reweight: bool = True
    """Multiply the update by sqrt(r / k)."""
    reference_rank: str = "mean"
    """r of sqrt(r / k) where ranks differ: mean | max | min | a number"""
    n_init: int = 10
    """Restarts of k-means."""
    spread_seeds: int = 2
    """With adapters and method=lego: merge again with as many other seeds and report the difference; 0 skips it."""
    density: float = 0.5
    """ties, dare, knots: share of the entries that are kept"""
    trim_space: str = "delta"
    """ties, dare: delta (entries of the update) | factor (entries of A and B, as PEFT)"""
    election: bool = False
    """dare: also elect signs, as dare_ties"""
    sign_method: str = "total"
    """ties, dare, knots: total | frequency"""
    extra: str = "same"
    """Tensors beside the LoRA factors (modules_to_save): same | average | first | drop"""
    study: str = "merge"
    """merge (every method on trained adapters) | prune (one adapter, fewer ranks) | identities (no training)"""
    benchmark: str = "knowledge"
    """knowledge (entity -> attribute) | lists (six list operations) | text (four sentence datasets)"""
    folder: str | None = None
    """benchmark=text: folder with TREC.{train,test}.all, stsa.binary.{train,test}, subj.all, rt-polarity.all"""
    questions: int | None = 400
    """benchmark=text: most test sentences per dataset (a quarter as many for validation); null = all"""
    counts: list[int] = field(default_factory=lambda: [3])
    """How many adapters are merged; the largest is how many are trained."""
    regimes: list[str] = field(default_factory=lambda: ["independent"])
    """independent (every adapter starts from its own A) | shared (all start from one A)"""
    repeats: int = 1
    """Seeds: seed, seed + 1, ...; base, adapters, clustering and test split are all drawn anew."""
    lora_ranks: list[int] = field(default_factory=lambda: [8])
    """Ranks of the trained adapters, repeated as often as needed."""
    lora_alpha: float = 16.0
    facts: int = 600
    """benchmark=knowledge: facts of the base"""
    facts_per_adapter: int = 40
    validation: float = 0.5
    """benchmark=knowledge: share of the facts that picks the scale"""
    scales: list[float] = field(default_factory=lambda: [0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0, 3.0])
    """Factors tried on every merged update; the best on the validation questions is the tuned one."""
    sweep: list[float] = field(default_factory=lambda: [0.5, 1.0, 2.0])
    """LEGO's k as multiples of the mean rank; all units together are always added."""
    train: BenchmarkTraining = field(default_factory=BenchmarkTraining)


def validate(config: Config) -> None:
    """Check choices, ranges and combinations."""
    task = config.task
    for key, options in _choices().items():
        check_choice(f"task.{key}", getattr(task, key), options)
    for regime in task.regimes:
        check_choice("task.regimes", regime, REGIMES)
    if task.reference_rank not in ("mean", "max", "min"):
        if not task.reference_rank.isdigit():
            raise UserError(f"task.reference_rank={task.reference_rank} is not mean, max, min or a number")
        check_range("task.reference_rank", int(task.reference_rank), 1)
    if task.rank is not None:
        check_range("task.rank", task.rank, 1)
    if task.rank_ratio is not None:
        check_range("task.rank_ratio", task.rank_ratio, 0, 1)
    if (task.rank is not None or task.rank_ratio is not None) and task.method not in _RANKED:
        raise UserError(f"task.method={task.method} has no rank to choose; drop task.rank or use {', '.join(_RANKED)}")
    if task.rank is not None and task.rank_ratio is not None:
        raise UserError("task.rank and task.rank_ratio are both set; keep one")
    check_range("task.n_init", task.n_init, 1)
    check_range("task.spread_seeds", task.spread_seeds, 0)
    check_range("task.density", task.density, 0, 1)
    if task.adapters:
        validate_files(config)
    else:
        validate_benchmark(config)


def _choices() -> dict[str, tuple[str, ...]]:
    return {
        "method": METHODS,
        "gauge": GAUGES,
        "features": ("raw", "normalized"),
        "param_reweight": PARAM_REWEIGHTS,
        "trim_space": ("delta", "factor"),
        "sign_method": ("total", "frequency"),
        "extra": ("same", "average", "first", "drop"),
        "study": STUDIES,
        "benchmark": BENCHMARKS,
    }


def validate_files(config: Config) -> None:
    """Check the keys that matter with adapters of the user."""
    task = config.task
    if task.study != "merge":
        raise UserError(f"task.study={task.study} trains its own adapters; drop task.adapters or set task.study=merge")
    if task.weights and len(task.weights) != len(task.adapters):
        count = len(task.adapters)
        raise UserError(f"task.weights has {len(task.weights)} values for {count} adapters; give one each")
    if task.data and len(task.data) != len(task.adapters):
        raise UserError(f"task.data has {len(task.data)} files for {len(task.adapters)} adapters; give one each")
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


def validate_benchmark(config: Config) -> None:
    """Check the keys of the benchmarks that train their own adapters."""
    task = config.task
    if task.data:
        raise UserError("task.data belongs to task.adapters; the benchmarks bring their own questions")
    if task.study == "identities":
        return
    if config.model.kind != "causal_lm" or config.model.path or config.model.lora.rank:
        raise UserError("the benchmarks build a small Llama of their own; use model=tiny-llama, or give task.adapters")
    from permlab.models.causal_lm_config import validate_causal_lm

    validate_causal_lm(config.model)
    most = {"knowledge": 60, "lists": 6, "text": 4}[task.benchmark]
    for key in ("counts", "regimes", "lora_ranks", "scales", "sweep"):
        if not getattr(task, key):
            raise UserError(f"task.{key} is empty; give at least one value")
    for count in task.counts:
        check_range("task.counts", count, 1, most)
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
    if task.benchmark == "text" and not (task.folder and Path(task.folder).is_dir()):
        raise UserError(f"task.benchmark=text needs task.folder=DIR with the sentence files (got {task.folder})")


def merge_rule(config: Config) -> MergeRule:
    """The merge that the keys of the task describe."""
    from permlab.adapters import LegoRule, MergeRule, TrimRule

    task = config.task
    return MergeRule(
        method=task.method,
        rank=task.rank,
        rank_ratio=task.rank_ratio,
        rank_pattern=dict(task.rank_pattern),
        weights=tuple(task.weights) or None,
        reference_rank=task.reference_rank,
        lego=LegoRule(
            gauge=task.gauge,
            features=task.features,
            sign_invariant=task.sign_invariant,
            param_reweight=task.param_reweight,
            output_reweight=task.output_reweight,
            n_init=task.n_init,
        ),
        trim=TrimRule(task.density, task.trim_space, task.election, task.sign_method),
        seed=config.seed,
    )


def plan(config: Config) -> dict[str, str]:
    """Describe a dry run; with adapters, open them and check that they fit together."""
    task = config.task
    if task.adapters:
        from permlab.tasks.lora_lego.files import describe

        return describe(config)
    if task.study == "identities":
        return {"study": "identities of LEGO on random adapters, nothing is trained"}
    models = task.repeats * (1 + len(task.regimes) * max(task.counts))
    return {
        "benchmark": f"{task.benchmark}, {task.study}, {task.repeats} seeds, regimes {', '.join(task.regimes)}",
        "training": f"{models} models: a base and {len(task.regimes)} x {max(task.counts)} adapters per seed",
        "adapters merged": ", ".join(map(str, task.counts)),
        "adapter ranks": ", ".join(map(str, task.lora_ranks)),
    }


def run(config: Config, run: Run) -> None:
    """Merge the adapters that are given, or train some and compare every method."""
    if config.task.adapters:
        from permlab.tasks.lora_lego.files import merge_files

        merge_files(config, run)
    elif config.task.study == "identities":
        from permlab.tasks.lora_lego.identities import check_identities

        check_identities(config, run)
    else:
        from permlab.tasks.lora_lego.bench import run_benchmark

        run_benchmark(config, run)
