"""What every merging study starts from: image data, networks trained in pairs, their verified symmetry.

    data = load_data(config)
    model = build(config, data)
    spec = spec_of(model, data)                                   # declared or inferred, then verified
    first, second = train_pair(config, run, data, model, pair=0)

Seeds of pair p and network k: the initial weights from (seed, "init", p, k), the order of the batches from
(seed, "order", p, k), the choice of images (`task.share`) from (seed, "share", p).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from permlab.config import Config
from permlab.data import ImageData, load_images
from permlab.errors import UserError
from permlab.hardware import resolve_device
from permlab.merging import (
    Endpoint,
    MergeOptions,
    Setting,
    batches_of,
    domain,
    initial_state,
    label_split,
    train_endpoint,
)  # fmt: skip
from permlab.models.table import VISION
from permlab.models.vision import build_vision_model
from permlab.runs.run import Run
from permlab.seeding import derived_seed
from permlab.storage.files import replacing
from permlab.symmetry import Spec, declare, infer, verify

BATCH = 1024
"""Images per batch of evaluation and of statistics."""


def device_of(config: Config) -> torch.device:
    """CUDA where the hardware profile finds it, else the CPU: assignments and Gram matrices need float64."""
    found = resolve_device(config.hardware)
    return found if found.type == "cuda" else torch.device("cpu")


def load_data(config: Config) -> ImageData:
    """The images of `dataset=`, on the device.

    Raises:
        UserError: files that are missing or broken.
    """
    data = load_images(config.dataset)
    device = device_of(config)
    moved = {name: getattr(data, name).to(device) for name in ("x_train", "y_train", "x_test", "y_test")}
    return dataclasses.replace(data, **moved)


def build(config: Config, data: ImageData, width: float | None = None) -> nn.Module:
    """A module of `model=` for these images, `width` in place of `model.width`; its weights are whatever comes."""
    options = model_options(config, width)
    module = build_vision_model(config.model.name, shape=data.shape, classes=data.classes, **options)
    return module.to(device_of(config)).eval()


def model_options(config: Config, width: float | None = None) -> dict[str, Any]:
    """Keyword arguments of `build_vision_model` beside the name and the data."""
    model = config.model
    return {"width": width or model.width, "depth": model.depth, "norm": model.norm}


def spec_of(model: nn.Module, data: ImageData) -> Spec:
    """The symmetry of a network: declared, or inferred where nothing is declared; verified on a few images.

    Raises:
        UserError: a group changes the outputs, or the module cannot be traced.
    """
    images = (data.x_train[:4],)
    try:
        spec = declare(model)
    except UserError:
        spec = infer(model, images)
    verify(spec, model, images)
    return spec


def network_data(config: Config, data: ImageData, pair: int, count: int = 2) -> list[ImageData]:
    """What each network of a pair is trained on: its labels, its domain, its share of the images."""
    task = config.task
    parts = label_split(data, count) if task.labels > 1 else [data] * count
    if task.domains:
        parts = [domain(part, kind) for part, kind in zip(parts, task.domains)]
    if task.share < 1:
        seed = derived_seed(config.seed, "share", pair)
        starts = [k * (1 - task.share) / max(1, count - 1) for k in range(count)]
        parts = [part.share(start, start + task.share, seed) for part, start in zip(parts, starts)]
    return parts


def pooled(config: Config, data: ImageData) -> ImageData:
    """What merged networks are scored and fitted on: all images, in every domain that a network was trained in."""
    kinds = list(dict.fromkeys(config.task.domains)) or ["original"]
    parts = [domain(data, kind) for kind in kinds]
    names = ("x_train", "y_train", "x_test", "y_test")
    joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    return dataclasses.replace(data, **joined) if len(parts) > 1 else parts[0]


def statistics_batches(config: Config, data: ImageData, size: int = BATCH) -> list[Any]:
    """[(images, labels), ...]: `task.images` training images for activations, Gram matrices and statistics."""
    count = min(len(data.x_train), config.task.images or len(data.x_train))
    generator = torch.Generator().manual_seed(derived_seed(config.seed, "images"))
    chosen = torch.randperm(len(data.x_train), generator=generator)[:count].to(data.x_train.device)
    # Equal batches: statistics are averaged batch by batch.
    return batches_of(data.x_train[chosen], data.y_train[chosen], -(-count // -(-count // size)))


def evaluation_sets(config: Config, data: ImageData) -> dict[str, list[Any]]:
    """Batches of "train" and "test" that every arm is scored on; "train" is limited to `task.images`."""
    return {"train": statistics_batches(config, data), "test": batches_of(data.x_test, data.y_test, BATCH)}


def setting_of(config: Config, run: Run, batches: Sequence[Any], pair: int, **given: Any) -> Setting:
    """Data and numbers of the matchings and merges of one pair; `given` in place of what `task` says."""
    options = {each.name: getattr(config.task, each.name) for each in dataclasses.fields(MergeOptions)}
    # Arms are given their budget one by one.
    options |= {"budget": 1.0, "seed": derived_seed(config.seed, "match", pair), "should_stop": lambda: run.stopping}
    return Setting(batches, **(options | given))


def training_options(config: Config) -> dict[str, Any]:
    """Keyword arguments of `train_endpoint`: the keys of `task.train`, or what suits the architecture."""
    given = config.task.train
    usual = VISION[config.model.name]
    return {
        "epochs": given.epochs or usual.epochs,
        "batch_size": given.batch_size or usual.batch_size,
        "rate": given.rate or usual.rate,
        "weight_decay": given.weight_decay,
        "optimizer": given.optimizer,
        "schedule": given.schedule,
    }


def untrained(config: Config, data: ImageData, pair: int, k: int, width: float | None = None) -> dict[str, Any]:
    """The initial weights of network k of a pair: where its training starts, and the untrained control."""
    seed = derived_seed(config.seed, "init", pair, k)
    state = initial_state(config.model.name, data, seed, **model_options(config, width))
    return {name: value.to(device_of(config)) for name, value in state.items()}


def train_pair(
    config: Config,
    run: Run,
    data: ImageData,
    model: nn.Module,
    pair: int,
    count: int = 2,
    width: float | None = None,
    start: dict[str, Any] | None = None,
) -> list[Endpoint]:
    """Train the networks of one pair (or triple: `count`); finished ones are kept in checkpoints/ for a resume.

    Args:
        data: the whole data set; labels, domains and shares are cut here.
        model: of `build(config, data, width)`; its tensors are overwritten.
        pair: number of the pair, part of every seed.
        start: an ancestor that all are fine-tuned from; default: random weights, each its own.

    Raises:
        UserError: training diverged.
        Interrupted: a stop signal arrived; the network in training is lost, the finished ones are not.
    """
    options = training_options(config)
    parts = network_data(config, data, pair, count)
    found: list[Endpoint] = []
    forget_networks(run, keep=_label(pair, width))
    with run.progress(f"training networks of pair {pair + 1}", count * options["epochs"]) as bar:
        for k, part in enumerate(parts):

            def train(k: int = k, part: ImageData = part) -> dict[str, Any]:
                endpoint = train_endpoint(
                    model,
                    part,
                    start=start or untrained(config, data, pair, k, width),
                    seed=derived_seed(config.seed, "order", pair, k),
                    # Different classes are different tasks: each has a head of its own, not one that learns to say no.
                    outputs=sorted(part.y_train.unique().tolist()) if config.task.labels > 1 else None,
                    provenance=_provenance(config, pair, k, width, start),
                    progress=lambda done, _: bar.update(k * options["epochs"] + done),
                    should_stop=lambda: run.stopping,
                    **options,
                )
                return dataclasses.asdict(endpoint)

            found.append(Endpoint(**kept_network(run, f"{_label(pair, width)}-{k}", train, device_of(config))))
    return found


def kept_network(run: Run, name: str, train: Callable[[], dict[str, Any]], device: torch.device) -> dict[str, Any]:
    """What training a network gives, kept in checkpoints/ so that a resumed run does not train it again.

    Raises:
        Interrupted: a stop signal arrived while it was trained; what there is of it is lost.
    """
    path = run.dir / "checkpoints" / f"network-{name}.pt"
    if run.resumed and path.is_file():
        kept: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        return kept
    found = train()
    run.check_stop()
    with replacing(path) as temporary:
        torch.save(found, temporary)
    return found


def _label(pair: int, width: float | None) -> str:
    return f"{pair}" if width is None else f"{pair}-{width:g}"


def _provenance(config: Config, pair: int, k: int, width: float | None, start: Any) -> dict[str, Any]:
    return {
        "network": config.model.name,
        "width": width or config.model.width,
        "norm": config.model.norm or "",
        "depth": config.model.depth or 0,
        "pair": pair,
        "member": k,
        "start": "ancestor" if start else "random",
        "init_seed": derived_seed(config.seed, "init", pair, k),
    }


def forget_networks(run: Run, keep: str | None = None) -> None:
    """Delete networks kept for a resume, except those of one pair."""
    folder: Path = run.dir / "checkpoints"
    for path in folder.glob("network-*.pt"):
        if keep is None or not path.name.startswith(f"network-{keep}-"):
            path.unlink()


def train_ancestor(config: Config, run: Run, data: ImageData, model: nn.Module, pair: int, epochs: int = 3) -> Endpoint:
    """One network trained on all images for a few epochs: the ancestor of task arithmetic and TIES."""
    options = training_options(config) | {"epochs": epochs}
    with run.progress(f"training the ancestor of pair {pair + 1}", epochs) as bar:
        ancestor = train_endpoint(
            model,
            data,
            start=untrained(config, data, pair, -1),
            seed=derived_seed(config.seed, "order", pair, -1),
            provenance=_provenance(config, pair, -1, None, None),
            progress=lambda done, _: bar.update(done),
            should_stop=lambda: run.stopping,
            **options,
        )
    run.check_stop()
    return ancestor
