"""Cost matrices of weight matching: `CostBuilder(spec, a, b).costs("layers.0", permutation)`.

For group g the similarity of slot i and unit j is the inner product of everything the group indexes, with the
other groups of B already permuted (arXiv 2209.04836, algorithm 1). Small tensors of a group are concatenated so
that one matrix product does them all; large ones are multiplied in place, without a copy of A. B is gathered one
tensor at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from permlab.symmetry import Block, Permutation, Spec, axis_index, permute_tensor

LARGE = 1 << 15
"""Entries above which a term is multiplied on its own instead of being copied into the concatenated matrix."""


@dataclass
class Kept:
    """A cost matrix and the permutation of B it belongs to."""

    cost: Tensor
    permutation: Permutation


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
        keep_share: cost matrices are kept between calls, and updated through the few columns that moved, while
            together they take at most this share of a model.
    """

    def __init__(self, spec: Spec, a: Mapping[str, Tensor], b: Mapping[str, Tensor], keep_share: float = 1.0) -> None:
        self.spec, self.a, self.b = spec, a, b
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
        self._kept: dict[tuple[str, str], Kept] = {}
        # Memory bound: all kept matrices together stay below the size of a model, however wide its layers are.
        weights = sum(a[name].numel() for name in spec.matched())
        self._room = keep_share * weights

    def _term(self, tensor: str, axis: int, block: Block) -> Term:
        # P_{l-1} or P_{l+1} of algorithm 1: what is held fixed while this group is solved.
        others = frozenset(
            other.group for at, blocks in self.spec.axes[tensor].items() if at != axis for other in blocks
        )
        value = self.a[tensor]
        columns = value.numel() // value.shape[axis] * block.outer * block.inner
        return Term(tensor, axis, block, others, columns)

    def inner(self, group: str, permutation: Permutation) -> float:
        """<A, permuted B> over the tensors of one group, in float64: what a linearised step must raise."""
        tensors = dict.fromkeys(term.tensor for terms in self.terms[group].values() for term in terms)
        return sum(
            float((self.a[name].double() * permute_tensor(self.spec, name, self.b[name], permutation).double()).sum())
            for name in tensors
        )

    def neighbours(self) -> dict[str, set[str]]:
        """Group -> groups whose cost changes when it does."""
        result: dict[str, set[str]] = {name: set() for name in self.groups}
        for name, spaces in self.terms.items():
            for terms in spaces.values():
                for term in terms:
                    for other in term.others & result.keys():
                        result[other].add(name)
        return result

    def costs(
        self, group: str, permutation: Permutation, *, known: set[str] | None = None, fresh: bool = False
    ) -> dict[str, Tensor]:
        """Space -> float32 similarity [n, n] with B's other groups permuted; not to be written to.

        Args:
            group: the group to be solved.
            permutation: current permutation of B.
            known: when given, only terms whose other groups are all in it count (a cost from what is settled so far).
            fresh: compute from scratch instead of updating the matrix kept from the last call.
        """
        result = {}
        for space, terms in self.terms[group].items():
            size = self.spec.groups[group].spaces()[space]
            if known is not None:
                chosen = [term for term in terms if term.others <= known]
                if chosen:
                    result[space] = self._multiply(size, chosen, permutation)
                continue
            kept = self._kept.get((group, space))
            if kept is None or fresh or not self._update(kept, terms, permutation, size):
                cost = self._multiply(size, terms, permutation)
                if kept is None and size * size <= self._room:
                    self._room -= size * size
                    kept = self._kept[group, space] = Kept(cost, {})
                if kept is not None:
                    kept.cost, kept.permutation = cost, dict(permutation)
                result[space] = cost
            else:
                result[space] = kept.cost
        return result

    def _update(self, kept: Kept, terms: list[Term], permutation: Permutation, size: int) -> bool:
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
            columns += 2 * term.columns * len(rows) // self.a[term.tensor].shape[axis]
            # Once many columns moved, gathering them costs more than the plain product over all of them.
            if columns > sum(each.columns for each in terms) // 2:
                return False
            if len(rows):
                b = self.b[term.tensor]
                # C += A_moved (B_new - B_old)': the columns of neighbours that stayed contribute what they did before.
                difference = b.index_select(axis, new).float() - b.index_select(axis, old).float()
                left = self.a[term.tensor].index_select(axis, rows)
                changes.append(
                    (unfold(left, term.axis, term.block, size), unfold(difference, term.axis, term.block, size))
                )
        if changes:
            left = torch.cat([pair[0].float() for pair in changes], dim=1)
            kept.cost.addmm_(left, torch.cat([pair[1] for pair in changes], dim=1).t())
        kept.permutation = dict(permutation)
        return True

    def _parts(self, term: Term) -> list[str]:
        return [part for name in term.others for part in self.spec.groups[name].parts()]

    def _moved(self, term: Term, before: Permutation, after: Permutation) -> tuple[int, Tensor, Tensor, Tensor] | None:
        """(axis, slots that hold another unit than before, their new units, their old ones); None for two axes."""
        axes = [axis for axis in self.spec.axes[term.tensor] if axis != term.axis]
        if len(axes) != 1:
            return None
        blocks, length = self.spec.axes[term.tensor][axes[0]], self.b[term.tensor].shape[axes[0]]
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
            left = unfold(self.a[term.tensor], term.axis, term.block, size)
            right = unfold(self._gathered(term, permutation), term.axis, term.block, size)
            if term.columns * size < LARGE:
                small.append((left, right))
                continue
            # float32: this product, not the assignment, is the bottleneck of weight matching on wide layers.
            left, right = left.float(), right.float()
            total = left @ right.t() if total is None else total.addmm_(left, right.t())
        if small:
            left = torch.cat([pair[0].float() for pair in small], dim=1)
            right = torch.cat([pair[1].float() for pair in small], dim=1)
            total = left @ right.t() if total is None else total.addmm_(left, right.t())
        return torch.zeros(size, size) if total is None else total

    def _gathered(self, term: Term, permutation: Permutation) -> Tensor:
        """B's tensor with every axis permuted except the one being solved for."""
        tensor = self.b[term.tensor]
        for axis, blocks in self.spec.axes[term.tensor].items():
            # In B's original frame the assignment gives the whole permutation, not a change to compose with the last.
            if axis == term.axis:
                continue
            index = axis_index(self.spec, permutation, blocks, tensor.shape[axis])
            if index is not None:
                tensor = tensor.index_select(axis, index.to(tensor.device))
        return tensor
