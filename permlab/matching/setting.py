"""The numbers and the data of matchings by name: `match_networks("weight", spec, model, states, MatchSetting())`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from permlab.keys import choice
from permlab.matching.table import SIMILARITIES


@dataclass(kw_only=True)
class MatchOptions:
    """What people choose; `task=merge` has the same keys."""

    similarity: str = choice("inner", SIMILARITIES)
    """match=activation: which units are alike."""
    restarts: int = 1
    """match=weight: random orders tried; the best objective is kept."""
    steps: int = 200
    """match=straight_through: gradient steps"""


@dataclass
class MatchSetting(MatchOptions):
    """What the matchings of one set of networks share beside the networks.

    Attributes:
        batches: training batches, for the matchings that read activations or losses.
        seed: of random permutations, orders and draws.
        heads: tensors of task heads, where the networks have different labels: weight matching does not look at them.
        progress, should_stop: of the long matchings.
    """

    batches: Sequence[Any] = ()
    seed: int = field(default=0, kw_only=True)
    heads: Sequence[str] = field(default=(), kw_only=True)
    progress: Callable[[int, int], None] | None = field(default=None, kw_only=True)
    should_stop: Callable[[], bool] | None = field(default=None, kw_only=True)
