"""LoRA-LEGO: can LoRA adapters be taken apart by rank and rebuilt as one? (arXiv 2409.16167)

permlab task=lora_lego                                             # train three adapters here, merge by every method
permlab task=lora_lego task.adapters=[A,B] task.method=lego        # merge adapters of your own
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from permlab.adapters.benchmark.settings import BenchmarkSettings, check_settings
from permlab.adapters.benchmark.table import BENCHMARKS
from permlab.adapters.merge_rule import MergeRule, check_rule
from permlab.adapters.table import EXTRA_RULES
from permlab.config import Config
from permlab.errors import UserError, check_range
from permlab.keys import choice
from permlab.tasks.lora_lego.table import LORA_STUDIES

if TYPE_CHECKING:
    from permlab.footprint import Footprint
    from permlab.runs.run import Run

OBJECTIVE = "average_score"
HEADLINE = ("average_score", "single_score", "base_score", "seconds_merging")
LESS_MEMORY = ("a smaller task.rank", "fewer task.adapters at a time", "hardware.threads=1")
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
    calibration: str | None = None
    """With adapters: texts (.txt or .jsonl) run through `model`, to merge in the metric of the modules' outputs."""
    spread_seeds: int = 2
    """With adapters and method=lego: merge again with as many other seeds and report the difference; 0 skips it."""
    extra: str = choice("same", EXTRA_RULES)
    """What becomes of tensors beside the LoRA factors (modules_to_save)."""
    study: str = choice("merge", LORA_STUDIES)
    """Without task.adapters: what is compared on adapters that are made here."""


def validate(config: Config[LoraLegoConfig]) -> None:
    """Check choices, ranges and combinations."""
    task = config.task
    LORA_STUDIES.check("task.study", task.study)
    EXTRA_RULES.check("task.extra", task.extra)
    BENCHMARKS.check("task.benchmark", task.benchmark)
    check_rule(task, "task.")
    check_range("task.spread_seeds", task.spread_seeds, 0)
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
    if task.calibration is not None:
        if not Path(task.calibration).is_file():
            raise UserError(f"task.calibration: {task.calibration} is no file")
        if not getattr(config.model, "path", None):
            raise UserError("task.calibration runs a model: set model=local model.path=DIR, or drop task.calibration")
    if task.data_limit is not None:
        check_range("task.data_limit", task.data_limit, 1)
    if config.model.kind == "causal_lm" and config.model.path:
        from permlab.models.causal_lm_config import validate_causal_lm

        validate_causal_lm(config.model)
        if config.model.lora.rank:
            raise UserError("task.adapters brings its own LoRA; drop model.lora.rank")


def validate_benchmark(config: Config[LoraLegoConfig]) -> None:
    """Check the keys of the benchmarks that train their own adapters."""
    task = config.task
    if task.data:
        raise UserError("task.data belongs to task.adapters; the benchmarks bring their own questions")
    if task.calibration:
        raise UserError("task.calibration belongs to task.adapters; experiment=lora_lego/pareto calibrates by itself")
    if task.weights:
        raise UserError("task.weights belongs to task.adapters; the benchmarks weight all adapters alike")
    if not LORA_STUDIES[task.study].trains:
        return
    if config.model.kind != "causal_lm" or config.model.path or config.model.lora.rank:
        raise UserError("the benchmarks build a small Llama of their own; use model=tiny-llama, or give task.adapters")
    from permlab.models.causal_lm_config import validate_causal_lm

    validate_causal_lm(config.model)
    check_settings(task, "task.")
    if LORA_STUDIES[task.study].needs:
        validate_real(config)


def validate_real(config: Config[LoraLegoConfig]) -> None:
    """Check the files that `task.study=real` reads."""
    from permlab.adapters.benchmark.sentences import FILES

    task = config.task
    missing = [name for name in FILES if not (Path(task.folder or "") / name).is_file()]
    if task.folder is None or missing:
        needs = f"task.study={task.study} needs task.folder=DIR with the sentence files"
        raise UserError(f"{needs} ({task.folder} lacks {', '.join(missing)})")
    if task.corpus is not None and not list(Path(task.corpus).glob("*.txt")):
        raise UserError(f"task.corpus={task.corpus} is no folder with .txt files; null generates text")
    for path in task.ood:
        if not Path(path).is_file():
            raise UserError(f"task.ood: {path} is no file of `label sentence` lines")


def plan(config: Config[LoraLegoConfig]) -> dict[str, Any]:
    """Describe a dry run; with adapters, open them and check that they fit together."""
    task = config.task
    if task.adapters:
        return plan_own(config)
    if not LORA_STUDIES[task.study].trains:
        return {"study": f"{LORA_STUDIES[task.study].about}; nothing is trained"}
    models = task.repeats * (1 + len(task.regimes) * max(task.counts))
    return {
        "benchmark": f"{task.benchmark}, {task.study}, {task.repeats} seeds, regimes {', '.join(task.regimes)}",
        "training": f"{models} models: a base and {len(task.regimes)} x {max(task.counts)} adapters per seed",
        "adapters merged": ", ".join(map(str, task.counts)),
        "adapter ranks": ", ".join(map(str, task.lora_ranks)),
    }


def plan_own(config: Config[LoraLegoConfig]) -> dict[str, Any]:
    """The same with adapters of the user: looked for before anything heavy is loaded, then opened."""
    task, model = config.task, config.model
    lines: dict[str, Any] = {"given": ", ".join(map(str, task.adapters)), "method": task.method}

    @functools.cache
    def places() -> list[str]:
        from permlab.adapters.locate import look_for

        return [look_for(path) for path in task.adapters]

    @functools.cache
    def opened() -> dict[str, str]:
        from permlab.tasks.lora_lego.own_adapters import describe

        return describe(config)

    lines["found"] = lambda: ", ".join(places())
    if task.data or task.calibration:
        lines["model"] = lambda: f"{model.name} ({model.path}, {model_place(config)})"
    for key in ("adapters", "merged"):
        lines[key] = functools.partial(lambda key: opened()[key] if "on the hub" not in places() else UNSEEN, key)
    if task.calibration:
        lines["calibration"] = lambda: calibration_line(config)
    return lines | {"questions": lambda: questions_line(config)}


UNSEEN = "on the hub, not looked at"


def model_place(config: Config[LoraLegoConfig]) -> str:
    """Where the model is that is asked; refuses one that cannot be had."""
    from permlab.models.availability import check_available

    return check_available(config.model)


def calibration_line(config: Config[LoraLegoConfig]) -> str:
    """How many texts are run through the model; every row is read."""
    from permlab.tasks.lora_lego.own_adapters import calibration_texts

    return f"{len(calibration_texts(config))} texts of {config.task.calibration}"


def questions_line(config: Config[LoraLegoConfig]) -> str:
    """The files of questions; every row is read."""
    from permlab.adapters.completions import read_questions

    counts = [f"{len(read_questions(path, config.task.data_limit))} in {path}" for path in config.task.data]
    return ", ".join(counts) or "none: the merge is written, nothing is scored"


def footprint(config: Config[LoraLegoConfig]) -> Footprint | None:
    """Memory and time: of adapters of the user, or of training some."""
    from permlab.tasks.lora_lego.needs import merging_needs, training_needs

    return merging_needs(config) if config.task.adapters else training_needs(config)


def run(config: Config[LoraLegoConfig], run: Run) -> None:
    """Merge the adapters that are given, or train some and compare every method."""
    if config.task.adapters:
        from permlab.tasks.lora_lego.own_adapters import merge_own

        merge_own(config, run)
    else:
        LORA_STUDIES[config.task.study].load()(config, run)
