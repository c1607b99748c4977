"""Merges of networks that are never held whole: `Streamed(networks, setting, rule).pieces("lm_head.weight")`.

A way to combine that streams names a `Rule` beside its function on state dicts: what it does to the same rows of one
tensor of all networks. Networks are views of memory-mapped files, so that a merge takes the memory of a few pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from permlab.errors import UserError
from permlab.merging.networks.states import State
from permlab.symmetry import PIECE, Spec, check_same, permuted_pieces, wide

if TYPE_CHECKING:
    from permlab.merging.aligned import Aligned
    from permlab.merging.networks.rows import KnownRows
    from permlab.merging.setting import Setting


@dataclass(frozen=True)
class Piece:
    """The same rows of one tensor, in float32 or wider.

    Attributes:
        name: of the tensor.
        start: number of the first row; pieces of a tensor come in order, from row 0.
        rows: of every network, in the common order of units. Not to be written to.
        base: of their ancestor, where it counts.
    """

    name: str
    start: int
    rows: list[Tensor]
    base: Tensor | None = None

    @property
    def changes(self) -> list[Tensor]:
        """What every network changed since the ancestor: tau_k = theta_k - theta_0 (arXiv 2212.04089, section 2)."""
        assert self.base is not None
        return [row - self.base for row in self.rows]


Rule: TypeAlias = Callable[[Piece], Tensor]
"""Merged rows of a piece, in float32 or wider."""
MakeRule: TypeAlias = "Callable[[Pieces, Setting], Rule]"
"""What a row of `COMBINES` names as `stream`; it may read all pieces first."""


class Pieces:
    """The same rows of every network, and of their ancestor, a piece at a time.

    Args:
        spec: the symmetry.
        states: networks as stored.
        permutations: of each; all the identity for networks that keep their order.
        ancestor: what they were fine-tuned from, where it counts.
        entries: of one tensor, held at a time (default: `PIECE`).

    Attributes:
        known: which network has which row of the embeddings, where vocabularies differed.
    """

    known: KnownRows | None = None

    def __init__(
        self,
        spec: Spec,
        states: Sequence[State],
        permutations: Sequence[Mapping[str, Tensor]],
        ancestor: State | None = None,
        entries: int | None = None,
    ) -> None:
        self.spec, self.states, self.permutations = spec, states, permutations
        self.ancestor, self.entries = ancestor, entries or PIECE
        for number, state in enumerate([*states[1:], *([ancestor] if ancestor is not None else [])], start=1):
            check_same(states[0], state, ("model A", f"model {chr(65 + number)}"))

    @property
    def count(self) -> int:
        """Number of networks."""
        return len(self.states)

    @property
    def floating(self) -> list[str]:
        """Names of the tensors that are merged; counters come from the first network."""
        return [name for name, value in self.states[0].items() if value.is_floating_point()]

    def entries_of(self, name: str) -> int:
        """Most entries of a piece; vectors come whole, as one row."""
        shape = self.states[0][name].shape
        return max(self.entries, shape[0]) if len(shape) == 1 else self.entries

    def of(self, name: str) -> Iterator[Piece]:
        """All rows of one tensor, from the first to the last."""
        parts = [
            permuted_pieces(self.spec, name, state[name], permutation, self.entries_of(name))
            for state, permutation in zip(self.states, self.permutations)
        ]
        base = self.ancestor[name] if self.ancestor is not None else None
        for rows in zip(*parts):
            start, stop, _ = rows[0]
            first = None if base is None else wide(base[start:stop] if base.dim() else base)
            found = [wide(part) for _, _, part in rows]
            # Networks with an ancestor were filled in the order of units that they share with it.
            if self.known is not None and name in self.known.tensors and not self.known.ancestral:
                found = self.known.filled(start, found)
            yield Piece(name, start, found, first)

    def all(self) -> Iterator[Piece]:
        """All rows of all tensors that are merged."""
        for name in self.floating:
            if self.spec.tied.get(name, name) == name or self.spec.tied[name] not in self.states[0]:
                yield from self.of(name)


class Streamed(Mapping[str, Tensor]):
    """A merged state dict whose tensors are computed when they are asked for, as a whole or in pieces."""

    def __init__(self, read: Pieces, rule: Rule, dtype: torch.dtype | None = None) -> None:
        self.read, self.rule, self.dtype = read, rule, dtype

    def type_of(self, name: str) -> torch.dtype:
        """The number type of a merged tensor: the one that was asked for, or that of the first network."""
        stored = self.read.states[0][self.read.spec.tied.get(name, name)]
        return self.dtype if self.dtype is not None and stored.is_floating_point() else stored.dtype

    def pieces(self, name: str) -> Iterator[Tensor]:
        """Rows of one tensor, in the type that it has in the merged network."""
        stored = self.read.states[0][name]
        if not stored.is_floating_point():
            base = self.read.ancestor
            yield stored if base is None else base[name]
            return
        for piece in self.read.of(name):
            merged = self.rule(piece)
            if self.read.known is not None and name in self.read.known.tensors:
                merged = self.read.known.kept(piece.start, merged, piece.rows)
            yield merged.to(self.type_of(name))

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.read.states[0]:
            raise KeyError(name)
        parts = list(self.pieces(self.read.spec.tied.get(name, name)))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def __iter__(self) -> Iterator[str]:
        return iter(self.read.states[0])

    def __len__(self) -> int:
        return len(self.read.states[0])


def pieces_of(state: State, name: str) -> Iterator[Tensor]:
    """Rows of one tensor of any state dict."""
    pieces = getattr(state, "pieces", None)
    if pieces is not None:
        yield from pieces(name)
    else:
        yield state[name]


def type_of(state: State, name: str) -> torch.dtype:
    """Number type of one tensor of any state dict; nothing that streams is computed."""
    return state.type_of(name) if isinstance(state, Streamed) else state[name].dtype


def stream(make: MakeRule, networks: Aligned, setting: Setting, ancestral: bool) -> Streamed:
    """Combine matched networks in pieces, by the rule of a way to combine."""
    identity: Mapping[str, Tensor] = {}
    moves = [identity] * len(networks.original) if ancestral else networks.matching.permutations
    read = Pieces(networks.spec, networks.original, moves, ancestor_of(setting) if ancestral else None)
    read.known = setting.known
    return Streamed(read, make(read, setting), dtype_of(setting.dtype))


def dtype_of(name: str | None) -> torch.dtype | None:
    """A number type by its name in `DTYPES`."""
    found: torch.dtype | None = None if name is None else getattr(torch, name)
    return found


def ancestor_of(setting: Setting) -> State:
    """What all networks were fine-tuned from.

    Raises:
        UserError: none is given.
    """
    if setting.ancestor is None:
        raise UserError("changes are added up since the network that all were fine-tuned from: give an ancestor")
    return setting.ancestor
