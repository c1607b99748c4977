"""Which shapes and which lengths: `Depths(layers=[1, 2]).check()`. Nothing heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass, field

from permlab.errors import UserError, check_range
from permlab.keys import choice
from permlab.probes.table import ENCODINGS

DISENTANGLED = "disentangled"
"""The network of the paper, beside the residual ones that are named by their positions."""


@dataclass
class Depths:
    """Residual transformers of several shapes (`residual.Residual`): every combination."""

    layers: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 6])
    """Attention layers."""
    heads: list[int] = field(default_factory=lambda: [1, 2, 4])
    """Attention heads per layer."""
    mlp: list[bool] = field(default_factory=lambda: [False, True])
    """With a feed-forward block in every layer, of twice the width."""
    positions: list[str] = choice(["learned"], ENCODINGS)
    """How rows know where they stand."""
    width: int = 32
    """Width of the residual stream."""

    def check(self, prefix: str = "") -> None:
        """Refuse empty lists, unknown names and numbers out of range; `prefix` stands before the names in messages.

        Raises:
            UserError: naming the setting.
        """
        for key in ("layers", "heads", "mlp", "positions"):
            if not getattr(self, key):
                raise UserError(f"{prefix}{key} is empty: give at least one")
        for key in ("layers", "heads"):
            for number in getattr(self, key):
                check_range(f"{prefix}{key}", number, low=1)
        for name in self.positions:
            ENCODINGS.check(f"{prefix}positions", name)
        check_range(f"{prefix}width", self.width, low=2)
        for heads in self.heads:
            if self.width % (2 * heads):
                raise UserError(f"{prefix}width={self.width} must be a multiple of 2 x heads ({2 * heads})")


@dataclass
class Lengths:
    """Networks of n rows trained on problems of fewer (`lengths.Part`)."""

    size: int = 6
    """Rows of the problems in training."""
    networks: list[str] = field(default_factory=lambda: [DISENTANGLED, *ENCODINGS])
    """disentangled, or a residual transformer named by its positions: learned, rotary, none."""
    layers: int = 3
    """Of the residual ones."""
    heads: int = 2
    """Of the residual ones."""

    def check(self, n: int, prefix: str = "") -> None:
        """As `Depths.check`; `n` is the size of the network."""
        check_range(f"{prefix}size", self.size, low=2, high=n)
        for name in self.networks:
            if name != DISENTANGLED:
                ENCODINGS.check(f"{prefix}networks", name)
        for key in ("layers", "heads"):
            check_range(f"{prefix}{key}", getattr(self, key), low=1)
        if not self.networks:
            raise UserError(f"{prefix}networks is empty: give some of {DISENTANGLED}, {', '.join(ENCODINGS)}")
