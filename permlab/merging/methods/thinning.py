"""Changes since an ancestor, thinned out: `Magnitudes(read, find).thin(piece)` gives what every network keeps.

What a method keeps of a change is what tells TIES (arXiv 2306.01708), DARE (2311.03099), DELLA (2406.11617) and Model
Breadcrumbs (2312.06795) apart; what is left is added up or elected by `permlab.merging.methods.changes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from permlab.errors import UserError
from permlab.merging.numbers import Find
from permlab.merging.streaming import Piece, Pieces
from permlab.seeding import derived_seed
from permlab.selection import kth_magnitudes


class Thinning(Protocol):
    """What is left of the changes of a piece."""

    def thin(self, piece: Piece) -> list[Tensor]:
        """Return one tensor per network, 0 where an entry is dropped."""


class Everything:
    """Nothing is dropped."""

    def thin(self, piece: Piece) -> list[Tensor]:
        """Return the changes."""
        return piece.changes


def counted(share: float, entries: int) -> int:
    """Return how many of so many entries a share is, at least one."""
    return max(1, round(share * entries))


def whole(share: float, entries: int) -> int:
    """Return the whole entries in a share of so many; 0.3 of 10 is 3, whatever the product's last digit says."""
    return int(share * entries + 1e-6)


class Magnitudes:
    """The largest entries stay (TIES, step 1 of arXiv 2306.01708), of the whole model or of every tensor.

    Args:
        read, find: networks, and the densities of their tensors.
        by_tensor: every tensor keeps its share; otherwise there is one threshold for a network, found by reading all
            twice, and the density is that of the first tensor.
    """

    def __init__(self, read: Pieces, find: Find, by_tensor: bool) -> None:
        self.read, self.find = read, find
        self.kept: list[Tensor] = []
        self.name = ""
        # One type throughout, so that magnitudes of all tensors can be compared bit by bit.
        doubles = any(read.states[0][name].dtype == torch.float64 for name in read.floating)
        self.kind = torch.float64 if doubles else torch.float32
        if not by_tensor and read.floating:
            self.kept = self.limits(read.all, [partial(counted, each) for each in find(read.floating[0]).densities])
        self.by_tensor = by_tensor

    def limits(self, pieces: Callable[[], Iterable[Piece]], keep: Sequence[Callable[[int], int]]) -> list[Tensor]:
        """Per network the smallest magnitude among so many largest entries."""

        def changes() -> Iterator[list[Tensor]]:
            for piece in pieces():
                yield [change.to(self.kind) for change in piece.changes]

        return kth_magnitudes(changes, keep)

    def thin(self, piece: Piece) -> list[Tensor]:
        """Return the changes with all smaller entries at 0; entries equal to the threshold stay."""
        if self.by_tensor and self.name != piece.name:
            keep = [partial(_at_least_one, density) for density in self.find(piece.name).densities]
            self.name, self.kept = piece.name, self.limits(partial(self.read.of, piece.name), keep)
        return [at_least(change, limit) for change, limit in zip(piece.changes, self.kept)]


def at_least(change: Tensor, limit: Tensor) -> Tensor:
    """Entries of at least this magnitude, 0 elsewhere."""
    # This drops what is no larger than its bound: the next number below the limit.
    below = torch.nextafter(limit, torch.tensor(-1.0, dtype=limit.dtype))
    return functional.hardshrink(change, below.item())


def _at_least_one(share: float, entries: int) -> int:
    return max(1, whole(share, entries))


def _middle(gamma: float, density: float, entries: int) -> int:
    """Outliers and what is kept."""
    return min(entries, whole(gamma, entries) + _at_least_one(density, entries))


class Middle(Magnitudes):
    """Neither the largest nor the smallest entries of a tensor stay (Breadcrumbs, arXiv 2312.06795, section 3)."""

    def __init__(self, read: Pieces, find: Find) -> None:
        super().__init__(read, find, by_tensor=True)
        self.largest: list[Tensor] = []

    def thin(self, piece: Piece) -> list[Tensor]:
        """Return the changes without the share gamma of largest entries, and of the next ones the density."""
        if self.name != piece.name:
            numbers, pieces = self.find(piece.name), partial(self.read.of, piece.name)
            # Infinity where the share is less than one entry: then none is an outlier.
            self.largest = self.limits(pieces, [partial(whole, gamma) for gamma in numbers.gammas])
            keep = [partial(_middle, *each) for each in zip(numbers.gammas, numbers.densities)]
            self.name, self.kept = piece.name, self.limits(pieces, keep)
        return [
            change.where((change.abs() >= low) & (change.abs() < high), 0.0)
            for change, low, high in zip(piece.changes, self.kept, self.largest)
        ]


class Drawn:
    """Entries stay at random and are scaled up by how seldom they do: DARE, or DELLA where rank counts.

    Args:
        read, find: networks, and the densities of their tensors.
        seed: every tensor of every network derives its draws from it, from the first row to the last, so that pieces
            may be of any size.
        ranked: within a row of the change, larger entries stay more often (DELLA, arXiv 2406.11617, section 3.1).

    Raises:
        UserError: a tensor whose densities leave no room for epsilon.
    """

    def __init__(self, read: Pieces, find: Find, seed: int, ranked: bool = False) -> None:
        self.find, self.seed, self.ranked = find, seed, ranked
        self.drawn: dict[int, torch.Generator] = {}
        if ranked:
            for name in read.floating:
                numbers = find(name)
                for density, epsilon in zip(numbers.densities, numbers.epsilons):
                    low, high = density - epsilon, density + epsilon
                    if density < 1 and not 0 < low <= high <= 1:
                        raise UserError(
                            f"density={density:g} epsilon={epsilon:g}: entries would be kept with probability "
                            f"{low:g} to {high:g}, which must lie between 0 and 1: make epsilon smaller"
                        )

    def thin(self, piece: Piece) -> list[Tensor]:
        """Return the changes with entries dropped and the rest divided by the probability that they stay."""
        numbers = self.find(piece.name)
        return [
            change if density >= 1 and self.ranked else self._thinned(piece, k, change, density, epsilon)
            for k, (change, density, epsilon) in enumerate(zip(piece.changes, numbers.densities, numbers.epsilons))
        ]

    def _thinned(self, piece: Piece, k: int, change: Tensor, density: float, epsilon: float) -> Tensor:
        if piece.start == 0:
            self.drawn[k] = torch.Generator().manual_seed(derived_seed(self.seed, "dare", piece.name, k))
        uniform = torch.rand(change.shape, generator=self.drawn[k]).to(change.device)
        if not self.ranked:
            # Dropped with probability p = 1 - density, rescaled by 1 / (1 - p), which keeps the expectation.
            return change / density * (uniform < density)
        rows = change.reshape(len(change), -1) if change.dim() > 1 else change.reshape(1, -1)
        ranks = rows.abs().argsort(dim=1, stable=True).argsort(dim=1).to(rows.dtype)
        # p_i rises with the rank from density - epsilon to density + epsilon.
        chance = density - epsilon + 2 * epsilon * ranks / max(1, rows.shape[1] - 1)
        chance = chance.reshape(change.shape)
        return change / chance * (uniform < chance)
