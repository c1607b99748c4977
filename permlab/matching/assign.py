"""Assignment problems: `solve(group, {"unit": cost})` gives the best element of a group and its pair scores.

Channels are one linear assignment problem in float64 (SciPy's shortest augmenting paths). Heads are two-level: for
every pair of key/value heads the best order of query heads, q/k dims and value dims, then one assignment over the
heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from permlab.errors import caution
from permlab.symmetry import ChannelGroup, Group, HeadGroup, Permutation

EXACT_QUERIES = 3
ALTERNATIONS = 10


@dataclass
class Assignment:
    """`permutation`: the chosen element. `cost` [n, n]: first-level similarity (channels or key/value heads)."""

    permutation: Permutation
    cost: Tensor


def assign(similarity: Tensor) -> Tensor:
    """Permutation [n] that maximises sum_i similarity[i, perm[i]]; float64 inside, ties as SciPy breaks them."""
    # One float64 copy, negated as it is made: `maximize=True` would have SciPy make a second one.
    negative = np.negative(similarity.detach().cpu().numpy(), dtype=np.float64)
    return torch.from_numpy(linear_sum_assignment(negative)[1])


def tied(similarity: Tensor) -> int:
    """Units that compare with every other unit just as another one of their model does: rows or columns that repeat."""
    # Adding 0 makes one zero of two; bytes are compared faster than numbers.
    table = similarity.detach().cpu().numpy() + 0.0
    return max(len(lines) - len({line.tobytes() for line in lines}) for lines in (table, table.T))


def warn_of_ties(method: str, found: Mapping[str, int]) -> None:
    """Say which groups (name -> units that are `tied`) an equally good assignment would order otherwise."""
    names = [f"{name} ({count})" for name, count in found.items() if count]
    if names:
        caution(
            f"{method} matching: units of {', '.join(names[:4])}{' and other groups' if len(names) > 4 else ''} look "
            "alike (dead or doubled units): other assignments are as good, and which one is taken says nothing"
        )


def solve(group: Group, costs: Mapping[str, Tensor]) -> Assignment:
    """Best element for `costs`: space -> [size, size] similarity of reference entry i and this model's entry j.

    Exact for channels, and for heads with up to 3 query heads per key/value head; beyond that the order of query heads
    and the order of dims are solved in turns, which never lowers the score but may stop at a local optimum.
    """
    if isinstance(group, ChannelGroup):
        # arXiv 2209.04836: with all other layers held, the best permutation is one linear assignment problem.
        return Assignment({group.name: assign(costs["unit"])}, costs["unit"])
    return _solve_heads(group, costs)


def gain(group: Group, costs: Mapping[str, Tensor], new: Permutation, old: Permutation) -> tuple[float, float]:
    """(score of `new` minus score of `old`, scale of the terms that differ), summed in float64 where they differ."""
    total = scale = 0.0
    for space, cost in costs.items():
        after, before = group.index(new, space), group.index(old, space)
        # Entries that stay cancel; leaving them out keeps their rounding out of the difference.
        rows = (after != before).nonzero().flatten()
        if len(rows):
            one, two = cost[rows, after[rows]].double(), cost[rows, before[rows]].double()
            total += float((one - two).sum())
            scale += float(one.abs().sum() + two.abs().sum())
    return total, scale


def score(group: Group, costs: Mapping[str, Tensor], permutation: Permutation) -> float:
    """Summed similarity of a group element."""
    total = 0.0
    for space, cost in costs.items():
        index = group.index(permutation, space)
        total += float(cost[torch.arange(len(index)), index].double().sum())
    return total


@dataclass
class _Pair:
    """Best way to put key/value head b into slot a."""

    score: float
    query: Tensor
    key: Tensor
    value: Tensor


def _tiles(cost: Tensor | None, outer: int, inner: int) -> Tensor:
    """[outer * inner, outer * inner] -> [outer, outer, inner, inner]; zeros when the space has no cost."""
    if cost is None:
        return torch.zeros(outer, outer, inner, inner, dtype=torch.float64)
    return cost.double().view(outer, inner, outer, inner).permute(0, 2, 1, 3)


def _solve_heads(group: HeadGroup, costs: Mapping[str, Tensor]) -> Assignment:
    g, r = group.kv_heads, group.queries
    query = _tiles(costs.get("query"), group.heads, group.key_dim)
    output = _tiles(costs.get("output"), group.heads, group.value_dim)
    key = _tiles(costs.get("key"), g, group.key_dim)
    value = _tiles(costs.get("value"), g, group.value_dim)
    head = costs["head"].double() if "head" in costs else torch.zeros(group.heads, group.heads, dtype=torch.float64)
    pairs: list[list[_Pair]] = []
    for a in range(g):
        rows = slice(a * r, (a + 1) * r)
        pairs.append([])
        for b in range(g):
            columns = slice(b * r, (b + 1) * r)
            pairs[a].append(
                _solve_pair(
                    group, query[rows, columns], key[a, b], output[rows, columns], value[a, b], head[rows, columns]
                )
            )
    # Upper level: each pair of key/value heads is worth its best inner order, and one assignment picks the pairs.
    cost = torch.tensor([[pair.score for pair in row] for row in pairs], dtype=torch.float64)
    kv = assign(cost)
    chosen = [pairs[a][int(b)] for a, b in enumerate(kv)]
    stack = [torch.stack([getattr(pair, level) for pair in chosen]) for level in ("query", "key", "value")]
    return Assignment(group.assemble(kv, *stack), cost.float())


def _solve_pair(group: HeadGroup, query: Tensor, key: Tensor, output: Tensor, value: Tensor, head: Tensor) -> _Pair:
    """Order of query heads and dims for one pair; `query` and `output` are [r, r, d, d], `head` [r, r]."""
    r = group.queries

    def dims(order: Tensor) -> _Pair:
        rows = torch.arange(r)
        # Only q.k is ever seen, so q and k share one order of dims, across all queries of a key/value head.
        keys = query[rows, order].sum(0) + key
        # Value rows and the output projection's columns share one order as well, independent of that of q and k.
        values = output[rows, order].sum(0) + value
        # Rotary positions turn fixed pairs of dims: no permutation inside the head is a symmetry.
        inside = torch.arange(group.key_dim) if group.rotary else assign(keys)
        best = assign(values)
        total = float(keys[torch.arange(len(inside)), inside].sum() + values[torch.arange(len(best)), best].sum())
        return _Pair(total + float(head[rows, order].sum()), order, inside, best)

    # At most 3! = 6 orders: trying all is exact, while order and dims together are no linear assignment.
    if r <= EXACT_QUERIES:
        return max((dims(torch.tensor(order)) for order in permutations(range(r))), key=lambda pair: pair.score)
    # Start from the part of the score that does not depend on the order of dims under rotary embeddings, and from
    # the one that ignores it; keep the better end.
    heads = head + torch.diagonal(query, dim1=2, dim2=3).sum(-1)
    loose = head + query.amax(3).sum(2) + output.amax(3).sum(2)
    ends = []
    for start in (heads, loose):
        pair = dims(assign(start))
        # Coordinate ascent: query order given the dims, then dims given the order; neither step can lose.
        for _ in range(ALTERNATIONS):
            by_head = (
                head
                + query[:, :, torch.arange(group.key_dim), pair.key].sum(-1)
                + output[:, :, torch.arange(group.value_dim), pair.value].sum(-1)
            )
            better = dims(assign(by_head))
            if better.score <= pair.score:
                break
            pair = better
        ends.append(pair)
    return max(ends, key=lambda pair: pair.score)
