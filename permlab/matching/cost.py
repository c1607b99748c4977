"""Cost matrices of weight matching: `CostBuilder(spec, a, b).costs("layers.0", permutation)`.

For group g the similarity of slot i and unit j is the inner product of everything the group indexes, with the
other groups of B already permuted (arXiv 2209.04836, algorithm 1). Small tensors of a group are concatenated so
that one matrix product does them all; large ones are multiplied in place, without a copy of A. B is gathered one
tensor at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from permlab.errors import UserError
from permlab.matching.distance import inner_product
from permlab.symmetry import Block, Permutation, Spec, axis_index

ASSIGNED = 16
"""Bytes per pair of units while an assignment is solved: float32 costs, their float64 copy, masks."""
LARGE = 1 << 15
"""Entries above which a term is multiplied on its own instead of being copied into the concatenated matrix."""


@dataclass(frozen=True)
class Memory:
    """What matching may hold beside the networks.

    Attributes:
        most: bytes in all; None: what it takes, with cost matrices of at most a model.
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
            return weights
        left = self.most
        for name in groups:
            size = max(spec.groups[name].spaces().values())
            needed = size * size * ASSIGNED + 8 * self.piece
            if needed > self.most:
                raise UserError(
                    f"memory_gb={self.most / 2**30:.3g} is too little for {name}, whose {size} units take "
                    f"{needed / 2**30:.2g} GiB to match: allow as much, or use match=identity"
                )
            left = min(left, self.most - needed)
        return min(weights, left / 4)


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
        self._kept: dict[tuple[str, str], Kept] = {}
        # Memory bound: all kept matrices together stay below the size of a model, however wide its layers are.
        weights = sum(self.shapes[name].numel() for name in spec.matched())
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
                kept.cost.addmm_(left, right)
            else:
                kept.cost.add_((left @ right).cpu())
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
        for axis, blocks in self.spec.axes[term.tensor].items():
            # In B's original frame the assignment gives the whole permutation, not a change to compose with the last.
            if axis == term.axis:
                continue
            index = axis_index(self.spec, permutation, blocks, tensor.shape[axis])
            if index is not None:
                tensor = tensor.index_select(axis, index.to(tensor.device))
        return tensor
