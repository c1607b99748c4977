"""Cost matrices of weight matching: `CostBuilder(spec, a, b).costs("layers.0", permutation)`.

For group g the similarity of slot i and unit j is the inner product of everything the group indexes, with the
other groups of B already permuted (arXiv 2209.04836, algorithm 1). Small tensors of a group are concatenated so
that one matrix product does them all; large ones are multiplied in place, without a copy of A. B is gathered one
tensor at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from permlab.matching.distance import inner_product, rows_of
from permlab.matching.memory import Memory
from permlab.symmetry import Block, Permutation, Spec, axis_index, row_ranges, wide

LARGE = 1 << 15
"""Entries above which a term is multiplied on its own instead of being copied into the concatenated matrix."""
SMALL = 4
UPDATES = 32
"""Updates of a kept product in place before it is computed afresh."""

Key: TypeAlias = tuple[str, str, frozenset[str]]
"""(group, space, the other groups that a bundle of terms hangs on)."""


@dataclass
class Kept:
    """A product of some terms, the permutation of B it belongs to, and how often it was updated since it was taken."""

    cost: Tensor | None = None
    permutation: Permutation = field(default_factory=dict)
    updates: int = 0


@dataclass(frozen=True)
class Term:
    """One (tensor, axis, block) of a group; `others`: the groups on the other axes, which B must be permuted by."""

    tensor: str
    axis: int
    block: Block
    others: frozenset[str]
    columns: int


def unfold(tensor: Tensor, axis: int, block: Block, size: int) -> Tensor:
    """[size, columns]: row i is everything unit i of the block indexes. A view of `tensor` where strides allow it."""
    length = block.outer * size * block.inner
    if length != tensor.shape[axis]:
        tensor = tensor.narrow(axis, block.offset, length)
    if block.outer == 1 and block.inner == 1:
        if axis == 0:
            return tensor.reshape(size, -1)
        if axis == 1 and tensor.dim() == 2:
            return tensor.t()
        # Kernel positions and the other channels become columns: the distance of a unit is over all its weights.
        return tensor.movedim(axis, 0).reshape(size, -1)
    tensor = tensor.movedim(axis, 0).reshape(block.outer, size, block.inner, -1)
    return tensor.transpose(0, 1).reshape(size, -1)


class CostBuilder:
    """Builds cost matrices of `b` (permuted) against `a`; both are state dicts and are not copied.

    Args:
        spec: the symmetry. The cost of a group on two axes of one tensor is linearised there: B's other axis is
            permuted by the group's current permutation (the gradient of the quadratic objective).
        a, b: state dicts with the spec's tensors.
        memory: cost matrices are kept between calls, and updated through the few columns that moved, while there is
            room for them.
    """

    def __init__(
        self, spec: Spec, a: Mapping[str, Tensor], b: Mapping[str, Tensor], memory: Memory | None = None
    ) -> None:
        self.spec, self.a, self.b, self.memory = spec, a, b, memory or Memory()
        # Once: asking a view of half-precision tensors for a shape widens the tensor.
        self.shapes = {name: a[name].shape for name in spec.matched()}
        self.quadratic = spec.quadratic()
        self.groups = [name for name, group in spec.groups.items() if group.free]
        self.terms: dict[str, dict[str, list[Term]]] = {}
        for name in self.groups:
            spaces: dict[str, list[Term]] = {}
            for tensor, axis, block in spec.members(name):
                # Running means and variances are permuted but are no weights: the published objective leaves them out.
                if tensor in spec.statistics:
                    continue
                spaces.setdefault(block.space, []).append(self._term(tensor, axis, block))
            self.terms[name] = spaces
        self._kept: dict[Key, Kept] = {}
        self._split: dict[tuple[str, str], list[tuple[Key, list[Term]]]] = {}
        # Memory bound: all kept matrices together stay below the size of both models, however wide their layers are.
        weights = sum(shape.numel() for shape in self.shapes.values())
        self._room = self.memory.room(spec, self.groups, weights)

    def _term(self, tensor: str, axis: int, block: Block) -> Term:
        # P_{l-1} or P_{l+1} of algorithm 1: what is held fixed while this group is solved.
        others = frozenset(
            other.group for at, blocks in self.spec.axes[tensor].items() if at != axis for other in blocks
        )
        shape = self.shapes[tensor]
        columns = shape.numel() // shape[axis] * block.outer * block.inner
        return Term(tensor, axis, block, others, columns)

    def inner(self, group: str, permutation: Permutation) -> float:
        """<A, permuted B> over the tensors of one group, in float64: what a linearised step must raise."""
        tensors = dict.fromkeys(term.tensor for terms in self.terms[group].values() for term in terms)
        return inner_product(self.spec, tensors, self.a, self.b, permutation)

    @functools.cached_property
    def norm(self) -> float:
        """|A|^2 + |B|^2 over the matched tensors: the size of what a gain is held against."""
        pieces = (
            wide(rows_of(state[name], *rows))
            for state in (self.a, self.b)
            for name, shape in self.shapes.items()
            for rows in row_ranges(shape)
        )
        return sum(float(torch.linalg.vector_norm(piece)) ** 2 for piece in pieces)

    def neighbours(self) -> dict[str, set[str]]:
        """Group -> groups whose cost changes when it does."""
        result: dict[str, set[str]] = {name: set() for name in self.groups}
        for name, spaces in self.terms.items():
            for terms in spaces.values():
                for term in terms:
                    for other in term.others & result.keys():
                        result[other].add(name)
        return result

    def costs(self, group: str, permutation: Permutation, *, known: set[str] | None = None) -> dict[str, Tensor]:
        """Space -> float32 similarity [n, n] with B's other groups permuted; not to be written to.

        Args:
            group: the group to be solved.
            permutation: current permutation of B.
            known: when given, only terms whose other groups are all in it count (a cost from what is settled so far).
        """
        result = {}
        for space, terms in self.terms[group].items():
            size = self.spec.groups[group].spaces()[space]
            total, owned = None, False
            for key, part in self._bundles(group, space, terms, size):
                chosen = part if known is None else [term for term in part if term.others <= known]
                if not chosen:
                    continue
                # Part of a bundle is nothing that the next call could go on from.
                whole = len(chosen) == len(part) and key in self._kept
                cost = self._kept_product(self._kept[key], part, permutation, size) if whole else None
                cost = self._multiply(size, chosen, permutation) if cost is None else cost
                if total is None:
                    total, owned = cost, not whole
                else:
                    total, owned = (total.add_(cost), True) if owned else (total + cost, True)
            if total is not None or known is None:
                result[space] = torch.zeros(size, size) if total is None else total
        return result

    def _bundles(self, group: str, space: str, terms: list[Term], size: int) -> list[tuple[Key, list[Term]]]:
        """The terms of a group by the other groups that they hang on, each bundle with a matrix that is kept.

        A bundle whose other groups stayed costs nothing, and one product serves all tensors between two layers. Where
        there is no room for so many matrices all terms are one bundle, and without room for one nothing is kept.
        """
        found = self._split.get((group, space))
        if found is not None:
            return found
        # Biases and small tensors are no reason for a matrix of their own: they go with the largest one.
        most = max(terms, key=lambda term: term.columns)
        parts: dict[Key, list[Term]] = {}
        for term in terms:
            others = term.others if term.columns * SMALL > most.columns else most.others
            parts.setdefault((group, space, others), []).append(term)
        if len(parts) * size * size > self._room:
            parts = {(group, space, frozenset().union(*(term.others for term in terms))): terms}
        if len(parts) * size * size <= self._room:
            self._room -= len(parts) * size * size
            self._kept |= {key: Kept() for key in parts}
        self._split[group, space] = list(parts.items())
        return self._split[group, space]

    def _kept_product(self, kept: Kept, terms: list[Term], permutation: Permutation, size: int) -> Tensor:
        """The product of a bundle, brought up to date through the columns that moved where that is cheaper."""
        # Updates in place pile up rounding, one in the last digit each.
        if kept.cost is None or kept.updates >= UPDATES or not self._update(kept, kept.cost, terms, permutation, size):
            kept.cost, kept.permutation, kept.updates = self._multiply(size, terms, permutation), dict(permutation), 0
        return kept.cost

    def _update(self, kept: Kept, cost: Tensor, terms: list[Term], permutation: Permutation, size: int) -> bool:
        """Bring a kept matrix up to date through the columns that moved; False when starting afresh is cheaper."""
        changes: list[tuple[Tensor, Tensor]] = []
        columns = 0
        for term in terms:
            if all(permutation[part] is kept.permutation[part] for part in self._parts(term)):
                continue
            moved = self._moved(term, kept.permutation, permutation)
            if moved is None:
                return False
            axis, rows, new, old = moved
            columns += 2 * term.columns * len(rows) // self.shapes[term.tensor][axis]
            # Once many columns moved, gathering them costs more than the plain product over all of them.
            if columns > sum(each.columns for each in terms) // 2:
                return False
            if len(rows):
                b = self.b[term.tensor]
                if 2 * len(rows) * self.shapes[term.tensor].numel() // b.shape[axis] > self.memory.piece:
                    return False  # gathered at once it would be larger than a piece
                # C += A_moved (B_new - B_old)': the columns of neighbours that stayed contribute what they did before.
                difference = self._wide(b.index_select(axis, new)) - self._wide(b.index_select(axis, old))
                left = self._wide(self.a[term.tensor].index_select(axis, rows))
                changes.append(
                    (unfold(left, term.axis, term.block, size), unfold(difference, term.axis, term.block, size))
                )
        if changes:
            left = torch.cat([pair[0] for pair in changes], dim=1)
            right = torch.cat([pair[1] for pair in changes], dim=1).t()
            if self.memory.device is None:
                cost.addmm_(left, right)
            else:
                cost.add_((left @ right).cpu())
            kept.updates += 1
        kept.permutation = dict(permutation)
        return True

    def _parts(self, term: Term) -> list[str]:
        return [part for name in term.others for part in self.spec.groups[name].parts()]

    def _moved(self, term: Term, before: Permutation, after: Permutation) -> tuple[int, Tensor, Tensor, Tensor] | None:
        """(axis, slots that hold another unit than before, their new units, their old ones); None for two axes."""
        axes = [axis for axis in self.spec.axes[term.tensor] if axis != term.axis]
        if len(axes) != 1:
            return None
        blocks, length = self.spec.axes[term.tensor][axes[0]], self.shapes[term.tensor][axes[0]]
        new = axis_index(self.spec, after, blocks, length)
        old = axis_index(self.spec, before, blocks, length)
        if new is None or old is None:  # nothing permutes this axis
            return None
        rows = (new != old).nonzero().flatten()
        device = self.b[term.tensor].device
        return axes[0], rows.to(device), new[rows].to(device), old[rows].to(device)

    def _multiply(self, size: int, terms: list[Term], permutation: Permutation) -> Tensor:
        total: Tensor | None = None
        small: list[tuple[Tensor, Tensor]] = []
        for term in terms:
            if self.shapes[term.tensor].numel() > self.memory.piece and len(self.shapes[term.tensor]) > 1:
                total = self._multiply_pieces(size, term, permutation, total)
                continue
            left = unfold(self.a[term.tensor], term.axis, term.block, size)
            right = unfold(self._gathered(term, permutation), term.axis, term.block, size)
            if term.columns * size < LARGE:
                small.append((left, right))
                continue
            left, right = self._wide(left), self._wide(right)
            total = left @ right.t() if total is None else total.addmm_(left, right.t())
        if small:
            left = torch.cat([self._wide(pair[0]) for pair in small], dim=1)
            right = torch.cat([self._wide(pair[1]) for pair in small], dim=1)
            total = left @ right.t() if total is None else total.addmm_(left, right.t())
        if total is None:
            return torch.zeros(size, size)
        # Assignments are solved on the CPU: what was multiplied elsewhere comes back.
        return total if self.memory.device is None else total.cpu()

    def _multiply_pieces(self, size: int, term: Term, permutation: Permutation, total: Tensor | None) -> Tensor:
        """Add one large term: its columns are gathered, widened and multiplied a piece at a time."""
        a, b, shape = self.a[term.tensor], self.b[term.tensor], self.shapes[term.tensor]
        others = [axis for axis in range(len(shape)) if axis != term.axis]
        at = max(others, key=lambda axis: shape[axis])
        listed = {axis: blocks for axis, blocks in self.spec.axes[term.tensor].items() if axis != term.axis}
        found = ((axis, axis_index(self.spec, permutation, blocks, shape[axis])) for axis, blocks in listed.items())
        index = {axis: chosen.to(b.device) for axis, chosen in found if chosen is not None}
        step = max(1, self.memory.piece // (shape.numel() // shape[at]))
        for start in range(0, shape[at], step):
            count = min(step, shape[at] - start)
            moved = b.index_select(at, index[at][start : start + count]) if at in index else b.narrow(at, start, count)
            for axis, chosen in index.items():
                if axis != at:
                    moved = moved.index_select(axis, chosen)
            left = unfold(self._wide(a.narrow(at, start, count)), term.axis, term.block, size)
            right = unfold(self._wide(moved), term.axis, term.block, size)
            total = left @ right.t() if total is None else total.addmm_(left, right.t())
        assert total is not None
        return total

    def _wide(self, tensor: Tensor) -> Tensor:
        """float32, where products are taken."""
        # float32: this product, not the assignment, is the bottleneck of weight matching on wide layers.
        return tensor.to(self.memory.device or tensor.device, torch.float32)

    def _gathered(self, term: Term, permutation: Permutation) -> Tensor:
        """B's tensor with every axis permuted except the one being solved for."""
        tensor = self.b[term.tensor]
        # Kernels are gathered in the order that they are multiplied in, which saves `unfold` a copy.
        first = term.axis if tensor.dim() > 2 else 0
        tensor = tensor.movedim(first, 0)
        for axis, blocks in self.spec.axes[term.tensor].items():
            # In B's original frame the assignment gives the whole permutation, not a change to compose with the last.
            if axis == term.axis:
                continue
            at = axis + 1 if axis < first else axis
            index = axis_index(self.spec, permutation, blocks, tensor.shape[at])
            if index is not None:
                tensor = tensor.index_select(at, index.to(tensor.device))
        return tensor.movedim(0, first)
