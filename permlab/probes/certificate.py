"""What a mask makes impossible: `reachable(Layout.variant("causal", n=6, readout="string"), depth=2).possible_count()`.

Whatever the weights and the widths, row r of a masked network can depend on input row c only if a path of visible
attention steps (or the residual connection) leads from c to r. This is a property of the mask alone. Output row j must
equal Y[j], which stands in the one input row of Y_P that P moved it to; if no path leads there, no weights can be right
for that P. So a permutation is impossible as soon as one output row cannot reach the row it needs
(arXiv 2509.24125, the impossibility theorem; here as a computation instead of a proof).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor

from permlab.errors import UserError
from permlab.probes.layout import Layout

_PERMANENT_LIMIT = 20  # Ryser's formula takes 2^n n steps


@dataclass(frozen=True)
class Reach:
    """Which input rows each output row can depend on.

    Attributes:
        permutation: (n, n) boolean; [j, i] says that output row j can depend on row i of P.
        string: (n, n) boolean; [j, i] says that output row j can depend on row i of Y_P.
    """

    permutation: Tensor
    string: Tensor

    def possible(self, order: list[int] | tuple[int, ...]) -> bool:
        """Whether this permutation passes; `order[i]` is the column of the one in row i of P, as in `encode`."""
        # P moved Y[j] to row i of Y_P: one output row without a path to the row it needs makes P impossible.
        return all(bool(self.string[j, i]) for i, j in enumerate(order))

    def impossible(self) -> Iterator[tuple[int, ...]]:
        """Yield every permutation that no weights can undo, by trying all n! of them."""
        n = self.string.shape[0]
        return (order for order in permutations(range(n)) if not self.possible(order))

    def possible_count(self) -> int:
        """Count the permutations that pass: the permanent of `string`.

        When the sets of reachable rows are nested (every causal mask) and sorted by size c_0 <= c_1 <= ..., output
        row k has c_k - k rows left to choose from, and the permanent is the product. Otherwise Ryser's formula is used.

        Raises:
            UserError: the sets are not nested and n is above 20.
        """
        rows = self.string[self.string.sum(1).argsort()]
        n = rows.shape[0]
        if all(bool((rows[k] <= rows[k + 1]).all()) for k in range(n - 1)):
            count = 1
            for k, size in enumerate(rows.sum(1).tolist()):
                count *= max(0, size - k)
            return count
        if n > _PERMANENT_LIMIT:
            raise UserError(
                f"counting permutations under this mask takes 2^{n} steps: use n of {_PERMANENT_LIMIT} or less"
            )
        return _ryser(rows)


def reachable(layout: Layout, depth: int, mask: Tensor | None = None) -> Reach:
    """Follow the mask through `depth` layers with residual connections.

    Args:
        layout: where P, Y_P and the output stand.
        depth: number of attention layers; 0 leaves every row alone.
        mask: (T, T) boolean, entry (r, c) says that row r attends to row c; the layout's own mask when None.

    Returns:
        The reachable rows of each output row.
    """
    visible = layout.visible() if mask is None else mask
    # The disentangled stream keeps what a row has, so a row always reaches itself, even where the mask hides it.
    step = (visible | torch.eye(layout.length, dtype=torch.bool)).float()
    paths = torch.eye(layout.length)[layout.output_rows]
    for _ in range(depth):  # one layer carries information along one visible step, or nowhere (residual)
        paths = ((paths @ step) > 0).float()
    reach = paths > 0
    return Reach(permutation=reach[:, layout.permutation_rows], string=reach[:, layout.string_rows])


def _ryser(rows: Tensor) -> int:
    """Permanent of a 0/1 matrix in exact integers (Ryser 1963), subsets of columns in Gray-code order."""
    n = rows.shape[0]
    columns = rows.int().T.tolist()
    sums, total, chosen = [0] * n, 0, 0
    for k in range(1, 1 << n):
        bit = (k & -k).bit_length() - 1
        sign = -1 if chosen >> bit & 1 else 1
        chosen ^= 1 << bit
        # Neighbours in Gray code differ by one column: the row sums change by one vector instead of being formed anew.
        sums = [s + sign * c for s, c in zip(sums, columns[bit])]
        product = 1
        for s in sums:
            product *= s
        total += product if (n - chosen.bit_count()) % 2 == 0 else -product
    return total
