"""SPT: does training on permuted semantic units cure the reversal curse? (arXiv 2403.00758)

permlab task=spt task.order=original
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from permlab.config import Config
from permlab.data.loading import check_dataset
from permlab.data.table import DATASETS as DATA_SETS
from permlab.division import Shared
from permlab.errors import UserError, check_range
from permlab.models.causal_lm_config import is_local, validate_causal_lm
from permlab.models.table import OBJECTIVES, WEIGHTS
from permlab.text.settings import (
    GeneralSettings,
    Ordering,
    RecallSettings,
    SegmenterSettings,
    TrainingSettings,
    check_general,
    check_ordering,
    check_recall,
    check_segmenter,
    check_training,
)
from permlab.text.table import SEGMENTERS

if TYPE_CHECKING:
    from permlab.footprint import Footprint
    from permlab.runs.run import Run

OBJECTIVE = "reverse_accuracy"
HEADLINE = ("forward_accuracy", "reverse_accuracy")
LESS_MEMORY = ("a smaller task.train.batch_size", "model.gradient_checkpointing=true", "model.lora.rank=16")
MODELS = ("causal_lm",)
DATASETS = DATA_SETS.those(gives_texts=True)


@dataclass
class EvaluationConfig(RecallSettings):
    """Recall after training, and what is kept."""

    save_model: bool = True
    """Keep the trained model, or its adapter, in artifacts/model."""
    before: bool | None = None
    """Ask before training too; null does so where the model is pretrained."""
    every: int = 0
    """Steps between two rounds of questions while training, for a curve of recall; 0 asks at the end alone."""


@dataclass
class BaseConfig:
    """A small base model that is pretrained on general text first, once, and kept under <run.root>/bases."""

    pretrain: bool = False
    """Start from such a base instead of from what model= says."""
    corpus: str | None = None
    """Folder of .txt files, those with "test" in their names held out; null generates text."""


@dataclass
class SptConfig(Ordering):
    """`task=spt`"""

    name: str = "spt"
    base: BaseConfig = field(default_factory=BaseConfig)
    segmenter: SegmenterSettings = field(default_factory=SegmenterSettings)
    train: TrainingSettings = field(default_factory=TrainingSettings)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    general: GeneralSettings = field(default_factory=GeneralSettings)


def validate(config: Config[SptConfig]) -> None:
    """Check choices, ranges and files, before anything heavy is loaded."""
    task = config.task
    check_ordering(task, "task.")
    check_segmenter(task.segmenter, config.dataset.kind, "task.segmenter.")
    check_training(task.train, "task.train.")
    check_recall(task.evaluation, "task.evaluation.")
    check_range("task.evaluation.every", task.evaluation.every, 0)
    if task.evaluation.every and config.hardware.shard:
        raise UserError(
            "task.evaluation.every asks while training, when no process has all of a divided model: leave it"
        )
    check_general(task.general, "task.general.")
    check_base(config)
    special = {"train.pack": task.train.pack, "general.ratio": task.general.ratio, "base.pretrain": task.base.pretrain}
    masked = OBJECTIVES[config.model.objective].masked if config.model.objective in OBJECTIVES else False
    for key, value in special.items():
        if value and config.hardware.processes > 1:
            raise UserError(f"task.{key}={value} works in one process: leave it, or hardware.processes=1")
        if value and masked:
            raise UserError(f"task.{key}={value} is for causal models: leave it, or model.objective=causal")
    if masked and task.evaluation.harness:
        raise UserError("task.evaluation.harness asks causal models: leave it, or model.objective=causal")
    if masked and config.hardware.processes > 1:
        raise UserError("a masked model is trained in one process: hardware.processes=1")
    if task.general.ratio and task.general.path is None and not WEIGHTS[started_from(config)].pretrained:
        raise UserError(
            f"task.general.ratio={task.general.ratio:g} needs task.general.path=FILE: a model with random weights has "
            "no text of its own to keep"
        )
    check_dataset(config.dataset)
    validate_causal_lm(config.model, masked=True)


def check_base(config: Config[SptConfig]) -> None:
    """Refuse a corpus that is not there, and a base beside weights that are loaded."""
    base, model = config.task.base, config.model
    if base.pretrain and (model.path is not None or model.lora.rank):
        raise UserError("task.base.pretrain=true brings a model of its own, trained whole: leave model= and lora out")
    if base.corpus is not None and not base.pretrain:
        raise UserError("task.base.corpus is read with task.base.pretrain=true")
    if base.corpus is not None and not list(Path(base.corpus).glob("*.txt")):
        raise UserError(f"task.base.corpus={base.corpus} is no folder with .txt files; null generates text")


def started_from(config: Config[SptConfig]) -> str:
    """Return the name in `permlab.models.table.WEIGHTS` of what the training starts from."""
    return "pretrained" if config.task.base.pretrain else config.model.weights


def plan(config: Config[SptConfig]) -> dict[str, Any]:
    """Describe a dry run: model, texts, order, segmenter, training, size and memory."""
    task, train, rank = config.task, config.task.train, config.model.lora.rank
    model, place = config.model, where(config.model)
    pace, base = train.used(started_from(config), rank > 0), task.base
    ours = f"pretrained here, on {base.corpus or 'generated text'}, unless it lies in {config.run.root}/bases"
    return {
        "weights": ours if base.pretrain else f"{model.weights}, {place}, tokenizer {model.tokenizer}",
        "found": lambda: found_line(config),
        "texts": lambda: texts_line(config),
        "order": f"{task.order}, budget {task.budget}, {'dynamic' if task.dynamic else 'static'}",
        "segmenter": lambda: segmenter_line(config) if task.segmented else f"none: {UNMOVED}",
        "training": f"{pace.epochs:g} epochs, {train.batch_size}x{train.accumulate} texts a step, "
        f"learning rate {pace.learning_rate:g}, weight decay {pace.weight_decay:g}",
        "adapters": f"LoRA rank {rank}" if rank else "none, all weights are trained",
        "parameters": lambda: parameters_line(config),
    }


UNMOVED = "this order moves no units"


def where(model: Any) -> str:
    """Where the model comes from, as it is written."""
    return f"{model.path} ({'local' if is_local(model.path) else 'hub'})" if model.path else "built here"


def found_line(config: Config[SptConfig]) -> str:
    """Where the model is; refuses one that cannot be had."""
    from permlab.models.availability import check_available

    return check_available(config.model)


def texts_line(config: Config[SptConfig]) -> str:
    """How many texts and questions there are; every row is read."""
    from permlab.tasks.spt.looked_at import corpus_of

    corpus = corpus_of(config)
    return f"{len(corpus.examples)}, {len(corpus.queries)} questions" if corpus else "on the hub, not looked at"


def segmenter_line(config: Config[SptConfig]) -> str:
    """Which segmenter cuts the texts, and how; refuses one whose model cannot be had, or that finds too few units."""
    from permlab.models.availability import check_path
    from permlab.tasks.spt.looked_at import corpus_of, units_of

    settings = config.task.segmenter
    row = SEGMENTERS[settings.chosen(config.dataset.kind)]
    if "model" in row.needs:
        if settings.path:
            check_path(settings.path)
        return row.name
    corpus = corpus_of(config)
    if corpus is None:
        return row.name
    segmented = units_of(config, corpus)
    return f"{row.name}, {segmented.mean_units:.2f} units a text, {segmented.fallback} texts without"


def parameters_line(config: Config[SptConfig]) -> str:
    """The number of weights, where it can be estimated."""
    from permlab.models.needs import estimate_parameters

    parameters = estimate_parameters(config.model)
    return f"at most {parameters / 1e6:,.2f}M" if parameters else "not known before the model is loaded"


def footprint(config: Config[SptConfig]) -> Footprint | None:
    """Memory and time, where model and texts are at hand."""
    from permlab.tasks.spt.needs import footprint

    return footprint(config)


def shares(config: Config[SptConfig]) -> Shared:
    """Return what several processes share: the rows of every batch of one training."""
    rows = config.task.train.batch_size
    return Shared(rows, f"the rows of a batch (task.train.batch_size={rows})", True, config.model.lora.rank > 0)


def follow(config: Config[SptConfig], path: Path) -> None:
    """Take part in the training of a run in `path`, as one of its processes but the first."""
    from permlab.tasks.spt import workflow

    workflow.follow(config, path)


def run(config: Config[SptConfig], run: Run) -> None:
    """Segment, train, ask, save."""
    from permlab.tasks.spt.workflow import train_and_ask

    train_and_ask(config, run)


def sweep_figures(groups: list[tuple[dict[str, str], list[dict[str, float]]]]) -> dict[str, Any]:
    """Figures of a sweep: the matrix of surface forms, or recall by what was varied."""
    from permlab.tasks.spt.figures import order_matrix, recall_by_arm

    return order_matrix(groups) or recall_by_arm(groups)
