"""How much matching may hold beside the networks: `weight_matching(spec, a, b, memory=Memory(3 * 2**30))`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from permlab.errors import UserError
from permlab.symmetry import Spec

ASSIGNED = 24
"""Bytes per pair of units while an assignment is solved: float32 costs, what they are reduced to, masks, and two more
where products are added up."""
PIECES = 16
"""Bytes per entry of a piece: both networks' in float32, gathered before, packed for the product."""


@dataclass(frozen=True)
class Memory:
    """What matching may hold beside the networks.

    Attributes:
        most: bytes in all; None: what it takes, with cost matrices of at most both models.
        piece: entries of a tensor that are multiplied at a time; a smaller tensor is multiplied at once.
        device: where products are taken; None: where the networks are.
    """

    most: float | None = None
    piece: int = 1 << 24
    device: torch.device | None = None

    def room(self, spec: Spec, groups: Iterable[str], weights: float) -> float:
        """Entries of cost matrices that may be kept between calls, for models of so many weights.

        Raises:
            UserError: the assignment of one group alone takes more than `most`; with what it takes.
        """
        if self.most is None:
            return 2 * weights
        left = self.most
        for name in groups:
            size = max(spec.groups[name].spaces().values())
            needed = size * size * ASSIGNED + PIECES * self.piece
            if needed > self.most:
                raise UserError(
                    f"memory_gb={self.most / 2**30:.3g} is too little for {name}, whose {size} units take "
                    f"{needed / 2**30:.2g} GiB to match: allow as much, or use match=identity"
                )
            left = min(left, self.most - needed)
        return min(2 * weights, left / 4)
