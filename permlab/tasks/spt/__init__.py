"""SPT: does training on permuted semantic units cure the reversal curse? (arXiv 2403.00758)

permlab task=spt task.order=original
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from permlab.config import Config
from permlab.data import DATASETS as DATA_SETS
from permlab.data import check_dataset
from permlab.errors import UserError, check_choice, check_range
from permlab.text import BUDGETS, ORDERS
from permlab.text.segment import ON_MISMATCH, SEGMENTERS

if TYPE_CHECKING:
    from permlab.runs.run import Run

HEADLINE = ("forward_accuracy", "reverse_accuracy")
MODELS = ("causal_lm",)
DATASETS = DATA_SETS.those(gives_texts=True)


@dataclass
class SegmenterConfig:
    """How texts are cut into semantic units (used by order=spt)."""

    name: str = "auto"
    """auto (oracle for generated data, presegmented for `[SEP]` files, else entities) | oracle | entities | rule |
    random | presegmented | llm"""
    max_units: int | None = None
    """Merge neighbours until no text has more units: many small units cost forward recall at a fixed budget."""
    on_mismatch: str = "fallback"
    """fallback (the whole text is one unit) | drop | raise, when the units do not give back the text"""
    entities: str | None = None
    """segmenter=entities: a file with one protected string per line."""
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


@dataclass
class TrainConfig:
    """Training with transformers' Trainer."""

    epochs: float = 80.0
    batch_size: int = 64
    """Texts per step and device."""
    accumulate: int = 1
    learning_rate: float = 3e-3
    warmup: float = 0.05
    """Share of the steps."""
    schedule: str = "cosine"
    """cosine | linear | constant_with_warmup"""
    weight_decay: float = 0.01
    clip: float = 1.0
    max_tokens: int = 512
    """Longer texts are cut."""
    log_steps: int = 10


@dataclass
class EvaluationConfig:
    """Recall after training."""

    batch_size: int = 128
    limit: int | None = None
    """Queries per wording, direction, group and kind; null = all."""
    likelihood: bool = True
    """Also compare true with shuffled answers by log-probability."""
    save_model: bool = True


