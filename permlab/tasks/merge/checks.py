"""Checks of `permlab task=merge` on image classifiers that need nothing heavy: choices, ranges, combinations, files."""

from __future__ import annotations

from permlab.config import Config
from permlab.data import DATASETS, check_dataset
from permlab.errors import UserError, check_choice, check_range
from permlab.matching.table import MATCHES
from permlab.merging.arm import Arm, check_arm, parse_arm
from permlab.merging.networks.options import check_parts
from permlab.merging.setting import COEFFICIENTS
from permlab.merging.table import COMBINES, DOMAINS, OPTIMIZERS, RENORMS, SCHEDULES
from permlab.models.table import MODELS, VISION
from permlab.models.vision_config import check_width, norm_of, validate_vision
from permlab.tasks.merge.settings import MergeConfig
from permlab.tasks.merge.table import STUDIES


def validate_images(config: Config[MergeConfig]) -> None:
    """Check the model, the images and the arms.

    Raises:
        UserError: naming the key and the remedy.
    """
    check_model(config)
    check_images(config)
    check_networks(config)
    check_study(config)
    check_zip(config)
    for number, arm in enumerate(arms_of(config)):
        try:
            check_arm(arm)
            check_fit(config, arm)
        except UserError as error:
            where = f"task.match={arm.match} task.combine={arm.combine}" if not number else "task.compare"
            raise UserError(f"{where}: {error}") from None
    check_training(config)


def arms_of(config: Config[MergeConfig]) -> list[Arm]:
    """The configured arm, then those to compare."""
    task = config.task
    return [Arm(task.match, task.combine, task.renorm), *map(parse_arm, task.compare)]


def check_model(config: Config[MergeConfig]) -> None:
    """The network, where it is built here."""
    model = config.model
    if model.kind == "none" and config.task.models:
        return  # merged networks on disk say themselves what they are
    if not MODELS[model.kind].images:
        names = ", ".join(VISION)
        raise UserError(f"model={model.name} reads no images: choose one of {names}, or a text dataset for it")
    validate_vision(model)
    for width in config.task.widths:
        check_width(model.name, width, "task.widths")


def check_images(config: Config[MergeConfig]) -> None:
    """The data set and its files."""
    data = config.dataset
    if not DATASETS[data.kind].gives_images:
        fitting = ", ".join(DATASETS.where(gives_images=True))
        raise UserError(f"dataset={data.name} has no images, which model={config.model.name} needs: use {fitting}")
    check_dataset(data)


def check_networks(config: Config[MergeConfig]) -> None:
    """How many networks there are, and what each of them sees."""
    task = config.task
    count = len(task.models) or 2
    check_weights(config, count)
    if task.domains and len(task.domains) != count:
        raise UserError(f"task.domains has {len(task.domains)} values for {count} networks: give one each")
    for kind in task.domains:
        DOMAINS.check("task.domains", kind)
    check_parts(task, "task.")
    if task.models:
        for key, plain in (("labels", 1), ("share", 1.0), ("uneven", None), ("domains", []), ("pairs", 1)):
            if getattr(task, key) != plain:
                raise UserError(f"task.{key} belongs to networks trained here: drop it, or drop task.models")
    elif task.ancestor:
        raise UserError(
            "task.ancestor belongs to task.models; networks trained here are given an ancestor of their own"
        )


def check_weights(config: Config[MergeConfig], count: int) -> None:
    """One weight per network, which the way to combine has a use for."""
    task, row = config.task, COMBINES[config.task.combine]
    if not task.weights:
        return
    if len(task.weights) != count:
        raise UserError(f"task.weights has {len(task.weights)} values for {count} networks: give one each")
    if not row.weights:
        raise UserError(f"combine={row.name} has no weights: drop task.weights")
    if min(task.weights) < 0 or sum(task.weights) <= 0:
        raise UserError(f"task.weights={task.weights} must not be negative and not all be zero")


