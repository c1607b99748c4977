"""Memory and time of `permlab task=merge`, before a network is trained or loaded."""

from __future__ import annotations

from typing import Any

from permlab import registry
from permlab.config import Config
from permlab.data import DATASETS, load_images, preview_texts
from permlab.footprint import Footprint, on_cpu
from permlab.merging.networks.options import recipe_of
from permlab.tasks.merge.dry_run import sized
from permlab.tasks.merge.language import is_language, local_checkpoints, memory
from permlab.tasks.merge.settings import MergeConfig

IMAGE_LIBRARIES, TEXT_LIBRARIES = 420e6, 620e6
"""Resident bytes of Python and what a merge loads, with networks of no size: image classifiers, language models."""
SMALL = 2.0**26
"""Bytes of weights up to which a network is made to count what it does."""
STATES = 20
"""Networks of one size at the fullest moment of a pair: both, what is trained or merged of them, cost matrices."""


def footprint(config: Config[MergeConfig]) -> Footprint | None:
    """Return what a run needs, or None where its networks or data are not at hand."""
    return language_needs(config) if is_language(config) else image_needs(config)


def language_needs(config: Config[MergeConfig]) -> Footprint | None:
    """Networks of the user: what `memory_gb` allows, or copies of all where they are scored; others as task=spt."""
    if config.task.models:
        opened = local_checkpoints(config)
        return merging_needs(config, opened) if opened else None
    from permlab.merging.networks.language import BATCH, EPOCHS
    from permlab.models.needs import shape_of, training_bytes, training_peak

    corpus, shape = preview_texts(config.dataset, config.seed), shape_of(config.model)
    if corpus is None or shape is None:
        return None
    train, words = config.task.train, [len(example.text.split()) for example in corpus.examples]
    batch = train.batch_size or BATCH
    parts = training_bytes(
        config.model, shape, min(batch, len(words)), 1.4 * max(words) + 2, heap=on_cpu(config.hardware)
    )
    readings = (train.epochs or EPOCHS) * len(words) * 2 * config.task.pairs
    macs = 3.0 * shape.parameters * readings * (1.4 * sum(words) / len(words) + 2)
    others = 3 * parts["weights"]
    return Footprint(
        training_peak(parts, shape) + others, parts | {"networks": others}, TEXT_LIBRARIES, macs, readings / batch
    )


def merging_needs(config: Config[MergeConfig], opened: list[Any]) -> Footprint:
    """Return what it takes to merge finished networks."""
    stored = float(sum(each.bytes for each in opened))
    peak = float(memory(config, opened))
    return Footprint(peak, {"networks": min(stored, peak), "merging": max(0.0, peak - stored)}, TEXT_LIBRARIES)


def image_needs(config: Config[MergeConfig]) -> Footprint | None:
    """Pairs of image classifiers."""
    import torch
    from torch import nn

    task, kind = config.task, DATASETS[config.dataset.kind]
    read_slowly = config.dataset.kind == "imagefolder"  # every picture would be decoded twice
    if task.models or read_slowly or (kind.fetches and registry.load(kind.fetches)(config.dataset)):
        return None
    data = load_images(config.dataset)
    network = sized(config.model, data)
    weights = 4.0 * sum(value.numel() for value in network.state_dict().values())
    recipe = recipe_of(config.model.name, task.train)
    batch = int(recipe["batch_size"])
    counted = {"macs": 0.0, "outputs": 0.0}

    def count(module: nn.Module, _: Any, output: Any) -> None:
        if not isinstance(output, torch.Tensor) or next(module.children(), None) is not None:
            return
        counted["outputs"] += output.numel()
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
            counted["macs"] += module.weight[0].numel() * output.numel()

    hooks = [module.register_forward_hook(count) for module in network.modules()]
    # Tensors without data make torch load its compiler, seconds that a dry run has not to spend on a small network.
    place = "cpu" if weights < SMALL else "meta"
    with torch.no_grad(), torch.device(place):
        network.to_empty(device=place).eval()(torch.zeros(1, *data.x_train.shape[1:]))
    for hook in hooks:
        hook.remove()
    scored = min(1000, len(data.x_train))
    parts = {"weights": weights, "gradients": weights, "optimizer": 2 * weights}
    parts |= {"activations": 4.0 * counted["outputs"] * max(batch, scored), "other networks": (STATES - 4) * weights}
    images = 4.0 * (data.x_train.numel() + data.x_test.numel())
    steps = int(recipe["epochs"]) * 2 * task.pairs * -(-len(data.x_train) // batch)
    positions = 3.0 * task.points * 6 * task.pairs  # on the lines of all arms, each scored on both sets
    both = min(task.images or len(data.x_train), len(data.x_train)) + len(data.x_test)
    macs = counted["macs"] * (3.0 * batch * steps + positions * both)
    return Footprint(sum(parts.values()) + images, parts | {"images": images}, IMAGE_LIBRARIES, macs, steps)
