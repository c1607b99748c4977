"""Exact linear assignments that remember prices: `Prices().assign("layers.0", similarity)`.

An assignment is optimal when there are prices of columns under which every row holds the column that is worth most to
it (duality of linear programmes). Coordinate descent solves nearly the same problem again and again, so the prices of
the last solution are kept: under them only pairs that cost little are candidates, the sparse problem of those is solved
(SciPy's Jonker-Volgenant for sparse graphs), prices are read off its shortest paths, and all pairs are held against
them. Pairs that contradict become candidates too; when there are none, the assignment is optimal for the dense problem.
`python -m pytest tests/matching/test_prices.py` holds it against SciPy's dense solver.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from torch import Tensor

Floats: TypeAlias = "NDArray[np.float32]"
Indices: TypeAlias = "NDArray[np.int64]"

CANDIDATES = 16
"""Pairs per row that a first sparse problem has, on average."""
WIDE, MORE = 4096, 32
"""From so many rows on, so many pairs: all pairs are held against the prices once or twice, not four times."""
STEPS = 2.0**16
"""Steps of a candidate's cost: whole numbers keep rows that bid for columns of nearly equal worth from outbidding each
other by rounding errors for ever."""
NOISE = 1e-6
"""Of the largest entry: finer differences of float32 costs are rounding."""
ROUNDS = 8
"""Rounds of candidates before the dense problem is solved instead."""
GUESSED = 8
"""Rounds of prices where nothing is to be proved by them."""
SAMPLE = 1 << 14
BLOCK = 1 << 18
"""Entries that are worked on at a time: a mebibyte."""


class Prices:
    """Assignments by name, each starting from the prices of columns that its last solution had."""

    def __init__(self) -> None:
        self._kept: dict[str, Floats] = {}

    def assign(self, name: str, similarity: Tensor, current: Tensor, *, quick: bool = False) -> Tensor:
        """Permutation [n] that maximises sum_i similarity[i, perm[i]], to n steps of the grid at most.

        Args:
            name: of the group of units, whose prices are read and kept.
            similarity: [n, n] float32; not written to.
            current: a permutation [n] to do no worse than.
            quick: the best assignment of the first candidates is taken, without holding all pairs against it.
        """
        # Minimised from here on: what it costs to hold a column, above its price and above what the row pays at least.
        given = similarity.detach().cpu().numpy()
        prices = self._kept.get(name)
        if prices is None:
            prices = np.zeros(len(given), dtype=np.float32)
        reduced, lowest, largest = _reduced(given, prices)
        noise = NOISE * largest
        found, change = _solve(reduced, current.numpy(), noise, quick)
        self._kept[name] = prices + lowest + change
        return torch.from_numpy(found)


def _blocks(size: int) -> Iterator[slice]:
    """Rows of a square matrix that stay in the processor's cache while they are worked on."""
    step = max(1, BLOCK // size)
    return (slice(start, start + step) for start in range(0, size, step))


def _reduced(similarity: Floats, prices: Floats) -> tuple[Floats, Floats, float]:
    """(costs above the prices of their columns, each row and column reaching down to 0; what columns came down by;
    the largest similarity either way)."""
    reduced = np.empty(similarity.shape, dtype=np.float32)
    lowest, largest = np.full(len(reduced), np.inf, dtype=np.float32), 0.0
    for rows in _blocks(len(reduced)):
        block = np.negative(similarity[rows], out=reduced[rows])
        largest = max(largest, -float(block.min()), float(block.max()))
        block -= prices
        block -= block.min(1)[:, None]
        np.minimum(lowest, block.min(0), out=lowest)
    for rows in _blocks(len(reduced)):
        reduced[rows] -= lowest
    return reduced, lowest, largest


def _solve(reduced: Floats, current: Indices, noise: float, quick: bool) -> tuple[Indices, Floats]:
    """(assignment of least cost, prices of the columns) of a matrix whose rows and columns all reach down to 0."""
    size = len(reduced)
    nothing = np.zeros(size, dtype=np.float32)
    chosen = _cheap(reduced, current)
    for _ in range(ROUNDS):
        # Ties by the thousand (dead or doubled units) leave nothing to choose by: then the dense problem is as quick.
        if len(chosen) > 8 * CANDIDATES * size:
            break
        found, prices = _sparse(reduced, chosen, noise, GUESSED if quick else None)
        if quick:
            return found, prices
        against = _contradictions(reduced, found, prices, 2 * _grid(reduced, chosen, noise))
        more = np.setdiff1d(against, chosen, assume_unique=True)
        if not len(more):
            return found, prices
        chosen = np.sort(np.concatenate([chosen, more]))
    return linear_sum_assignment(reduced)[1], nothing


def _cheap(reduced: Floats, current: Indices) -> Indices:
    """Flat indices of about `CANDIDATES` pairs per row that cost least, and of the current ones: a perfect matching."""
    size, flat = len(reduced), reduced.ravel()
    # An odd stride meets all columns.
    sample = flat[:: (size * size // SAMPLE) | 1]
    at = min(len(sample) - 1, len(sample) * (MORE if size >= WIDE else CANDIDATES) // size)
    limit = np.partition(sample, at)[at]
    held = np.arange(size) * size + current
    return np.sort(np.concatenate([np.flatnonzero(flat <= limit), held[flat[held] > limit]]))


def _grid(reduced: Floats, chosen: Indices, noise: float) -> float:
    return max(float(reduced.ravel()[chosen].max()) / STEPS, noise, float(np.finfo(np.float32).tiny))


def _sparse(reduced: Floats, chosen: Indices, noise: float, rounds: int | None) -> tuple[Indices, Floats]:
    """(assignment of least cost among the chosen pairs, prices of the columns under which it is the best of those).

    With a bound on the `rounds` the prices are a guess.
    """
    size, grid = len(reduced), _grid(reduced, chosen, noise)
    rows, columns = np.divmod(chosen, size)
    starts = np.searchsorted(chosen, np.arange(size + 1) * size).astype(np.int32)
    cost = np.rint(reduced.ravel()[chosen] / grid)
    graph = csr_array((cost.astype(np.float64) + 1, columns.astype(np.int32), starts), shape=(size, size))
    found: Indices = min_weight_full_bipartite_matching(graph)[1].astype(np.int64)
    # Prices by Bellman and Ford: a row would rather hold column j when price_j > price_found + cost_j - cost_found.
    held = cost[np.searchsorted(chosen, np.arange(size) * size + found)]
    order = np.argsort(columns.astype(np.uint16) if size < 1 << 16 else columns, kind="stable")
    above, source = (cost - held[rows])[order], found[rows[order]]
    begin = np.zeros(size, dtype=np.int64)
    np.cumsum(np.bincount(columns, minlength=size)[:-1], out=begin[1:])
    prices = np.zeros(size, dtype=above.dtype)
    for _ in range(rounds or size + 1):  # the longest way from row to row visits every row once
        lower = np.minimum.reduceat(above + prices[source], begin)
        if (lower >= prices).all():
            break
        prices = np.minimum(lower, prices)
    return found, (prices * grid).astype(np.float32)


def _contradictions(reduced: Floats, found: Indices, prices: Floats, slack: float) -> Indices:
    """Flat indices of pairs that a row would rather hold under these prices."""
    size = len(reduced)
    paid = reduced[np.arange(size), found] - prices[found] - np.float32(slack)
    parts = [np.flatnonzero(reduced[rows] - prices < paid[rows, None]) + rows.start * size for rows in _blocks(size)]
    return np.concatenate(parts)
