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
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from torch import Tensor

from permlab.errors import caution
from permlab.symmetry import ChannelGroup, Group, HeadGroup, Permutation

EXACT_QUERIES = 3
ALTERNATIONS = 10
SPREAD = 1.6
"""Standard deviations by which a pair must stand out to enter a sparse assignment (about a tenth of all pairs)."""


WEIGHT_STEPS = 2.0**10
"""Steps between the best and the worst pair of a sparse assignment."""


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
    return max(len(similarity) - len(torch.unique(similarity, dim=dim)) for dim in (0, 1)) if len(similarity) else 0


def warn_of_ties(method: str, found: Mapping[str, int]) -> None:
    """Say which groups (name -> units that are `tied`) an equally good assignment would order otherwise."""
    names = [f"{name} ({count})" for name, count in found.items() if count]
    if names:
        caution(
            f"{method} matching: units of {', '.join(names[:4])}{' and other groups' if len(names) > 4 else ''} look "
            "alike (dead or doubled units): other assignments are as good, and which one is taken says nothing"
        )


def _outstanding(similarity: Tensor, dim: int, z: float) -> Tensor:
    """Mean plus z standard deviations along `dim` (a norm costs a tenth of torch.std here)."""
    mean = similarity.mean(dim)
    # var = E x^2 - (E x)^2; rounding may push it below 0, hence the clamp.
    square: Tensor = torch.linalg.vector_norm(similarity, dim=dim).square() / similarity.shape[dim]
    return mean + z * (square - mean.square()).clamp_min(0).sqrt()


def improve(similarity: Tensor, current: Tensor, z: float = SPREAD) -> Tensor:
    """A permutation as good as `current` (to the size of a step) or better: an assignment over outstanding pairs only.

    A pair counts when it stands out from its row or its column by `z` standard deviations, or is in `current`; the
    sparse problem (SciPy's Jonker-Volgenant) takes a fraction of the time of the dense one and finds most of its gain.
    A descent confirms its end with dense assignments.
    """
    size, similarity = len(current), similarity.cpu()
    # Both sides: a unit that stands out for nobody else still needs candidates of its own.
    rows, columns = (_outstanding(similarity, dim, z) for dim in (1, 0))
    chosen = (similarity > rows[:, None]) | (similarity > columns)
    # The current pairs keep a perfect matching feasible: Jonker-Volgenant fails on a graph that has none.
    chosen[torch.arange(size), current] = True
    starts = np.zeros(size + 1, dtype=np.int32)
    np.cumsum(chosen.sum(1).numpy(), out=starts[1:])
    flat = chosen.flatten().nonzero().flatten()
    values = similarity.flatten()[flat].double()
    # Every perfect matching has the same number of pairs, so a shift that makes all weights positive changes nothing.
    # Coarse whole numbers: rows that compete for columns of nearly equal worth outbid each other by their difference,
    # which SciPy's solver repeats until the price is right; for dead units, equal but for rounding, that never ends.
    worst, best = float(values.min()), float(values.max())
    weights = ((best - values) * (WEIGHT_STEPS / max(best - worst, torch.finfo(torch.float64).tiny))).round() + 1
    graph = csr_array((weights.numpy(), (flat % size).int().numpy(), starts), shape=(size, size))
    return torch.from_numpy(min_weight_full_bipartite_matching(graph)[1].astype(np.int64))


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
