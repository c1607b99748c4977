"""SPT: does training on permuted semantic units cure the reversal curse? (arXiv 2403.00758)

permlab task=spt task.order=original
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from permlab.config import Config
from permlab.data.loading import check_dataset, preview_texts
from permlab.data.table import DATASETS as DATA_SETS
from permlab.models.causal_lm_config import validate_causal_lm
from permlab.text.settings import (
    Ordering,
    RecallSettings,
    SegmenterSettings,
    TrainingSettings,
    check_ordering,
    check_recall,
    check_segmenter,
    check_training,
)
from permlab.text.table import ORDERS, SEGMENTERS

if TYPE_CHECKING:
    from permlab.runs.run import Run

HEADLINE = ("forward_accuracy", "reverse_accuracy")
MODELS = ("causal_lm",)
DATASETS = DATA_SETS.those(gives_texts=True)


@dataclass
class EvaluationConfig(RecallSettings):
    """Recall after training, and what is kept."""

    save_model: bool = True
    """Keep the trained model, or its adapter, in artifacts/model."""


@dataclass
class SptConfig(Ordering):
    """`task=spt`"""

    name: str = "spt"
    segmenter: SegmenterSettings = field(default_factory=SegmenterSettings)
    train: TrainingSettings = field(default_factory=TrainingSettings)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


def validate(config: Config[SptConfig]) -> None:
    """Check choices, ranges and files, before anything heavy is loaded."""
    task = config.task
    check_ordering(task, "task.")
    check_segmenter(task.segmenter, config.dataset.kind, "task.segmenter.")
    check_training(task.train, "task.train.")
    check_recall(task.evaluation, "task.evaluation.")
    check_dataset(config.dataset)
    validate_causal_lm(config.model)


def plan(config: Config[SptConfig]) -> dict[str, str]:
    """Describe a dry run: order, segmenter, training, size and memory."""
    from permlab.hardware import check_memory
    from permlab.models.causal_lm import check_available, check_cached, estimate_parameters, training_bytes
    from permlab.models.causal_lm_config import is_local

    task, model, train = config.task, config.model, config.task.train
    where = f"{model.path} ({'local' if is_local(model.path) else 'hub'})" if model.path else "built here"
    check_available(model)
    segmenter = SEGMENTERS[task.segmenter.chosen(config.dataset.kind)]
    if "model" in segmenter.needs and task.segmenter.path:
        check_cached(task.segmenter.path)
    corpus = preview_texts(config.dataset, config.seed)
    texts = f"{len(corpus.examples)}, {len(corpus.queries)} questions" if corpus else "on the hub, not looked at"
    lines = {
        "texts": texts,
        "order": f"{task.order}, budget {task.budget}, {'dynamic' if task.dynamic else 'static'}",
        "segmenter": segmenter.name if ORDERS[task.order].segmented else "none: this order moves no units",
        "training": f"{train.epochs:g} epochs, {train.batch_size}x{train.accumulate} texts a step, "
        f"learning rate {train.learning_rate:g}",
        "weights": f"{model.weights}, {where}, tokenizer {model.tokenizer}",
        "adapters": f"LoRA rank {model.lora.rank}" if model.lora.rank else "none, all weights are trained",
    }
    parameters = estimate_parameters(model)
    if parameters:
        trained = training_bytes(model, parameters)
        check_memory("training", trained, config.hardware)
        lines["parameters"] = (
            f"at most {parameters / 1e6:,.2f}M; about {trained / 2**30:.2f} GiB for weights and optimizer"
        )
    return lines


def run(config: Config[SptConfig], run: Run) -> None:
    """Segment, train, ask, save."""
    from permlab.tasks.spt.workflow import train_and_ask

    train_and_ask(config, run)


def sweep_figures(groups: list[tuple[dict[str, str], list[dict[str, float]]]]) -> dict[str, Any]:
    """Figures of a sweep: the matrix of surface forms, or recall by what was varied."""
    from permlab.tasks.spt.figures import order_matrix, recall_by_arm

    return order_matrix(groups) or recall_by_arm(groups)
