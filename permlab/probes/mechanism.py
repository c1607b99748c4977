"""Which way to undo a permutation did training find? `routes(model, weights)["lookup"]` is one number per seed.

Two layers can solve the task in three orders, and the attention of layer 1 tells them apart:

- `lookup` (the construction of `construction`): output row j finds the row of P with its one in column j and copies
  that row's position; layer 2 goes from there to the row of Y_P.
- `fetch` (an induction head): row i of Y_P copies the content of row i of P, a fixed step back; layer 2 lets output row
  j find the row of Y_P that carries a one in coordinate j.
- `carry`: row i of P copies the content of row i of Y_P; layer 2 lets output row j find the row of P with its one in
  column j. P comes first, so a causal mask rules this out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from permlab.probes.layout import Layout
from permlab.probes.problem import heldout_batch
from permlab.probes.table import ROUTES
from permlab.probes.transformer import Transformer


@torch.no_grad()
def routes(model: Transformer, weights: Tensor, examples: int = 32) -> dict[str, list[float]]:
    """Measure layer 1 of networks with at least two layers.

    Args:
        model: shapes; its depth must be 2 or more.
        weights: (seeds, size).
        examples: test problems.

    Returns:
        For every seed, the mean layer-1 attention (0 to 1, of the head that has most) from output row j to the row of
        P with its one in column j (`lookup`), from row i of Y_P to row i of P (`fetch`) and from row i of P to row i
        of Y_P (`carry`).
    """
    x = heldout_batch(model.layout, examples, seed=0)[0].to(weights)
    maps: list[Tensor] = []
    model.forward(model.unpack(weights), x.expand(len(weights), -1, -1, -1), maps)
    measured = {name: row.load()(maps[0], x, model.layout) for name, row in ROUTES.items()}
    # The best head decides: one head is enough for the construction, the others are free to do anything.
    return {name: attention.mean((1, 3)).amax(1).tolist() for name, attention in measured.items()}


# ---- targets of `table.ROUTES`: (attention of layer 1 (seeds, batch, heads, T, T), X (batch, T, n), layout) ----------
#      -> (seeds, batch, heads, n), what each of n rows gives to the row that the route needs


def lookup(first: Tensor, x: Tensor, layout: Layout) -> Tensor:
    """From output row j to the row of P with its one in column j."""
    wanted = x[:, layout.permutation_rows].transpose(1, 2)  # [example, j, i] = P[i, j]
    return (first[:, :, :, layout.output_rows, layout.permutation_rows] * wanted[:, None]).sum(-1)


def fetch(first: Tensor, x: Tensor, layout: Layout) -> Tensor:
    """From row i of Y_P to row i of P."""
    # Row i looks n rows back whatever P is: this route matches contents in layer 2, the construction in layer 1.
    return first[:, :, :, layout.string_rows, layout.permutation_rows].diagonal(dim1=-2, dim2=-1)


def carry(first: Tensor, x: Tensor, layout: Layout) -> Tensor:
    """From row i of P to row i of Y_P."""
    return first[:, :, :, layout.permutation_rows, layout.string_rows].diagonal(dim1=-2, dim2=-1)
