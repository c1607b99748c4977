"""Configuration of the small image classifiers: `permlab task=merge model=resnet20 model.width=4`."""

from __future__ import annotations

from dataclasses import dataclass

from permlab.errors import UserError, check_choice, check_range
from permlab.models.table import VISION

DEEPEST, MOST_UNITS = 1_000, 2**16
"""Largest depth, and units of a layer: above, building alone takes minutes and the memory of a large machine."""
WIDEST = 64
"""Largest multiple of the usual channel counts: more is a number of units given by mistake."""


@dataclass
class VisionConfig:
    """One of the image classifiers of `permlab.models.table.VISION`, built with random weights."""

    name: str = "mlp"
    kind: str = "vision"
    width: float = 512.0
    """mlp: units of every hidden layer; the others: multiple of the usual channel counts."""
    depth: int | None = None
    """mlp: hidden layers (3); resnets: blocks per stage (3, tiny 1); vit-tiny: blocks (4)."""
    norm: str | None = None
    """Normalisation: none | batch | layer; null: batch for the convolutional networks, none for the mlp."""


def validate_vision(model: VisionConfig) -> None:
    """Check a configuration against the row of its architecture; nothing is built.

    Raises:
        UserError: naming the key.
    """
    VISION.check("model.name", model.name)
    check_architecture(model.name, model.width, model.depth, model.norm, prefix="model.")


def check_architecture(name: str, width: float, depth: int | None, norm: str | None, *, prefix: str = "") -> None:
    """Refuse values that an architecture cannot have.

    Args:
        name: of a row of `VISION`.
        width: see `build_vision_model`, as the others.
        prefix: goes before the names in messages.

    Raises:
        UserError: naming the value and the remedy.
    """
    row = VISION[name]
    check_width(name, width, f"{prefix}width")
    if depth is not None:
        if row.depth is None:
            raise UserError(f"{prefix}depth does not fit {name}, which has {row.fixed_depth}: leave it out")
        check_range(f"{prefix}depth", depth, 1, DEEPEST)
    if norm is not None:
        check_choice(f"{prefix}norm", norm, row.norms)


def check_width(name: str, width: float, key: str) -> None:
    """Refuse a width that is a number of units where a multiple is meant, or the other way round.

    Args:
        name: of a row of `VISION`.
        width: the value of `key`.
        key: its name in messages.

    Raises:
        UserError: naming the key and an example.
    """
    row = VISION[name]
    check_range(key, width, 0, open_interval=True)
    check_range(key, width, None, MOST_UNITS)
    if row.counts_units and width != int(width):
        raise UserError(f"{key}={width:g}: the width of {row.title} is a number of units, for example 512")
    if not row.counts_units and width > WIDEST:
        raise UserError(f"{key}={width:g}: the width of {name} is a multiple of its usual channels, for example 4")


def norm_of(model: VisionConfig) -> str:
    """Return the normalisation that a configuration means: its own, or the usual one of its architecture."""
    return model.norm or VISION[model.name].norms[0]
