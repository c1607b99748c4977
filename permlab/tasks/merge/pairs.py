"""From the configuration to networks: `pairs_of(config)`, `train_pair(config, run, pairs, model, pair=0)`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from permlab.config import Config
from permlab.data import load_images
from permlab.hardware import resolve_device
from permlab.merging import Endpoint, ImagePairs, MergeOptions, Setting
from permlab.merging.networks.options import PairOptions
from permlab.merging.networks.pairs import ANCESTOR_EPOCHS
from permlab.runs.helper import Helper
from permlab.runs.run import Run
from permlab.seeding import derived_seed
from permlab.storage.files import replacing
from permlab.tasks.merge.settings import MergeConfig


def device_of(config: Config[MergeConfig]) -> torch.device:
    """CUDA where the hardware profile finds it, else the CPU: assignments and Gram matrices need float64."""
    found = resolve_device(config.hardware)
    return found if found.type == "cuda" else torch.device("cpu")


def options_of(config: Config[MergeConfig], kind: type) -> dict[str, Any]:
    """The keys of `task` that an options class of the library has."""
    return {each.name: getattr(config.task, each.name) for each in dataclasses.fields(kind)}


def pairs_of(config: Config[MergeConfig]) -> ImagePairs:
    """Networks of `model=` to be trained on the images of `dataset=`, on the device.

    Raises:
        UserError: files that are missing or broken.
    """
    data = load_images(config.dataset).few(config.debug.examples)
    x_train, y_train, x_test, y_test = (
        each.to(device_of(config)) for each in (data.x_train, data.y_train, data.x_test, data.y_test)
    )
    data = dataclasses.replace(data, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    options = PairOptions(**options_of(config, PairOptions))
    return ImagePairs(config.model, data, options, config.task.train, config.seed)


def setting_of(config: Config[MergeConfig], run: Run, batches: Sequence[Any], pair: int, **given: Any) -> Setting:
    """Data and numbers of the matchings and merges of one pair; `given` in place of what `task` says."""
    # Arms are given their budget one by one.
    options = options_of(config, MergeOptions) | {"budget": 1.0, "seed": derived_seed(config.seed, "match", pair)}
    return Setting(batches, **(options | {"should_stop": lambda: run.stopping} | given))


def train_pair(
    run: Run,
    pairs: ImagePairs,
    model: nn.Module,
    pair: int,
    count: int = 2,
    width: float | None = None,
    start: dict[str, Any] | None = None,
) -> list[Endpoint]:
    """Train the networks of one pair (or triple: `count`); finished ones are kept in checkpoints/ for a resume.

    Args:
        model: of `pairs.build(width)`; its tensors are overwritten.
        pair: number of the pair, part of every seed.
        start: an ancestor that all are fine-tuned from; default: random weights, each its own.

    Raises:
        UserError: training diverged.
        Interrupted: a stop signal arrived; the network in training is lost, the finished ones are not.
    """
    epochs, label = pairs.recipe["epochs"], f"{pair}" if width is None else f"{pair}-{width:g}"
    found: list[Endpoint] = []
    forget_networks(run, keep=label)
    with run.progress(f"training networks of pair {pair + 1}", count * epochs) as bar:
        for k in range(count):

            def train(k: int = k) -> dict[str, Any]:
                watch = {"progress": lambda done, _: bar.update(k * epochs + done), "should_stop": lambda: run.stopping}
                endpoint = pairs.train(model, pair, k, count=count, width=width, start=start, **watch)
                return dataclasses.asdict(endpoint)

            found.append(Endpoint(**kept_network(run, f"{label}-{k}", train, pairs.device)))
    return found


def train_ancestor(run: Run, pairs: ImagePairs, model: nn.Module, pair: int) -> Endpoint:
    """The ancestor that a pair is fine-tuned from."""
    with run.progress(f"training the ancestor of pair {pair + 1}", ANCESTOR_EPOCHS) as bar:
        watch = {"progress": lambda done, _: bar.update(done), "should_stop": lambda: run.stopping}
        ancestor = pairs.train_ancestor(model, pair, **watch)
    run.check_stop()
    return ancestor


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


def forget_networks(run: Run, keep: str | None = None) -> None:
    """Delete networks kept for a resume, except those of one pair; a helper leaves that to the run."""
    if isinstance(run, Helper):
        return
    folder: Path = run.dir / "checkpoints"
    for path in folder.glob("network-*.pt"):
        if keep is None or not path.name.startswith(f"network-{keep}-"):
            path.unlink()
