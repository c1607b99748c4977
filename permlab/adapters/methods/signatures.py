"""What a way to merge adapters looks like: rows of `adapters.table.LORA_METHODS` name functions of these types."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeAlias

from permlab.adapters.factors import Factors
from permlab.adapters.merge_rule import MergeRule

Inputs: TypeAlias = Callable[[], tuple[list[Factors], list[float]]]
"""Reads the updates of one module, and the weight of each."""

Owned: TypeAlias = tuple[list[int], Inputs]
"""The numbers of the adapters that have a module, and what reads it."""

Each: TypeAlias = Callable[..., Iterable[Any]]
"""`map`, or that of a pool of threads."""


class Method(Protocol):
    """`LoraRow.target`: merges the updates of one module."""

    def __call__(
        self, updates: Sequence[Factors], weights: Sequence[float], rank: int, rule: MergeRule, seed: int, /
    ) -> Factors:
        """Return the merged update: exactly `rank` ranks, scaling 1."""
        ...


class BatchMethod(Protocol):
    """`LoraRow.batch`: merges modules whose pools and merged ranks are equal."""

    def __call__(
        self, inputs: Sequence[Inputs], rank: int, rule: MergeRule, seeds: Sequence[int], each: Each, /
    ) -> list[tuple[Factors, Any]]:
        """Return per module the merged update, as `Method`, and a report of it or None."""
        ...
