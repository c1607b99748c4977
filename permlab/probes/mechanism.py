"""Which way to undo a permutation did training find? `mechanisms(model, weights)[0].name` is `lookup`.

Two layers can solve the task in three orders, and the attention of layer 1 tells them apart:

- `lookup` (the construction of `construction`): output row j finds the row of P with its one in column j and copies
  that row's position; layer 2 goes from there to the row of Y_P.
- `fetch` (an induction head): row i of Y_P copies the content of row i of P, a fixed step back; layer 2 lets output row
  j find the row of Y_P that carries a one in coordinate j.
- `carry`: row i of P copies the content of row i of Y_P; layer 2 lets output row j find the row of P with its one in
  column j. P comes first, so a causal mask rules this out.

Each exists in the negative as well, "all but mine": attending evenly to all rows of the block *except* the own one says
as much, because the rows of a permutation matrix sum to a row of ones: sum of the others = 1 - own.

A reading of attention is a guess until the attention is taken away. `flattened` lets the rows of a route attend to the
own row exactly as much as to the others of its block: what the route carried is gone, in the positive and in the
negative, and everything else stays. A route is the mechanism of a network when its row accuracy falls without it.
Some networks fall only when two routes are taken away together: either is enough for most rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

import torch
from torch import Tensor

from permlab.probes.floors import row_accuracy_ceiling
from permlab.probes.layout import Layout
from permlab.probes.network import Network
from permlab.probes.problem import heldout_batch, row_accuracy
from permlab.probes.table import ROUTES

K = TypeVar("K")

WORKS = 0.5
"""Share of the row accuracy that the mask allows, from which on a network has a mechanism at all."""
GUESSED = 0.1
"""Row accuracy below which there is nothing to explain."""
NEEDED = 0.25
"""A network needs a route when flattening it costs at least this share of its row accuracy."""


@dataclass(frozen=True)
class Edges:
    """Where a route runs in the attention of layer 1.

    Attributes:
        own: (batch, T, T) boolean, one key for each query row of the route: the row it needs.
        block: (T, T) boolean, the n query rows against all n rows of which one is its own.
    """

    own: Tensor
    block: Tensor

    def shares(self, attention: Tensor) -> tuple[Tensor, Tensor]:
        """Attention to the own row, and to the other rows of the block together; (..., n) each, over query rows."""
        rows = self.block.any(1)
        own = (attention * self.own[:, None]).sum(-1)[..., rows]
        return own, (attention * self.block).sum(-1)[..., rows] - own

    def flattened(self, attention: Tensor) -> Tensor:
        """Give the own row the mean of its block; the other rows share the rest in the proportions they had."""
        n = int(self.block.sum(1).max())
        block, own = self.block.to(attention), self.own[:, None].to(attention)
        mass = (attention * block).sum(-1, keepdim=True)
        others = (attention + 1e-12) * block * (1 - own)
        others = others / others.sum(-1, keepdim=True).clamp_min(1e-30)
        # Rows outside the route have no block: they keep what they had.
        return attention * (1 - block) + mass / n * own + mass * (1 - 1 / n) * others


@dataclass(frozen=True)
class Mechanism:
    """What one network does.

    Attributes:
        name: the routes it needs, each with `_others` behind it where it attends to all but the own row, joined by `+`;
            by `|` where it needs one of them, whichever is left; `unclear` when it works without all of them, `none`
            when it does not work.
        read: the route that its attention shows most, named in the same way, whether needed or not.
        row_accuracy: as it is.
        without: route -> row accuracy with this route flattened.
        without_it: row accuracy with what its name says flattened, at worst; NaN without a name.
        without_others: row accuracy with one of the other routes flattened, at worst.
    """

    name: str
    read: str
    row_accuracy: float
    without: dict[str, float]
    without_it: float
    without_others: float


def edges_of(x: Tensor, layout: Layout) -> dict[str, Edges]:
    """The edges of every route on some problems, x (batch, T, n)."""
    return {name: row.load()(x, layout) for name, row in ROUTES.items()}


@torch.no_grad()
def first_attention(model: Network, weights: Tensor, x: Tensor) -> Tensor:
    """Attention of layer 1: (seeds, batch, heads, T, T)."""
    maps: list[Tensor] = []
    model.forward(model.unpack(weights), x.expand(len(weights), -1, -1, -1), maps)
    return maps[0]


def strengths(attention: Tensor, edges: Edges) -> tuple[Tensor, Tensor]:
    """How much of a route a layer shows, as (mine, all but mine), (seeds,) each, 0 to 1, of the head that has most.

    Mine is the attention to the own row. All but mine is the attention to the block times the share by which the mean
    other row is above the own one: 1 where the own row is left out, 0 where all are attended to evenly.
    """
    own, others = edges.shares(attention)
    mean = others / (int(edges.block.sum(1).max()) - 1)
    left_out = ((mean - own) / (mean + own).clamp_min(1e-12)).clamp_min(0) * (own + others)
    # The best head decides: one head is enough for the construction, the others are free to do anything.
    return own.mean((1, 3)).amax(1), left_out.mean((1, 3)).amax(1)


def routes(model: Network, weights: Tensor, examples: int = 32) -> dict[str, list[float]]:
    """Measure layer 1 of networks with at least two layers.

    Args:
        model: shapes; its depth must be 2 or more.
        weights: (seeds, size).
        examples: test problems.

    Returns:
        For every seed, the mean layer-1 attention (0 to 1, of the head that has most) from output row j to the row of
        P with its one in column j (`lookup`), from row i of Y_P to row i of P (`fetch`) and from row i of P to row i
        of Y_P (`carry`), and for each the strength of its negative (`lookup_others`, ...).
    """
    x = heldout_batch(model.layout, examples, seed=0)[0].to(weights)
    attention = first_attention(model, weights, x)
    found: dict[str, list[float]] = {}
    for name, edges in edges_of(x, model.layout).items():
        mine, others = strengths(attention, edges)
        found |= {name: mine.tolist(), f"{name}_others": others.tolist()}
    return found


@torch.no_grad()
def mechanisms(model: Network, weights: Tensor, examples: int = 64) -> list[Mechanism]:
    """Say of every seed what it does, by taking routes away, alone and together; arguments as in `routes`."""
    x, y = heldout_batch(model.layout, examples, seed=0)
    x, y = x.to(weights), y.to(weights)
    edges, inputs = edges_of(x, model.layout), x.expand(len(weights), -1, -1, -1)

    def left(gone: tuple[str, ...]) -> list[float]:
        def edit(attention: Tensor) -> Tensor:
            for route in gone:
                attention = edges[route].flattened(attention)
            return attention

        output = model.forward(model.unpack(weights), inputs, edit=edit)
        found: list[float] = row_accuracy(output, y).tolist()
        return found

    accuracies = {gone: left(gone) for size in range(len(edges) + 1) for gone in combinations(edges, size)}
    shown, works = routes(model, weights, examples), max(GUESSED, WORKS * row_accuracy_ceiling(model.layout))
    return [judged(_of_seed(accuracies, k), _of_seed(shown, k), works) for k in range(len(weights))]


def _of_seed(found: Mapping[K, list[float]], k: int) -> dict[K, float]:
    return {name: values[k] for name, values in found.items()}


def judged(left: dict[tuple[str, ...], float], shown: dict[str, float], works: float) -> Mechanism:
    """Name a mechanism: what is needed by ablation, each positive or negative by what attention shows more of.

    Args:
        left: routes that are flattened together, none to all -> share of right rows.
        shown: route, or its negative -> how much attention shows of it.
        works: from which accuracy on there is a mechanism.
    """
    whole, single = left[()], {gone[0]: accuracy for gone, accuracy in left.items() if len(gone) == 1}
    fallen = [gone for gone, accuracy in left.items() if gone and accuracy <= (1 - NEEDED) * whole]
    routes_of_it = tuple(route for route in single if (route,) in fallen) or min(fallen, key=len, default=())
    joined = "+" if routes_of_it and (routes_of_it[0],) in fallen else "|"
    signed = [max(route, f"{route}_others", key=lambda name: shown[name]) for route in routes_of_it]
    name = (joined.join(signed) or "unclear") if whole >= works else "none"
    mine = [left[routes_of_it]] if joined == "|" and routes_of_it else [single[route] for route in routes_of_it]
    return Mechanism(
        name=name,
        read=max(shown, key=lambda route: shown[route]),
        row_accuracy=whole,
        without=single,
        without_it=min(mine, default=math.nan) if name != "none" else math.nan,
        without_others=min((left for route, left in single.items() if route not in routes_of_it), default=math.nan),
    )


# ---- targets of `table.ROUTES`: (X (batch, T, n), layout) -> the edges of a route ------------------------------------


def _edges(x: Tensor, layout: Layout, queries: slice, keys: slice, own: Tensor) -> Edges:
    """Edges from n rows to n rows; `own` is (batch, n, n) or (n, n)."""
    block = torch.zeros(layout.length, layout.length, dtype=torch.bool, device=x.device)
    block[queries, keys] = True
    whole = torch.zeros(len(x), layout.length, layout.length, dtype=torch.bool, device=x.device)
    whole[:, queries, keys] = own.to(x.device)
    return Edges(whole, block)


def lookup(x: Tensor, layout: Layout) -> Edges:
    """From output row j to the row of P with its one in column j."""
    wanted = x[:, layout.permutation_rows].transpose(1, 2) > 0.5  # [example, j, i] = P[i, j]
    return _edges(x, layout, layout.output_rows, layout.permutation_rows, wanted)


def fetch(x: Tensor, layout: Layout) -> Edges:
    """From row i of Y_P to row i of P."""
    # Row i looks n rows back whatever P is: this route matches contents in layer 2, the construction in layer 1.
    return _edges(x, layout, layout.string_rows, layout.permutation_rows, torch.eye(layout.n, dtype=torch.bool))


def carry(x: Tensor, layout: Layout) -> Edges:
    """From row i of P to row i of Y_P."""
    return _edges(x, layout, layout.permutation_rows, layout.string_rows, torch.eye(layout.n, dtype=torch.bool))
