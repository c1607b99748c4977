"""The inverse-permutation problem: `sample(layout, 4, torch.Generator().manual_seed(0))` returns X and the target Y."""

from __future__ import annotations

import torch
from torch import Tensor

from permlab.probes.layout import Layout
from permlab.seeding import derived_seed


def sample(layout: Layout, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw uniform permutations and Bernoulli(1/2) strings (arXiv 2509.24125, setting).

    Returns:
        X of shape (batch, T, n), the rows of P, then of Y_P = P Y, zeros in scratch rows; and Y of shape (batch, n, n).
    """
    # Sorting uniforms draws a whole batch of uniform permutations at once; torch.randperm draws one.
    order = torch.rand(batch, layout.n, generator=generator).argsort(dim=1)
    target = torch.randint(0, 2, (batch, layout.n, layout.n), generator=generator, dtype=torch.float32)
    return encode(layout, order, target), target


def encode(layout: Layout, order: Tensor, target: Tensor) -> Tensor:
    """Lay out X for given permutations.

    Args:
        layout: the rows.
        order: (batch, n) integers; row i of P has its one in column `order[i]`, so row i of P Y is Y[order[i]].
        target: (batch, n, n), the matrix Y.

    Returns:
        X of shape (batch, T, n) in the dtype of `target`.
    """
    batch, n = order.shape
    x = target.new_zeros(batch, layout.length, n)
    x[:, layout.permutation_rows].scatter_(2, order.unsqueeze(2), 1.0)
    # Y_P = P Y by indexing; the answer Y = P^T Y_P is then exact in bits, without a product.
    x[:, layout.string_rows] = target.gather(1, order.unsqueeze(2).expand(-1, -1, n))
    return x


def training_batch(layout: Layout, batch: int, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """Draw the batch of one training step; it depends on nothing but (seed, step), so a resumed run sees the same."""
    return sample(layout, batch, torch.Generator().manual_seed(derived_seed("train", seed, step)))


def heldout_batch(layout: Layout, batch: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw the fixed test examples of a seed, from a stream that no training step uses.

    `batch` is rounded up to a multiple of n: every random permutation comes with all n cyclic shifts of its columns, so
    that over the test set each row of Y stands exactly once in n at each place of Y_P. The share of rows a causal model
    cannot see is then exact, not sampled, and a measured error can be held against `floors.mse_floor` directly.
    """
    generator = torch.Generator().manual_seed(derived_seed("test", seed))
    base = torch.rand(-(-batch // layout.n), layout.n, generator=generator).argsort(dim=1)
    order = ((base[:, None] + torch.arange(layout.n)[:, None]) % layout.n).flatten(0, 1)
    target = torch.randint(0, 2, (len(order), layout.n, layout.n), generator=generator, dtype=torch.float32)
    return encode(layout, order, target), target


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Squared error summed over the n features of a row, mean over rows and examples; leading dimensions are kept.

    Args:
        output: (..., batch, n, n).
        target: the same shape.

    Returns:
        Shape (...).
    """
    # The released loss: features summed, rows averaged. The floors n/4 and (n - 1)/8 are in this unit.
    return (output - target).square().sum(-1).mean((-2, -1))


def row_accuracy(output: Tensor, target: Tensor) -> Tensor:
    """Share of rows whose n bits are all right after rounding at 1/2; shapes as in `squared_error`."""
    return ((output > 0.5) == (target > 0.5)).all(-1).float().mean((-2, -1))
