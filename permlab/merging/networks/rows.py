"""Rows of embeddings that only some networks have: `KnownRows(known, tensors=("lm_head.weight",)).filled(0, rows)`.

A network that lacks a row gets the mean of those that have it, with their weights divided by their sum; where changes
since an ancestor are taken, it gets the ancestor's row, which is no change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from permlab.matching.activation import added
from permlab.symmetry import wide


@dataclass(frozen=True)
class KnownRows:
    """Which network has which row of the tensors with one row per token.

    Attributes:
        known: [networks, rows]; the ancestor last.
        tensors: names.
        weights: of the networks, without the ancestor; empty: equal ones.
        ancestral: the last network is an ancestor.
    """

    known: Tensor
    tensors: tuple[str, ...]
    weights: tuple[float, ...] = ()
    ancestral: bool = False

    @property
    def only(self) -> Tensor:
        """[rows]: the one network that has a row, 0 where that is the ancestor, -1 where more have it."""
        first = self.known.int().argmax(0)
        if self.ancestral:
            first = first.where(first < len(self.known) - 1, 0)
        return first.where(self.known.sum(0) == 1, -1)

    def filled(self, start: int, rows: Sequence[Tensor]) -> list[Tensor]:
        """The same rows of all networks in one order of units, those that a network lacks taken from the others.

        Args:
            start: number of the first row.
            rows: [n, ...] of every network, the ancestor last.
        """
        count = len(rows) - self.ancestral
        ends = [1] * (rows[0].dim() - 1)
        known = self.known[:, start : start + len(rows[0])].to(rows[0].device)
        shares = torch.tensor(self.weights or [1.0] * count, device=known.device)[:, None] * known[:count]
        # Networks of weight 0 count alike where no other has a row.
        shares = shares.where(shares.sum(0) > 0, known[:count].float())
        total = shares.sum(0)
        shares = shares / total.where(total > 0, 1.0)
        mean = added(wide(row) * share.view(-1, *ends) for row, share in zip(rows[:count], shares))
        if self.ancestral:
            mean = torch.where(known[-1].view(-1, *ends), wide(rows[-1]), mean)
        return [torch.where(own.view(-1, *ends), row, mean.to(row.dtype)) for row, own in zip(rows, known)]

    def kept(self, start: int, merged: Tensor, rows: Sequence[Tensor]) -> Tensor:
        """Merged rows, where those that one network alone has are its own, bit for bit.

        Args:
            start: number of the first row.
            merged: [n, ...].
            rows: of every network, as merged.
        """
        owners = self.only[start : start + len(merged)].to(merged.device)
        for number, row in enumerate(rows):
            mine = (owners == number).view(-1, *[1] * (merged.dim() - 1))
            merged = torch.where(mine, row.to(merged.dtype), merged)
        return merged