def check_study(config: Config[MergeConfig]) -> None:
    """Keys that a study has no use for.

    Raises:
        UserError: naming the key.
    """
    task, study = config.task, STUDIES[config.task.study]
    if task.models and not study.arms:
        raise UserError(f"task.study={study.name} trains its own networks: drop task.models, or use study=merge")
    if study.one_task and (task.labels > 1 or task.domains):
        raise UserError(f"task.study={study.name} compares networks of one task: drop task.labels and task.domains")
    useless = {"weights": task.weights, "budget": task.budget > 1} if not study.arms else {}
    useless |= {"compare": task.compare} if not study.compares else {}
    for key, given in useless.items():
        if given:
            raise UserError(f"task.study={study.name} merges in ways of its own: drop task.{key}")
    if not study.arms and any("ancestor" in COMBINES[arm.combine].needs for arm in arms_of(config)[1:]):
        raise UserError(f"task.study={study.name} trains no common ancestor: drop such arms from task.compare")


def check_zip(config: Config[MergeConfig]) -> None:
    """The numbers of ZipIt, and that an arm zips where one is set."""
    task = config.task
    check_range("task.zip_alpha", task.zip_alpha, 0, 1)
    check_range("task.zip_beta", task.zip_beta, 0, 1)
    if task.zip_stop is not None:
        if not any(MATCHES[arm.match].zips for arm in arms_of(config)):
            raise UserError("task.zip_stop belongs to match=zip: set task.match=zip task.combine=zip, or drop it")
        if len(task.models) > 2:
            raise UserError(f"task.zip_stop keeps units of two networks apart, not of {len(task.models)}: drop it")


def check_fit(config: Config[MergeConfig], arm: Arm) -> None:
    """An arm against the networks and the other keys.

    Raises:
        UserError: with what to change.
    """
    task, count = config.task, len(config.task.models) or 2
    first = arm == Arm(task.match, task.combine, task.renorm)
    row = COMBINES[arm.combine]
    if "ancestor" in row.needs and task.models and not task.ancestor:
        raise UserError(f"{arm.combine} needs task.ancestor=PATH, the network that all were fine-tuned from")
    if count > 2 and row.pairs_only:
        others = [name for name in COMBINES.where(pairs_only=False) if not COMBINES[name].matches]
        raise UserError(f"{row.title} joins two networks, not {count}: use combine {', '.join(others)}")
    if first and task.budget > 1:
        if not row.partial:
            able = " or ".join(COMBINES.where(partial=True))
            raise UserError(f"task.budget={task.budget:g} needs combine {able}, not {arm.combine}")
        if count > 2:
            raise UserError(f"task.budget={task.budget:g} keeps units of two networks apart, not of {count}: use 1")
    if task.labels > 1 and MATCHES[arm.match].labelled:
        title = MATCHES[arm.match].title
        raise UserError(f"{title} needs networks with the same classes: use task.labels=1 or another match")
    if task.labels > 1 and task.weights:
        raise UserError("task.weights and task.labels=2 do not go together: drop task.weights")
    plain = norm_of(config.model) if MODELS[config.model.kind].images else "batch"
    if RENORMS[arm.renorm].changes and plain != "batch" and (MATCHES[arm.match].zips or count > 2):
        raise UserError(
            f"renorm={arm.renorm} without BatchNorm is REPAIR, which needs pairs of units, and {arm.text} of {count} "
            "networks has none: use renorm none"
        )


def check_training(config: Config[MergeConfig]) -> None:
    """Ranges of everything else."""
    task, train = config.task, config.task.train
    for key in ("epochs", "batch_size"):
        if getattr(train, key) is not None:
            check_range(f"task.train.{key}", getattr(train, key), 1)
    if train.rate is not None:
        check_range("task.train.rate", train.rate, 0, open_interval=True)
    check_range("task.train.weight_decay", train.weight_decay, 0)
    OPTIMIZERS.check("task.train.optimizer", train.optimizer)
    SCHEDULES.check("task.train.schedule", train.schedule)
    if train.tangent and (task.models or not any("ancestor" in COMBINES[arm.combine].needs for arm in arms_of(config))):
        raise UserError("task.train.tangent expands networks trained here around an ancestor: set task.combine to one")
    if train.tangent and norm_of(config.model) == "batch":
        raise UserError("task.train.tangent: statistics of BatchNorm are no parameters; set model.norm=layer, or mlp")
    check_choice("task.coefficients", task.coefficients, COEFFICIENTS)
    if task.images is not None:
        check_range("task.images", task.images, 2)
    if task.ridge is not None:
        check_range("task.ridge", task.ridge, 0)
