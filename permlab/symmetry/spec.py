"""Which tensor axes a permutation group moves: `apply(spec, model.state_dict(), permutation)`.

A `Spec` lists, for every tensor of a state dict, which stretch of which axis belongs to which group (`Block`).
Everything works on plain mappings of names to tensors; nothing here runs a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from permlab.errors import UserError
from permlab.symmetry.groups import ChannelGroup, Group, HeadGroup, Permutation
from permlab.symmetry.pieces import PIECE, is_finite, row_ranges


@dataclass(frozen=True)
class Block:
    """A stretch of one axis: entries `offset .. offset + outer * n * inner`, laid out as (outer, n, inner).

    n is the size of the group's `space`. `inner` is what a flattened C x H x W axis needs (n = C, inner = H * W);
    `offset` addresses one of several packed pieces (q, k and v in one matrix; concatenated channels).
    """

    group: str
    space: str = "unit"
    offset: int = 0
    inner: int = 1
    outer: int = 1


Axes = dict[int, tuple[Block, ...]]


@dataclass
class Spec:
    """The permutation symmetry of one architecture.

    `axes`: tensor name -> axis -> blocks. `statistics`: tensors that are permuted with their group but are no weights
    (running mean and variance), left out of every distance. `tied`: alias name -> name of the tensor it shares.
    `pinned`: what may not be permuted -> a sentence that says why. `source`: where the spec comes from.
    """

    groups: dict[str, Group] = field(default_factory=dict)
    axes: dict[str, Axes] = field(default_factory=dict)
    statistics: set[str] = field(default_factory=set)
    tied: dict[str, str] = field(default_factory=dict)
    pinned: dict[str, str] = field(default_factory=dict)
    source: str = ""

    def channel(self, name: str, size: int) -> str:
        """Add a channel group (again: the size must agree) and return its name."""
        known = self.groups.setdefault(name, ChannelGroup(name, size))
        if not isinstance(known, ChannelGroup) or known.size != size:
            raise ValueError(f"group {name} is {known}, not {size} channels")
        return name

    def heads(self, group: HeadGroup) -> str:
        """Add a head group and return its name."""
        self.groups[group.name] = group
        return group.name

    def use(self, tensor: str, axis: int, *blocks: Block | str) -> None:
        """Say that `axis` of `tensor` is moved by the blocks; a bare group name means a plain channel axis."""
        full = tuple(Block(block) if isinstance(block, str) else block for block in blocks)
        self.axes.setdefault(tensor, {})[axis] = full

    def pin(self, group: str, reason: str) -> None:
        """Take a group out of the symmetry: its units stay where they are. `reason` is one sentence."""
        self.groups.pop(group, None)
        self.pinned[group] = reason
        for tensor in list(self.axes):
            kept = {
                axis: tuple(block for block in blocks if block.group != group)
                for axis, blocks in self.axes[tensor].items()
            }
            self.axes[tensor] = {axis: blocks for axis, blocks in kept.items() if blocks}
            if not self.axes[tensor]:
                del self.axes[tensor]

    def without(self, tensors: Iterable[str]) -> Spec:
        """The same groups with some tensors left out of every distance.

        For networks whose heads stand for different labels: the units stay the same, but what the heads do with them
        says nothing about which of them belong together.
        """
        left_out = set(tensors)
        return replace(self, axes={name: dict(axes) for name, axes in self.axes.items() if name not in left_out})

    def matched(self) -> list[str]:
        """Tensors that count in the distance: every listed one that is no statistic."""
        return [tensor for tensor in self.axes if tensor not in self.statistics]

    def members(self, group: str) -> list[tuple[str, int, Block]]:
        """Every (tensor, axis, block) that the group moves, in state-dict order."""
        return [
            (tensor, axis, block)
            for tensor, axes in self.axes.items()
            for axis, blocks in axes.items()
            for block in blocks
            if block.group == group
        ]

    def quadratic(self) -> dict[str, str]:
        """Groups on two axes of one tensor -> why no linear assignment problem fits them."""
        found: dict[str, str] = {}
        for tensor, axes in self.axes.items():
            seen: set[str] = set()
            for blocks in axes.values():
                names = {block.group for block in blocks}
                for name in sorted(seen & names):
                    found[name] = (
                        f"{tensor} has group {name} on two axes, so its distance is quadratic in the permutation "
                        "(a quadratic assignment problem) and no single assignment step is exact"
                    )
                seen |= names
        return found

    def random(self, generator: torch.Generator, groups: Iterable[str] | None = None) -> Permutation:
        """A random element, of the named groups only or of the whole group."""
        result: Permutation = {}
        for name in self.groups if groups is None else groups:
            result |= self.groups[name].random(generator)
        return result

    def identity(self) -> Permutation:
        """The element that moves nothing, with every part present."""
        result: Permutation = {}
        for group in self.groups.values():
            result |= group.identity()
        return result

    def signature(self) -> frozenset[frozenset[tuple[str, int, int, int, int]]]:
        """The groups as sets of (tensor, axis, offset, inner, outer): equal for specs that differ in names only."""
        return frozenset(
            frozenset((tensor, axis, b.offset, b.inner, b.outer) for tensor, axis, b in self.members(group))
            for group in self.groups
        )

    def describe(self) -> str:
        """One line per group (size and number of tensor axes) and one per pinned name."""
        lines = [f"{self.source or 'spec'}: {len(self.groups)} groups"]
        for name, group in self.groups.items():
            size = (
                f"{group.size} units"
                if isinstance(group, ChannelGroup)
                else f"{group.heads} heads on {group.kv_heads} key/value heads"
            )
            lines.append(f"  {name}: {size}, {len(self.members(name))} tensor axes")
        return "\n".join(lines + [f"  {name} pinned: {reason}" for name, reason in self.pinned.items()])


def block_index(spec: Spec, permutation: Mapping[str, Tensor], block: Block) -> Tensor:
    """Index [outer * n * inner] of one block, relative to its offset."""
    group = spec.groups[block.group]
    unit = group.index(permutation, block.space)
    if block.inner == block.outer == 1:
        return unit
    size = len(unit)
    # A unit takes its neighbouring entries along, as a channel does its H x W places in a flattened map.
    index = unit[None, :, None] * block.inner + torch.arange(block.inner)
    return (index + torch.arange(block.outer)[:, None, None] * size * block.inner).flatten()


def axis_index(spec: Spec, permutation: Mapping[str, Tensor], blocks: tuple[Block, ...], length: int) -> Tensor | None:
    """Index [length] that permutes one axis, or None when nothing on it moves."""
    index: Tensor | None = None
    for block in blocks:
        # A part that is missing is the identity: elements of single groups need not name the others.
        if not all(part in permutation for part in spec.groups[block.group].parts()):
            continue
        moved = block_index(spec, permutation, block)
        # One block on the whole axis is the usual case and needs no copy into a longer index.
        if len(moved) == length:
            return moved
        if index is None:
            index = torch.arange(length)
        index[block.offset : block.offset + len(moved)] = block.offset + moved
    return index


def permute_tensor(spec: Spec, name: str, tensor: Tensor, permutation: Mapping[str, Tensor]) -> Tensor:
    """`tensor` with every axis permuted that the spec lists for `name` (the same object when nothing moves)."""
    for axis, blocks in spec.axes.get(spec.tied.get(name, name), {}).items():
        index = axis_index(spec, permutation, blocks, tensor.shape[axis])
        if index is not None:
            tensor = tensor.index_select(axis, index.to(tensor.device))
    return tensor


def permuted_pieces(
    spec: Spec, name: str, tensor: Tensor, permutation: Mapping[str, Tensor], entries: int = PIECE
) -> Iterator[tuple[int, int, Tensor]]:
    """`permute_tensor`, piece by piece: (first row, last + 1, these rows of the permuted tensor)."""
    axes = spec.axes.get(spec.tied.get(name, name), {})
    found = ((axis, axis_index(spec, permutation, blocks, tensor.shape[axis])) for axis, blocks in axes.items())
    # Gathering what stays where it is would be most of the work of a merge without a permutation.
    moving = ((axis, each) for axis, each in found if each is not None and not each.equal(torch.arange(len(each))))
    index = {axis: each.to(tensor.device) for axis, each in moving}
    for start, stop in row_ranges(tensor.shape, entries):
        if not tensor.dim():
            part = tensor
        else:
            part = tensor.index_select(0, index[0][start:stop]) if 0 in index else tensor[start:stop]
        for axis, chosen in index.items():
            if axis:
                part = part.index_select(axis, chosen)
        yield start, stop, part


def apply(spec: Spec, state: Mapping[str, Tensor], permutation: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A permuted copy of a state dict; tensors that do not move are shared with `state`, tied names stay tied."""
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        canonical = spec.tied.get(name, name)
        # Permuting both names of a tied tensor would make two tensors of one.
        if name != canonical and canonical in result:
            result[name] = result[canonical]
        else:
            result[name] = permute_tensor(spec, name, tensor, permutation)
    return result


