"""What `run.dry_run=true` says of `permlab task=merge`: networks, arms, data."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from permlab import registry
from permlab.config import Config
from permlab.data import DATASETS, load_images, preview_texts
from permlab.merging.networks.options import recipe_of
from permlab.models.availability import check_available
from permlab.models.vision_config import norm_of
from permlab.runs.readiness import Told
from permlab.storage.hub import is_hub_id, look_up
from permlab.tasks.merge.health import plan_health
from permlab.tasks.merge.language import local_checkpoints, text_kind
from permlab.tasks.merge.recipe import wanted
from permlab.tasks.merge.report import planned
from permlab.tasks.merge.settings import MergeConfig
from permlab.tasks.merge.table import STUDIES


def plan_images(config: Config[MergeConfig]) -> dict[str, Any]:
    """Lines of a dry run: networks, arms, images; files are opened, what is on the hub is not fetched."""
    task, width = config.task, getattr(config.model, "width", None)
    trained = f"{task.pairs} x 2 {config.model.name}, width {width:g}, trained here" if width else ""
    fetches = DATASETS[config.dataset.kind].fetches
    lines: dict[str, Any] = {}
    if task.models:
        lines |= {"model": "of task.models", "networks": lambda: networks_line(config)}
    else:
        lines["networks"] = trained

    @functools.cache
    def data() -> Any:
        return load_images(config.dataset)

    def images() -> str:
        if fetches and registry.load(fetches)(config.dataset):
            return "on the hub, not looked at"
        return f"{len(data().x_train)} for training, {len(data().x_test)} for testing ({data().note})"

    lines |= {"images": images, "study": task.study}
    if not (fetches and config.dataset.kind == "hub"):
        lines |= built_lines(config, data)
    return lines


def built_lines(config: Config[MergeConfig], data: Any) -> dict[str, Any]:
    """Lines that need the networks themselves."""
    task = config.task

    @functools.cache
    def users() -> Any:
        from permlab.tasks.merge.vision import load_users

        return load_users(config, data())

    def module() -> Any:
        return users().module if task.models else sized(config.model, data())

    def parameters() -> str:
        return f"{sum(value.numel() for value in module().state_dict().values()):,} per network"

    def training() -> str:
        options = recipe_of(config.model.name, task.train)
        return f"{options['epochs']} epochs, batch {options['batch_size']}, {options['optimizer']} {options['rate']:g}"

    def arms() -> str:
        return "; ".join(each.label for each in planned(config, batchnorm=batchnorm()))

    def batchnorm() -> bool:
        if not task.models:
            return norm_of(config.model) == "batch"
        from permlab.merging.methods.repair import batchnorms

        return bool(batchnorms(module()))

    # Networks of the user are loaded and compared before a run, too: what does not fit together is refused.
    lines: dict[str, Any] = {"parameters": parameters if task.models else Told(parameters)}
    if not task.models:
        lines["training"] = training
    if STUDIES[task.study].arms:
        lines["arms"] = Told(arms)
    return lines


def sized(network: Any, data: Any) -> Any:
    """A network that will be trained, without memory for its weights."""
    import torch

    from permlab.models.vision import build_vision_model

    with torch.device("meta"):
        return build_vision_model(
            network.name,
            shape=data.shape,
            classes=data.classes,
            width=network.width,
            depth=network.depth,
            norm=network.norm,
        )


def plan_language(config: Config[MergeConfig]) -> dict[str, Any]:
    """Lines of a dry run; the networks of the user are compared."""
    task = config.task
    lines: dict[str, Any] = {}
    if task.models:
        lines |= {"model": "of task.models", "networks": lambda: networks_line(config)}
    else:
        lines["networks"] = lambda: f"{task.pairs} pairs of {config.model.name}, trained here"
        lines["weights"] = lambda: f"scratch, {check_available(config.model)}"
    if text_kind(config):
        lines["texts"] = lambda: texts_line(config)
    elif task.models:
        lines["dataset"] = "none: the merge is written, not scored"
    if task.models:
        lines["health"] = lambda: plan_health(config)
    return lines | {"arms": ", ".join(each.label for each in planned(config))}


def texts_line(config: Config[MergeConfig]) -> str:
    """How many texts there are; every row is read."""
    corpus = preview_texts(config.dataset, config.seed)
    return f"{len(corpus.examples)}" if corpus else "on the hub, not looked at"


def networks_line(config: Config[MergeConfig]) -> str:
    """The networks of the user with their sizes; refuses what cannot be had, and what does not fit together."""
    from permlab.merging.networks.huggingface import compare_headers

    paths = [*config.task.models, *([config.task.ancestor] if config.task.ancestor else [])]
    for path in paths:
        if is_hub_id(path):
            look_up(path, [("config.json",), ("model.safetensors", "model.safetensors.index.json")])
    opened = local_checkpoints(config)
    if len(opened) > 1 and opened[0].kind == "huggingface":
        compare_headers(opened, wanted(config, Path()), config.task.ancestor is not None)
    kinds = [(each.config.get("architectures") or [each.kind])[0] for each in opened]
    described = [f"{each.name} ({kind}, {each.parameters / 1e6:,.2f}M parameters)" for each, kind in zip(opened, kinds)]
    rest = [f"{path} (on the hub, not looked at)" for path in paths if is_hub_id(path)]
    return ", ".join([*described, *rest])
