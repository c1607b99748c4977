"""Pairs of image classifiers trained to be merged: `ImagePairs(network, data, seed=0).train(model, pair=0, member=1)`.

    pairs = ImagePairs(network, data, PairOptions(share=0.6), EndpointTraining(epochs=5), seed=0)
    model = pairs.build()                                    # network: name, width, depth, norm (a `VisionConfig`)
    spec = pairs.spec(model)                                 # declared or inferred, then verified
    first, second = (pairs.train(model, 0, member) for member in (0, 1))

Seeds of pair p and network k: the initial weights from (seed, "init", p, k), the order of the batches from
(seed, "order", p, k), the choice of images (`share`, `uneven`) from (seed, "share", p).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from permlab.data import ImageData
from permlab.errors import UserError
from permlab.merging.measure.evaluate import batches_of
from permlab.merging.networks.domains import domain, label_split, uneven_split
from permlab.merging.networks.endpoints import Endpoint, initial_state, train_endpoint
from permlab.merging.networks.options import EndpointTraining, PairOptions, recipe_of
from permlab.models.vision import build_vision_model
from permlab.seeding import derived_seed
from permlab.symmetry import Spec, declare, infer, verify

BATCH = 1024
"""Images per batch of evaluation and of statistics."""
ANCESTOR_EPOCHS = 3
"""Training of the network that both of a pair are fine-tuned from, where they have one."""
Batches = list[tuple[Tensor, Tensor]]


@dataclass
class ImagePairs:
    """What all networks of a run share.

    Attributes:
        network: the architecture: name, width, depth and norm.
        data: all images, on the device.
        options: what each network of a pair sees.
        training: of every network; what it leaves open suits the architecture.
        seed: all others derive from it.
    """

    network: Any
    data: ImageData
    options: PairOptions = field(default_factory=PairOptions)
    training: EndpointTraining = field(default_factory=EndpointTraining)
    seed: int = 0

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.data.x_train.device

    # ---- networks

    def build(self, width: float | None = None) -> nn.Module:
        """Return a module for these images, `width` in place of the network's; its weights are whatever comes."""
        model = build_vision_model(
            self.network.name, shape=self.data.shape, classes=self.data.classes, **self._architecture(width)
        )
        return model.to(self.device).eval()

    def _architecture(self, width: float | None) -> dict[str, Any]:
        return {"width": width or self.network.width, "depth": self.network.depth, "norm": self.network.norm}

    def spec(self, model: nn.Module) -> Spec:
        """Return the symmetry of a network: declared, or inferred where nothing is; verified on a few images.

        Raises:
            UserError: a group changes the outputs, or the module cannot be traced.
        """
        images = (self.data.x_train[:4],)
        try:
            spec = declare(model)
        except UserError:
            spec = infer(model, images)
        verify(spec, model, images)
        return spec

    def untrained(self, pair: int, member: int, width: float | None = None) -> dict[str, Tensor]:
        """Return initial weights: where the training of a network starts, and the untrained control."""
        seed = derived_seed(self.seed, "init", pair, member)
        state = initial_state(self.network.name, self.data, seed, **self._architecture(width))
        return {name: value.to(self.device) for name, value in state.items()}

    # ---- images

    def parts(self, pair: int, count: int = 2) -> list[ImageData]:
        """Return what each network of a pair is trained on: its labels, its domain, its share of the images."""
        options = self.options
        seed = derived_seed(self.seed, "share", pair)
        if options.uneven is not None:
            parts = uneven_split(self.data, count, options.uneven, seed)
        else:
            parts = label_split(self.data, count) if options.labels > 1 else [self.data] * count
        if options.domains:
            parts = [domain(part, kind) for part, kind in zip(parts, options.domains)]
        if options.share < 1:
            starts = [k * (1 - options.share) / max(1, count - 1) for k in range(count)]
            parts = [part.share(start, start + options.share, seed) for part, start in zip(parts, starts)]
        return parts

    def pooled(self) -> ImageData:
        """Return what merges are scored and fitted on: all images, in every domain that a network was trained in."""
        kinds = list(dict.fromkeys(self.options.domains)) or ["original"]
        first, *others = (domain(self.data, kind) for kind in kinds)

        def joined(name: str) -> Tensor:
            return torch.cat([getattr(part, name) for part in (first, *others)])

        if not others:
            return first
        return dataclasses.replace(
            first,
            x_train=joined("x_train"),
            y_train=joined("y_train"),
            x_test=joined("x_test"),
            y_test=joined("y_test"),
        )

    def statistics(self, data: ImageData | None = None) -> Batches:
        """Return `options.images` training images in batches, for activations, Gram matrices and statistics."""
        data = data or self.data
        count = min(len(data.x_train), self.options.images or len(data.x_train))
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "images"))
        chosen = torch.randperm(len(data.x_train), generator=generator)[:count].to(data.x_train.device)
        # Equal batches: statistics are averaged batch by batch.
        return batches_of(data.x_train[chosen], data.y_train[chosen], -(-count // -(-count // BATCH)))

    def sets(self, data: ImageData | None = None) -> dict[str, Batches]:
        """Return batches of "train" and "test" that every arm is scored on; "train" is limited to `options.images`."""
        data = data or self.data
        return {"train": self.statistics(data), "test": batches_of(data.x_test, data.y_test, BATCH)}

    # ---- training

    @property
    def recipe(self) -> dict[str, Any]:
        """Keyword arguments of `train_endpoint`."""
        return recipe_of(self.network.name, self.training)

    def train(
        self,
        model: nn.Module,
        pair: int,
        member: int,
        *,
        count: int = 2,
        width: float | None = None,
        start: dict[str, Tensor] | None = None,
        **watch: Any,
    ) -> Endpoint:
        """Train one network.

        Args:
            model: of `build(width)`; its tensors are overwritten.
            pair, member: which one, of `count` networks.
            start: an ancestor that it is fine-tuned from; default: random weights of its own.
            watch: `progress` and `should_stop` of `train_endpoint`.

        Raises:
            UserError: training diverged.
        """
        part = self.parts(pair, count)[member]
        return train_endpoint(
            model,
            part,
            start=start or self.untrained(pair, member, width),
            seed=derived_seed(self.seed, "order", pair, member),
            # Different classes are different tasks: each has a head of its own, not one that learns to say no.
            outputs=sorted(part.y_train.unique().tolist()) if self.options.labels > 1 else None,
            provenance=self._provenance(pair, member, width, start),
            **self.recipe,
            **watch,
        )

    def train_ancestor(self, model: nn.Module, pair: int, **watch: Any) -> Endpoint:
        """Train one network on all images for a few epochs: the ancestor of task arithmetic and TIES."""
        return train_endpoint(
            model,
            self.data,
            start=self.untrained(pair, -1),
            seed=derived_seed(self.seed, "order", pair, -1),
            provenance=self._provenance(pair, -1, None, None),
            **(self.recipe | {"epochs": ANCESTOR_EPOCHS}),
            **watch,
        )

    def _provenance(self, pair: int, member: int, width: float | None, start: Any) -> dict[str, Any]:
        return {
            "network": self.network.name,
            "width": width or self.network.width,
            "norm": self.network.norm or "",
            "depth": self.network.depth or 0,
            "pair": pair,
            "member": member,
            "start": "ancestor" if start else "random",
            "init_seed": derived_seed(self.seed, "init", pair, member),
        }
