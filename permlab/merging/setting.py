"""The numbers and the data that all arms of a comparison share: `Setting(batches, seed=0)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from permlab.errors import UserError
from permlab.keys import choice
from permlab.matching.setting import MatchOptions, MatchSetting
from permlab.merging.numbers import Find
from permlab.merging.table import ALLOCATIONS, COMBINES

if TYPE_CHECKING:
    from torch import Tensor

    from permlab.merging.networks.rows import KnownRows


DTYPES = ("float32", "bfloat16", "float16")
"""Number types that merged networks are written in."""

COEFFICIENTS = ("layers", "networks")


@dataclass(kw_only=True)
class MergeOptions(MatchOptions):
    """What people choose; `task=merge` has the same keys."""

    weights: list[float] = field(default_factory=list)
    """One per network; empty is 1/n each (task_arithmetic: 1 each)."""
    budget: float = 1.0
    """Multiply-accumulates of the merged network relative to one endpoint, 1 to 2; above 1 keeps units apart."""
    allocation: str = choice("uniform", ALLOCATIONS)
    """Where a budget above 1 goes."""
    ridge: float | None = None
    """least_squares, regmean: ridge towards the average, relative to the mean diagonal; null takes the method's own."""
    density: float = 0.2
    """ties, dare, della, breadcrumbs: share of every change that is kept."""
    densities: list[float] = field(default_factory=list)
    """One per network in place of `density`."""
    scale: float = 1.0
    """Factor on the merged change since the ancestor (lambda)."""
    coefficients: str = choice("layers", COEFFICIENTS)
    """adamerging: one factor per network and tensor, or per network."""
    gamma: float = 0.01
    """breadcrumbs: share of the largest entries of every change that is dropped."""
    epsilon: float = 0.1
    """della: the share that is kept moves by so much either way with the rank of an entry."""
    normalize: bool | None = None
    """Divide weights by their sum; null is what the method does."""
    trim_tensors: bool = False
    """ties: every tensor keeps its share, as in mergekit; otherwise the whole model does, as in the paper."""
    dtype: str | None = choice(None, DTYPES)
    """Number type of networks that are merged from files; null is that of the first."""
    fisher: list[str] = field(default_factory=list)
    """fisher: .safetensors files with the information of every entry, one per network; empty computes it on texts."""


@dataclass
class Setting(MergeOptions, MatchSetting):
    """Data and numbers of all arms; those of the matchings are in `MatchSetting`.

    Attributes:
        batches: training batches for activations, Gram matrices, Fisher information and statistics.
        own_batches: per network its own data (RegMean, Fisher); default `batches` for each.
        heads: tensors of task heads, where the networks have different labels: kept per network.
        measure: accuracy of a merged network (one state per head) on data that is not tested on, for the gains of
            greedy and qp; None takes the distance of the weights instead.
        ancestor: what all networks were fine-tuned from.
        numbers: name of a tensor -> what it is merged with, in place of the numbers above.
        known: which network has which row of the embeddings, where vocabularies differed.
    """

    own_batches: Sequence[Sequence[Any]] | None = field(default=None, kw_only=True)
    measure: Callable[[Sequence[Mapping[str, Tensor]]], float] | None = field(default=None, kw_only=True)
    ancestor: Mapping[str, Tensor] | None = field(default=None, kw_only=True)
    numbers: Find | None = field(default=None, kw_only=True)
    known: KnownRows | None = field(default=None, kw_only=True)

    def data_of(self, count: int) -> Sequence[Sequence[Any]]:
        """Per network its own batches, or the common ones for each of `count` networks."""
        return self.own_batches or [self.batches] * count


def applied_weights(combine: str, count: int, weights: Sequence[float]) -> list[float]:
    """The factor of each of `count` networks when they are combined by a name of `COMBINES`: what records say.

    Empty where the way to combine gives networks no weights.
    """
    row = COMBINES[combine]
    if not row.weights:
        return []
    if row.full:
        return [float(weight) for weight in weights] or [1.0] * count
    return mixture_weights(count, weights or None)


def mixture_weights(count: int, weights: Sequence[float] | None) -> list[float]:
    """`weights` divided by their sum, or equal shares.

    Raises:
        UserError: not one number per model, a negative or non-finite one, or all zero.
    """
    if weights is None:
        return [1 / count] * count
    if len(weights) != count:
        raise UserError(f"{len(weights)} weights given for {count} models: give one per model")
    total = float(sum(weights))
    if not 0 < total < float("inf") or min(weights) < 0:
        raise UserError(f"weights={list(weights)}: they must not be negative and not all be zero")
    return [float(weight) / total for weight in weights]