def check_state(spec: Spec, state: Mapping[str, Tensor], label: str = "the model") -> None:
    """Refuse a state dict that the spec does not fit.

    Raises:
        UserError: a tensor is missing, a block does not fit its axis, or a weight is NaN or infinite.
    """
    for tensor, axes in spec.axes.items():
        if tensor not in state:
            raise UserError(
                f"{label} has no tensor {tensor}, which the spec ({spec.source}) names: is it another architecture?"
            )
        value = state[tensor]
        for axis, blocks in axes.items():
            for block in blocks:
                end = block.offset + block.outer * spec.groups[block.group].spaces()[block.space] * block.inner
                if axis >= value.dim() or end > value.shape[axis]:
                    raise UserError(
                        f"{label}: {tensor} has shape {tuple(value.shape)}, but group {block.group} needs {end} "
                        f"entries on axis {axis}: the spec ({spec.source}) was made for another width"
                    )
        # A NaN spreads through cost matrices, and the assignment fails far from its cause.
        if not is_finite(value):
            raise UserError(f"{label}: {tensor} holds NaN or infinite values; it cannot be matched or merged")


def check_same(a: Mapping[str, Tensor], b: Mapping[str, Tensor], labels: tuple[str, str] = ("A", "B")) -> None:
    """Refuse two state dicts that differ in names or shapes.

    Raises:
        UserError: listing the first differences.
    """
    lines = [f"{name}: only in {labels[0]}" for name in a if name not in b]
    lines += [f"{name}: only in {labels[1]}" for name in b if name not in a]
    lines += [
        f"{name}: {tuple(a[name].shape)} in {labels[0]}, {tuple(b[name].shape)} in {labels[1]}"
        for name in a
        if name in b and a[name].shape != b[name].shape
    ]
    if lines:
        more = f" (and {len(lines) - 5} more)" if len(lines) > 5 else ""
        raise UserError("the models have different architectures or shapes: " + "; ".join(lines[:5]) + more)


def squared_distance(spec: Spec, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Sum of squared differences over the tensors the spec matches (float64 accumulation, one tensor at a time)."""
    return sum(float((a[name].double() - b[name].double()).square().sum()) for name in spec.matched())
