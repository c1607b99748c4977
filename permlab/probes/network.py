"""What training and measuring need of a network: `Transformer` and `residual.Residual` are of this kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from permlab.probes.layout import Layout

Edit = Callable[[Tensor], Tensor]
"""Attention of a layer (seeds, batch, heads, T, T) -> what takes its place."""


class Network(Protocol):
    """Shapes and a forward pass; the weights of many seeds are one flat (seeds, size) tensor."""

    @property
    def layout(self) -> Layout:
        """The rows of its problem, its mask and the block that is read."""

    @property
    def depth(self) -> int:
        """Attention layers."""

    @property
    def size(self) -> int:
        """Number of weights of one seed."""

    @property
    def init_std(self) -> float:
        """Spread of the initial weights, where a recipe does not say."""

    @property
    def rate(self) -> float:
        """Learning rate as a share of `recipes.default_learning_rate`, where a recipe does not say."""

    def initial(self, seeds: list[int], std: float) -> Tensor:
        """Draw weights, (len(seeds), size); row k depends on seeds[k] only."""

    def unpack(self, flat: Tensor) -> list[Tensor]:
        """Return the matrices as views of (seeds, size) weights."""

    def memory_bytes(self, seeds: int, batch: int) -> int:
        """Estimate the peak of a training step."""

    def forward(
        self, weights: list[Tensor], x: Tensor, maps: list[Tensor] | None = None, edit: Edit | None = None
    ) -> Tensor:
        """Map x (seeds, batch, T, n) to the output rows (seeds, batch, n, n)."""
