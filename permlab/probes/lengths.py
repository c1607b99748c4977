"""Problems smaller than the network: `Part(6).held_out(layout, 64, seed=0)` has 6 of the n rows of P and of Y.

A network of n rows is trained on m < n of them and tested on more (length generalisation). The rows of the problem
stand in their blocks at the places `chosen`, the columns of P are the same, and all other rows of P and Y_P are zero.
Output rows outside `chosen` are not asked for. Prefix: the first m places; spread: m random places in order, so that
every place is seen in training (randomised positions, Ruoss et al. 2023, arXiv 2305.16843).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from permlab.probes.layout import Layout
from permlab.probes.problem import encode, heldout_batch, row_accuracy, squared_error, training_batch
from permlab.seeding import derived_seed

_UNASKED = -1.0
"""Entries of a target row that nothing is asked of."""


@dataclass(frozen=True)
class Whole:
    """All n rows: what networks are trained on elsewhere."""

    def training(self, layout: Layout, batch: int, seed: int, step: int) -> tuple[Tensor, Tensor]:
        """Draw the batch of one training step."""
        return training_batch(layout, batch, seed, step)

    def held_out(self, layout: Layout, batch: int, seed: int) -> tuple[Tensor, Tensor]:
        """Draw the fixed test examples of a seed."""
        return heldout_batch(layout, batch, seed)

    def error(self, output: Tensor, target: Tensor) -> Tensor:
        """Squared error summed over the features of a row, mean over rows and examples."""
        return squared_error(output, target)

    def accuracy(self, output: Tensor, target: Tensor) -> Tensor:
        """Share of rows with all bits right."""
        return row_accuracy(output, target)


@dataclass(frozen=True)
class Part:
    """`size` of the n rows, the first ones or a random choice; shapes as in `Whole`."""

    size: int
    spread: bool = False

    def training(self, layout: Layout, batch: int, seed: int, step: int) -> tuple[Tensor, Tensor]:
        """Draw the batch of one training step."""
        return self._sample(layout, batch, derived_seed("part", seed, step))

    def held_out(self, layout: Layout, batch: int, seed: int) -> tuple[Tensor, Tensor]:
        """Draw the fixed test examples of a seed."""
        return self._sample(layout, batch, derived_seed("part-test", seed))

    def _sample(self, layout: Layout, batch: int, seed: int) -> tuple[Tensor, Tensor]:
        generator, n, m = torch.Generator().manual_seed(seed), layout.n, self.size
        places = torch.arange(m).expand(batch, m)
        if self.spread:
            places = torch.rand(batch, n, generator=generator).argsort(1)[:, :m].sort(1).values
        order = torch.arange(n).repeat(batch, 1)
        moved = torch.rand(batch, m, generator=generator).argsort(1)
        order.scatter_(1, places, places.gather(1, moved))
        target = torch.randint(0, 2, (batch, n, n), generator=generator, dtype=torch.float32)
        chosen = torch.zeros(batch, n, dtype=torch.bool).scatter_(1, places, True)
        x = encode(layout, order, target)
        x[:, layout.permutation_rows] *= chosen[..., None]
        x[:, layout.string_rows] *= chosen[..., None]
        return x, target.masked_fill(~chosen[..., None], _UNASKED)

    def error(self, output: Tensor, target: Tensor) -> Tensor:
        """Squared error summed over the features of a row, mean over the rows that are asked."""
        asked = target[..., 0] != _UNASKED
        errors = (output - target).square().sum(-1) * asked
        return errors.sum((-2, -1)) / asked.sum((-2, -1))

    def accuracy(self, output: Tensor, target: Tensor) -> Tensor:
        """Share of the rows that are asked with all bits right."""
        asked = target[..., 0] != _UNASKED
        right = ((output > 0.5) == (target > 0.5)).all(-1) & asked
        return right.sum((-2, -1)) / asked.sum((-2, -1))
