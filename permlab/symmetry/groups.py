"""Permutation groups of a network's units: `ChannelGroup("layers.0", 512).random(generator)`.

A group element ("permutation") is a dict of index tensors, `{part: LongTensor[n]}`; `perm[i]` is the unit of the old
tensor that is placed in slot i (`new = old.index_select(axis, perm)`). A channel group has one part, named as the
group. A head group has three parts, `<group>.head`, `<group>.key` and `<group>.value`, each a plain permutation of a
flat index space, so composition and inverse work part by part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Permutation = dict[str, Tensor]
"""Part name -> index tensor. A part that is missing means the identity."""


@dataclass(frozen=True)
class ChannelGroup:
    """`size` interchangeable units: hidden units, convolution channels, or the residual stream.

    The only space is "unit". Source: arXiv 2209.04836.
    """

    name: str
    size: int

    @property
    def units(self) -> int:
        """Number of units the first-level assignment is solved over."""
        return self.size

    @property
    def free(self) -> bool:
        """Whether the group has an element that is not the identity."""
        return self.size > 1

    def spaces(self) -> dict[str, int]:
        """Space name -> number of entries an axis in that space has."""
        return {"unit": self.size}

    def parts(self) -> dict[str, int]:
        """Part name -> length of its index tensor."""
        return {self.name: self.size}

    def identity(self) -> Permutation:
        """The element that moves nothing."""
        return {self.name: torch.arange(self.size)}

    def random(self, generator: torch.Generator) -> Permutation:
        """A uniformly drawn element."""
        return {self.name: torch.randperm(self.size, generator=generator)}

    def index(self, permutation: Mapping[str, Tensor], space: str = "unit") -> Tensor:
        """Index tensor [size] for an axis in `space`."""
        return permutation[self.name]

    def check(self, permutation: Mapping[str, Tensor]) -> str:
        """Empty when `permutation` is an element of the group, else a sentence that says why not."""
        return _not_a_permutation(self.name, permutation[self.name], self.size)


@dataclass(frozen=True)
class HeadGroup:
    """Attention heads: `kv_heads` key/value heads, each read by `queries` query heads.

    Elements move whole key/value heads, the query heads inside a key/value head, the value dims of each key/value head,
    and, unless `rotary`, the dims shared by queries and keys of each key/value head. Rotary position embeddings mix
    fixed pairs of q/k dims, so under them no permutation inside a head is free.

    Spaces (axis lengths): head [H], query [H * key_dim], key [G * key_dim], value [G * value_dim],
    output [H * value_dim] with G = kv_heads and H = G * queries; the output space is the input axis of the output
    projection. Queries that share a key/value head are adjacent, as in `transformers`.
    """

    name: str
    kv_heads: int
    queries: int
    key_dim: int
    value_dim: int
    rotary: bool = False

    @property
    def heads(self) -> int:
        """Number of query heads."""
        return self.kv_heads * self.queries

    @property
    def units(self) -> int:
        """Number of units the first-level assignment is solved over."""
        return self.kv_heads

    @property
    def free(self) -> bool:
        """Whether the group has an element that is not the identity."""
        return self.heads > 1 or self.value_dim > 1 or (self.key_dim > 1 and not self.rotary)

    def spaces(self) -> dict[str, int]:
        """Space name -> number of entries an axis in that space has."""
        return {
            "head": self.heads,
            "query": self.heads * self.key_dim,
            "key": self.kv_heads * self.key_dim,
            "value": self.kv_heads * self.value_dim,
            "output": self.heads * self.value_dim,
        }

    def parts(self) -> dict[str, int]:
        """Part name -> length of its index tensor."""
        return {
            f"{self.name}.head": self.heads,
            f"{self.name}.key": self.kv_heads * self.key_dim,
            f"{self.name}.value": self.kv_heads * self.value_dim,
        }

    def identity(self) -> Permutation:
        """The element that moves nothing."""
        return {part: torch.arange(size) for part, size in self.parts().items()}

    def assemble(self, kv: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Permutation:
        """Build an element from its levels.

        Args:
            kv: [G], the key/value head placed in each slot.
            query: [G, queries], inside slot g the query head (0..queries-1 of head kv[g]) placed in each place.
            key: [G, key_dim], inside slot g the q/k dim of head kv[g] placed in each place.
            value: [G, value_dim], likewise for the value dims.
        """
        # Flat indices of whole heads: elements compose and invert like plain permutations, part by part.
        kv = kv[:, None]
        return {
            f"{self.name}.head": (kv * self.queries + query).flatten(),
            f"{self.name}.key": (kv * self.key_dim + key).flatten(),
            f"{self.name}.value": (kv * self.value_dim + value).flatten(),
        }

    def random(self, generator: torch.Generator) -> Permutation:
        """A uniformly drawn element."""

        def inside(size: int) -> Tensor:
            return torch.stack([torch.randperm(size, generator=generator) for _ in range(self.kv_heads)])

        kv = torch.randperm(self.kv_heads, generator=generator)
        query, value = inside(self.queries), inside(self.value_dim)
        # Under rotary embeddings q/k dims are bound to their frequencies.
        key = torch.arange(self.key_dim).expand(self.kv_heads, -1) if self.rotary else inside(self.key_dim)
        return self.assemble(kv, query, key, value)

    def index(self, permutation: Mapping[str, Tensor], space: str) -> Tensor:
        """Index tensor for an axis in `space`; its length is `spaces()[space]`."""
        if space in ("head", "key", "value"):
            return permutation[f"{self.name}.{space}"]
        if space not in ("query", "output"):
            raise KeyError(f"head group {self.name} has no space {space!r}")
        head = permutation[f"{self.name}.head"]
        # Query heads never leave their key/value head, so the first of a slot names it.
        kv = head.view(self.kv_heads, self.queries)[:, :1] // self.queries
        dim, part = (self.key_dim, "key") if space == "query" else (self.value_dim, "value")
        inside = permutation[f"{self.name}.{part}"].view(self.kv_heads, dim) - kv * dim
        # Grouped queries share keys and values, hence one order of dims for all queries of a group.
        return (head[:, None] * dim + inside.repeat_interleave(self.queries, dim=0)).flatten()

    def check(self, permutation: Mapping[str, Tensor]) -> str:
        """Empty when `permutation` is an element of the group, else a sentence that says why not."""
        for part, size in self.parts().items():
            wrong = _not_a_permutation(part, permutation[part], size)
            if wrong:
                return wrong
        owners = {
            level: permutation[f"{self.name}.{level}"].view(self.kv_heads, -1) // width
            for level, width in (("head", self.queries), ("key", self.key_dim), ("value", self.value_dim))
        }
        for level, owner in owners.items():
            # q, k and v of a head must take the same slot, or a query would meet another head's keys.
            if not torch.equal(owner, owners["head"][:, :1].expand_as(owner)):
                return f"{self.name}.{level} tears a key/value head apart: whole heads must move together"
        inside = permutation[f"{self.name}.key"].view(self.kv_heads, -1) % self.key_dim
        if self.rotary and not torch.equal(inside, torch.arange(self.key_dim).expand_as(inside)):
            return f"{self.name}.key permutes dims inside a head, which rotary position embeddings forbid"
        return ""


Group = ChannelGroup | HeadGroup


def _not_a_permutation(part: str, index: Tensor, size: int) -> str:
    if index.shape != (size,) or not torch.equal(index.sort().values, torch.arange(size)):
        return f"{part} is not a permutation of {size} units"
    return ""


def compose(first: Mapping[str, Tensor], then: Mapping[str, Tensor]) -> Permutation:
    """The permutation that applies `first`, then `then`: `apply(apply(x, first), then) == apply(x, compose(...))`."""
    result = {part: index.clone() for part, index in first.items()}
    for part, index in then.items():
        # Gathers compose inside out: slot i of the second takes what the first put into slot index[i].
        result[part] = first[part][index] if part in first else index.clone()
    return result


def inverse(permutation: Mapping[str, Tensor]) -> Permutation:
    """The permutation that undoes `permutation`."""
    # Sorting a permutation puts every unit back, so argsort is the inverse.
    return {part: torch.argsort(index) for part, index in permutation.items()}


def equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two permutations move every unit alike; a missing part counts as the identity."""
    return all(
        torch.equal(one.get(part, torch.arange(len(reference))), other.get(part, torch.arange(len(reference))))
        for part, reference in {**one, **other}.items()
    )
