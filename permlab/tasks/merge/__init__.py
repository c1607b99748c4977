"""Merging: can two networks be merged after permuting their units? (arXiv 2209.04836, 2402.04051, 2407.02447)

permlab task=merge                                                   # train pairs here, merge, every control beside it
permlab task=merge task.models=[A,B] task.match=weight               # merge networks of your own
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from permlab import registry
from permlab.config import Config
from permlab.data import DATASETS as DATA_SETS
from permlab.division import Shared
from permlab.errors import UserError, check_choice, check_range
from permlab.matching.table import MATCHES, SIMILARITIES
from permlab.merging.table import ALLOCATIONS, COMBINES, RENORMS
from permlab.tasks.merge.checks import validate_images
from permlab.tasks.merge.dry_run import plan_images, plan_language
from permlab.tasks.merge.extract import plan_extraction, run_extraction, validate_extraction
from permlab.tasks.merge.health import validate_health
from permlab.tasks.merge.language import is_language, validate_language
from permlab.tasks.merge.numbers import check_numbers
from permlab.tasks.merge.recipe import check_recipe_keys, stacks, with_recipe
from permlab.tasks.merge.settings import MergeConfig as MergeConfig
from permlab.tasks.merge.table import ANALYSES, STUDIES
from permlab.tasks.merge.table import LESS_MEMORY as LESS_MEMORY

if TYPE_CHECKING:
    from permlab.footprint import Footprint
    from permlab.runs.run import Run

OBJECTIVE = "-loss_barrier"
HEADLINE = ("loss_barrier", "accuracy_barrier", "midpoint_accuracy", "naive_loss_barrier", "l2_reduction",
            "own_accuracy", "joint_accuracy")  # fmt: skip
MODELS = ("none", "vision", "causal_lm")
DATASETS = DATA_SETS


def validate(config: Config[MergeConfig]) -> None:
    """Check choices, ranges and combinations; nothing is downloaded, and only headers of files are read.

    Raises:
        UserError: with one line that names the key and the remedy.
    """
    check_recipe_keys(config)
    if config.task.extract_rank is not None:
        validate_extraction(config)
        return
    check_choice("task.study", config.task.study, STUDIES)
    if alone := STUDIES[config.task.study].alone:
        registry.load(f"{alone}:validate")(config)
        return
    config = with_recipe(config)
    task = config.task
    for key, options in (
        ("match", MATCHES), ("combine", COMBINES), ("renorm", RENORMS),
        ("allocation", ALLOCATIONS), ("similarity", SIMILARITIES),
    ):  # fmt: skip
        check_choice(f"task.{key}", getattr(task, key), options)
    for analysis in task.analyses:
        check_choice("task.analyses", analysis, ANALYSES)
    check_range("task.budget", task.budget, 1, 2)
    check_range("task.points", task.points, 3)
    if task.points % 2 == 0:
        raise UserError(f"task.points={task.points} has no midpoint: use an odd number")
    for key in ("restarts", "steps", "pairs"):
        check_range(f"task.{key}", getattr(task, key), 1)
    if len(task.models) == 1 and not stacks(config):
        raise UserError("task.models has 1 network: give two or more, or leave it out and pairs are trained here")
    check_numbers(config, len(task.models) or 2)
    if is_language(config):
        validate_language(config)
        validate_health(config)
    else:
        validate_images(config)


def plan(config: Config[MergeConfig]) -> dict[str, Any]:
    """Extra lines of `run.dry_run=true`; files are opened.

    Raises:
        UserError: for files that are missing or do not fit.
    """
    if config.task.extract_rank is not None:
        return plan_extraction(config)
    if alone := STUDIES[config.task.study].alone:
        lines: dict[str, Any] = registry.load(f"{alone}:plan")(config)
        return lines
    config = with_recipe(config)
    return plan_language(config) if is_language(config) else plan_images(config)


def footprint(config: Config[MergeConfig]) -> Footprint | None:
    """Memory and time, where networks and data are at hand."""
    if config.task.extract_rank is not None or STUDIES[config.task.study].alone:
        return None
    from permlab.tasks.merge.needs import footprint

    return footprint(with_recipe(config))


def shares(config: Config[MergeConfig]) -> Shared | None:
    """Return what several processes share: pairs that are trained here."""
    task = with_recipe(config).task
    pairs = task.pairs * max(1, len(set(task.widths)) if STUDIES[task.study].widths else 1)
    return None if task.models else Shared(pairs, f"pairs (task.pairs={task.pairs})")


def run(config: Config[MergeConfig], run: Run) -> None:
    """Get the networks, match, combine, judge, write."""
    if config.task.extract_rank is not None:
        run_extraction(config, run)
        return
    config = with_recipe(config)
    if is_language(config) and not STUDIES[config.task.study].alone:
        from permlab.tasks.merge.language_run import run_language

        run_language(config, run)
    else:
        STUDIES[config.task.study].load()(config, run)


def sweep_figures(groups: list[tuple[dict[str, str], list[dict[str, float]]]]) -> dict[str, Any]:
    """Every arm against the width, when jobs of a sweep differ in it."""
    from permlab.tasks.merge.figures.arms import draw_sweep

    key = next((key for key in ("model.width", "task.share", "task.budget") if key in groups[0][0]), None)
    if key is None or len(groups[0][0]) > 1 or not all(metrics for _, metrics in groups):
        return {}
    if not any(name.endswith("_midpoint_accuracy") for name in groups[0][1][0]):
        return {}  # the studies lmc and pleas draw their own
    return {f"arms_against_{key.split('.')[1]}": draw_sweep(key, groups)}
