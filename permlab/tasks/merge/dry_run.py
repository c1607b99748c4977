"""What `run.dry_run=true` says of `permlab task=merge`: networks, arms, data, memory."""

from __future__ import annotations

from typing import Any

from permlab.config import Config
from permlab.data import preview_texts
from permlab.tasks.merge.language import local_checkpoints, memory, text_kind
from permlab.tasks.merge.settings import MergeConfig
from permlab.tasks.merge.table import STUDIES


def plan_images(config: Config[MergeConfig]) -> dict[str, str]:
    """Lines of a dry run: networks, arms, images; files are opened."""
    from permlab.tasks.merge.pairs import pairs_of
    from permlab.tasks.merge.report import planned
    from permlab.tasks.merge.vision import load_users

    task, pairs = config.task, pairs_of(config)
    data = pairs.data
    lines: dict[str, Any] = {}
    if task.models:
        loaded = load_users(config, data)
        lines["networks"] = ", ".join(loaded.names)
        model: Any = loaded.module
    else:
        model, options = pairs.build(), pairs.recipe
        lines["networks"] = f"{task.pairs} x 2 {config.model.name}, width {config.model.width:g}, trained here"
        lines["training"] = (
            f"{options['epochs']} epochs, batch {options['batch_size']}, {options['optimizer']} {options['rate']:g}"
        )
    size = sum(value.numel() for value in model.state_dict().values())
    lines["parameters"] = f"{size:,} per network"
    lines["images"] = f"{len(data.x_train)} for training, {len(data.x_test)} for testing ({data.note})"
    lines["study"] = task.study
    if STUDIES[task.study].arms:
        lines["arms"] = "; ".join(each.label for each in planned(config, model))
    return lines


def plan_language(config: Config[MergeConfig]) -> dict[str, str]:
    """Lines of a dry run; the networks of the user are compared, and the memory they need is estimated.

    Raises:
        UserError: as `load_networks`, as far as headers and configurations show it; too little memory.
    """
    from permlab.hardware import check_memory
    from permlab.merging.networks.huggingface import compare_headers
    from permlab.tasks.merge.report import planned

    task, lines = config.task, {"arms": ", ".join(each.label for each in planned(config))}
    if text_kind(config):
        corpus = preview_texts(config.dataset, config.seed)
        lines["texts"] = f"{len(corpus.examples)}" if corpus else "on the hub, not looked at"
    if not task.models:
        lines["networks"] = f"{task.pairs} pairs of {config.model.name}, trained here"
        return lines
    opened = local_checkpoints(config)
    lines["networks"] = ", ".join(f"{each.name} ({each.parameters / 1e6:.1f}M parameters)" for each in opened)
    if len(opened) < len(task.models) + bool(task.ancestor):
        lines["networks"] += "; the rest is on the hub and not looked at"
    if len(opened) > 1:
        compare_headers(opened)
    if opened:
        needed = memory(config, opened)
        check_memory("merging these networks", needed, config.hardware)
        lines["memory"] = f"at most about {needed / 2**20:,.0f} MiB besides the libraries"
    lines["scored on"] = config.dataset.name if text_kind(config) else "nothing: the merge is written, not scored"
    return lines
