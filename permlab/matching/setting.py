"""The numbers and the data of matchings by name: `match_networks("weight", spec, model, states, MatchSetting())`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from permlab.keys import choice
from permlab.matching.table import SIMILARITIES

if TYPE_CHECKING:
    from permlab.matching.memory import Memory


@dataclass(kw_only=True)
class MatchOptions:
    """What people choose; `task=merge` has the same keys."""

    similarity: str = choice("pearson", SIMILARITIES)
    """match=activation: which units are alike."""
    restarts: int = 1
    """match=weight: random orders tried; the best objective is kept."""
    steps: int = 200
    """match=straight_through, combine=adamerging: gradient steps"""
    memory_gb: float | None = None
    """Networks merged from files: GiB of main memory taken at most, beside the libraries; null is 3."""
    zip_alpha: float = 0.3
    """match=zip: factor on the similarity of a merged unit to others; 0 merges no unit twice."""
    zip_beta: float = 0.125
    """match=zip: share of the merges of a network that may be inside it, 0 to 1."""
    zip_stop: str | None = None
    """match=zip: group of units from which on all stay apart (partial zip); null merges all."""


@dataclass
class MatchSetting(MatchOptions):
    """What the matchings of one set of networks share beside the networks.

    Attributes:
        batches: training batches, for the matchings that read activations or losses.
        seed: of random permutations, orders and draws.
        heads: tensors of task heads, where the networks have different labels: weight matching does not look at them.
        progress, should_stop: of the long matchings.
        keep_scores: weight matching keeps how well each slot is matched, which partial merges read.
        memory: what weight matching may hold, and where it takes products.
    """

    batches: Sequence[Any] = ()
    seed: int = field(default=0, kw_only=True)
    heads: Sequence[str] = field(default=(), kw_only=True)
    progress: Callable[[int, int], None] | None = field(default=None, kw_only=True)
    should_stop: Callable[[], bool] | None = field(default=None, kw_only=True)
    keep_scores: bool = field(default=True, kw_only=True)
    memory: Memory | None = field(default=None, kw_only=True)
