"""Which of the two ways to undo a permutation did training find? `lookup_and_fetch(model, weights)`.

Two layers can solve the task in two orders, and the learned attention of layer 1 tells them apart:

- `lookup` (the construction of `construction`): output row j finds the row of P with its one in column j and copies
  that row's position; layer 2 goes from there to the row of Y_P.
- `fetch` (an induction head): row i of Y_P copies the content of row i of P, a fixed step back; layer 2 lets output row
  j find the row of Y_P that carries a one in coordinate j.
"""

from __future__ import annotations

import torch
from torch import Tensor

from permlab.probes.problem import heldout_batch
from permlab.probes.transformer import Transformer


@torch.no_grad()
def lookup_and_fetch(model: Transformer, weights: Tensor, examples: int = 32) -> tuple[list[float], list[float]]:
    """Measure layer 1 of networks with at least two layers.

    Args:
        model: shapes.
        weights: (seeds, size).
        examples: test problems.

    Returns:
        `lookup` and `fetch` of every seed: the mean layer-1 attention from output row j to the row of P with its one in
        column j, and from row i of Y_P to row i of P; the head with the most counts.
    """
    layout = model.layout
    x, _ = heldout_batch(layout, examples, seed=0)
    maps: list[Tensor] = []
    model.forward(model.unpack(weights), x.to(weights).expand(len(weights), -1, -1, -1), maps)
    to_p = maps[0][..., layout.permutation_rows]
    wanted = x[:, layout.permutation_rows].transpose(1, 2).to(weights)  # [example, j, i] = P[i, j]
    first = to_p if model.depth > 1 else to_p.new_zeros(*to_p.shape[:3], layout.length, layout.n)
    lookup = (first[:, :, :, layout.output_rows] * wanted[:, None]).sum(-1).mean((1, 3))
    fetch = first[:, :, :, layout.string_rows].diagonal(dim1=-2, dim2=-1).mean((1, 3))
    return lookup.amax(1).tolist(), fetch.amax(1).tolist()
