"""Configuration of the small image classifiers: `permlab task=merge model=resnet20 model.width=4`."""

from __future__ import annotations

from dataclasses import dataclass

from permlab.errors import check_range


@dataclass
class VisionConfig:
    """One of the image classifiers of `permlab.models.vision`, built with random weights."""

    name: str = "mlp"
    kind: str = "vision"
    width: float = 512.0
    """mlp: units of every hidden layer; the others: multiple of the usual channel counts."""
    depth: int | None = None
    """mlp: hidden layers (3); resnets: blocks per stage (3, tiny 1); vit-tiny: blocks (4)."""
    norm: str | None = None
    """none | batch | layer; null: batch for the convolutional networks, none for the mlp."""


def validate_vision(model: VisionConfig) -> None:
    """Check ranges; names and norms are checked where the network is built.

    Raises:
        UserError: naming the key.
    """
    check_range("model.width", model.width, 0, open_interval=True)
    if model.depth is not None:
        check_range("model.depth", model.depth, 1)