@dataclass
class SptConfig:
    """`task=spt`"""

    name: str = "spt"
    order: str = "spt"
    """original | spt | token_reverse | word_reverse | entity_reverse | random_segment | word_permute"""
    p_original: float = 1 / 3
    """order=spt and word_permute: probability of reading the units as they are"""
    p_reversed: float = 1 / 3
    p_permuted: float = 1 / 3
    p_reordered: float = 0.5
    """the reversals: probability of the reversed reading"""
    max_segment: int = 2
    """order=random_segment: the longest segment in words"""
    dynamic: bool = True
    """draw anew in every epoch"""
    budget: str = "replace"
    """replace (texts, tokens and steps equal those of original) | data (each text as it is and reordered) |
    compute (the same in half the epochs)"""
    segmenter: SegmenterConfig = field(default_factory=SegmenterConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


def validate(config: Config) -> None:
    """Check choices, ranges and files, before anything heavy is loaded."""
    from permlab.models.causal_lm_config import validate_causal_lm

    task = config.task
    check_choice("task.order", task.order, ORDERS)
    check_choice("task.budget", task.budget, BUDGETS)
    for key in ("p_original", "p_reversed", "p_permuted", "p_reordered"):
        check_range(f"task.{key}", getattr(task, key), 0, 1)
    total = task.p_original + task.p_reversed + task.p_permuted
    if abs(total - 1) > 1e-6:
        raise UserError(f"task.p_original + task.p_reversed + task.p_permuted = {total:g}; they must sum to 1")
    if task.budget != "replace" and task.p_original > 1 - 1e-6 and task.order in ("spt", "word_permute"):
        raise UserError(f"task.budget={task.budget} needs a reordered copy; lower task.p_original")
    check_range("task.max_segment", task.max_segment, 1)
    validate_segmenter(config)
    train = task.train
    check_choice("task.train.schedule", train.schedule, ("cosine", "linear", "constant_with_warmup"))
    check_range("task.train.epochs", train.epochs, 0, open_interval=True)
    check_range("task.train.learning_rate", train.learning_rate, 0, open_interval=True)
    check_range("task.train.warmup", train.warmup, 0, 0.9)
    check_range("task.train.weight_decay", train.weight_decay, 0)
    check_range("task.train.max_tokens", train.max_tokens, 8)
    for key in ("batch_size", "accumulate", "log_steps"):
        check_range(f"task.train.{key}", getattr(train, key), 1)
    check_range("task.evaluation.batch_size", task.evaluation.batch_size, 1)
    if task.evaluation.limit is not None:
        check_range("task.evaluation.limit", task.evaluation.limit, 1)
    check_dataset(config.dataset)
    validate_causal_lm(config.model)


def validate_segmenter(config: Config) -> None:
    """Check the segmenter and that it fits the dataset."""
    segmenter, kind = config.task.segmenter, config.dataset.kind
    check_choice("task.segmenter.name", segmenter.name, ("auto", *SEGMENTERS))
    check_choice("task.segmenter.on_mismatch", segmenter.on_mismatch, ON_MISMATCH)
    if segmenter.max_units is not None:
        check_range("task.segmenter.max_units", segmenter.max_units, 1)
    check_range("task.segmenter.max_words", segmenter.max_words, 1)
    check_range("task.segmenter.concurrency", segmenter.concurrency, 1, 256)
    if segmenter.name == "oracle" and kind not in ("people", "symbolic"):
        raise UserError(f"task.segmenter.name=oracle needs generated data; dataset={kind} does not know its units")
    if segmenter.name == "presegmented" and kind != "presegmented" and not segmenter.units:
        raise UserError("task.segmenter.name=presegmented needs task.segmenter.units=FILE or dataset=presegmented")
    if segmenter.name == "llm" and bool(segmenter.path) == bool(segmenter.base_url):
        raise UserError("task.segmenter.name=llm needs either task.segmenter.path=DIR or task.segmenter.base_url=URL")
    if segmenter.base_url and not segmenter.model:
        raise UserError("task.segmenter.base_url needs task.segmenter.model=NAME")
    if segmenter.api_key_env and not os.environ.get(segmenter.api_key_env):
        name = segmenter.api_key_env
        raise UserError(f"task.segmenter.api_key_env={name}: that variable is not set; export {name}=... with the key")
    for key in ("entities", "units"):
        value = getattr(segmenter, key)
        if value and not Path(value).is_file():
            raise UserError(f"task.segmenter.{key}={value}: there is no such file")


def plan(config: Config) -> dict[str, str]:
    """Describe a dry run: order, segmenter, training, size and memory."""
    from permlab.hardware import check_memory
    from permlab.models.causal_lm import estimate_parameters
    from permlab.models.causal_lm_config import is_local

    task, model, train = config.task, config.model, config.task.train
    where = f"{model.path} ({'local' if is_local(model.path) else 'hub'})" if model.path else "built here"
    lines = {
        "order": f"{task.order}, budget {task.budget}, {'dynamic' if task.dynamic else 'static'}",
        "segmenter": task.segmenter.name,
        "training": f"{train.epochs:g} epochs, {train.batch_size}x{train.accumulate} texts a step, "
        f"learning rate {train.learning_rate:g}",
        "weights": f"{model.weights}, {where}, tokenizer {model.tokenizer}",
        "adapters": f"LoRA rank {model.lora.rank}" if model.lora.rank else "none, all weights are trained",
    }
    parameters = estimate_parameters(model)
    if parameters:
        # weights, gradients and two moments in float32; with adapters the weights alone count
        trained = 16 * parameters if not model.lora.rank else 4 * parameters
        check_memory("training", trained, config.hardware)
        lines["parameters"] = (
            f"at most {parameters / 1e6:,.2f}M; about {trained / 2**30:.2f} GiB for weights and optimizer"
        )
    return lines


def run(config: Config, run: Run) -> None:
    """Segment, train, ask, save."""
    from permlab.tasks.spt.workflow import train_and_ask

    train_and_ask(config, run)


def sweep_figures(groups: list[tuple[dict[str, str], list[dict[str, float]]]]) -> dict[str, Any]:
    """Figures of a sweep: the matrix of surface forms, or recall by what was varied."""
    from permlab.tasks.spt.figures import order_matrix, recall_by_arm

    return order_matrix(groups) or recall_by_arm(groups)
