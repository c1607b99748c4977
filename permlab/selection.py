"""The k-th largest magnitude of numbers that do not fit into memory: `kth_magnitudes(lambda: [(a, b)], keep)`.

Numbers are read several times, in pieces, and only counted: what is held is a table of 65,536 counts per sequence.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

DIGIT = 16
"""Bits of a number that one pass decides."""
FEW = 1 << 16
"""Numbers that are sorted rather than counted."""


class _Search:
    """The k-th largest of one sequence, digit by digit from the front of the bit patterns."""

    def __init__(self) -> None:
        self.prefix, self.left, self.bits, self.shift = 0, 0, 32, 0
        self.counts: Tensor | None = None

    def count(self, piece: Tensor, step: int) -> None:
        import torch

        self.bits = piece.element_size() * 8
        self.shift = self.bits - DIGIT * (step + 1)
        # Bit patterns of positive floating-point numbers are ordered as the numbers are.
        pattern = piece.detach().abs().flatten().view(torch.int32 if self.bits == 32 else torch.int64)
        if step:
            pattern = pattern[(pattern >> (self.shift + DIGIT)) == self.prefix]
        found = torch.bincount((pattern >> self.shift) & 0xFFFF, minlength=1 << DIGIT).cpu()
        self.counts = found if self.counts is None else self.counts + found

    def settle(self, step: int, keep: Callable[[int], int]) -> None:
        """Take the largest digit down to which `left` entries are together."""
        import torch

        if self.counts is None:
            return
        reached = self.counts.flip(0).cumsum(0)
        if not step:
            self.left = keep(int(reached[-1]))
        at = int(torch.searchsorted(reached, self.left))
        self.left -= int(reached[at - 1]) if at else 0
        self.prefix = (self.prefix << DIGIT) | ((1 << DIGIT) - 1 - at)
        self.counts = None

    def value(self, nothing: bool) -> Tensor:
        import torch

        wide = self.bits == 64
        if nothing:
            return torch.tensor(float("inf"))
        pattern = torch.tensor(self.prefix, dtype=torch.int64 if wide else torch.int32)
        return pattern.view(torch.float64 if wide else torch.float32)


def _sorted(piece: Tensor, keep: Callable[[int], int]) -> Tensor:
    """The same of a few numbers that are all there."""
    import torch

    wanted = keep(piece.numel())
    found = piece.detach().abs().flatten().sort(descending=True).values
    return found[wanted - 1] if wanted > 0 else torch.tensor(float("inf"))


def kth_magnitudes(
    chunks: Callable[[], Iterable[Sequence[Tensor | None]]], keep: Callable[[int], int] | Sequence[Callable[[int], int]]
) -> list[Tensor]:
    """Per sequence the `keep(its entries)`-th largest absolute value, exactly: what sorting all of it would give.

    Args:
        chunks: called once per pass (two for float32, four for float64); gives pieces of all sequences, float32 or
            float64 and the same each time, None where a sequence has nothing there.
        keep: number of entries -> how many of them are wanted; 0 gives infinity. One for all sequences, or one each.

    Returns:
        One scalar per sequence.
    """
    first = [list(pieces) for pieces in itertools.islice(chunks(), 2)]
    if len(first) == 1 and all(piece is not None and 0 < piece.numel() <= FEW for piece in first[0]):
        keeps = [keep] * len(first[0]) if callable(keep) else keep
        return [_sorted(piece, each) for piece, each in zip(first[0], keeps) if piece is not None]
    searches: list[_Search] = []
    step, most, none = 0, 2, set()
    while step < most:
        for pieces in chunks():
            searches += [_Search() for _ in range(len(pieces) - len(searches))]
            for at, (search, piece) in enumerate(zip(searches, pieces)):
                if piece is not None and piece.numel() and at not in none:
                    search.count(piece, step)
        for at, search in enumerate(searches):
            most = max(most, search.bits // DIGIT)
            search.settle(step, keep if callable(keep) else keep[at])
            if not step and search.left < 1:
                none.add(at)
        step += 1
    return [search.value(at in none) for at, search in enumerate(searches)]
