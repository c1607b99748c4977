"""What to do with adapters: `MergeRule("lego", rank=16, gauge="svd")`. One default for the library and the task.

Nothing heavy is imported here: `permlab task=lora_lego` takes these fields as its keys.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from permlab.adapters.rank_rules import RankRule
from permlab.adapters.table import CHOICES, LORA_METHODS, REFERENCE_RANKS, TRIM_SPACES, LoraRow
from permlab.errors import UserError, check_range, did_you_mean
from permlab.keys import choice


@dataclass(kw_only=True)
class LegoRule:
    """How LEGO clusters and rescales; there is no official code, so what the paper leaves open is a field."""

    # Our default, not the paper's: signs and scales of a LoRA's ranks are free, and k-means would see them.
    gauge: str = choice("balanced", CHOICES["gauge"])
    """Basis of the units: none as in the paper, balanced with |a| = |b| and a fixed sign, svd of each adapter."""
    clustering: str = choice("kmeans", CHOICES["clustering"])
    """How units are grouped: kmeans as in the paper; matching puts at most one unit of each adapter in a group."""
    features: str = choice("raw", CHOICES["features"])
    """What is clustered; normalized: both halves of a unit to length 1."""
    sign_invariant: bool = False
    """Cluster units up to their sign."""
    # A review of the paper tells of the cluster's average norm, not of which norm; the plain one is our reading.
    param_reweight: str = choice("l2", CHOICES["param_reweight"])
    """Which norm a centroid shares with its members, on average."""
    output_reweight: bool = True
    """Multiply the update by sqrt(r / k)."""
    # sqrt(r / k) leaves r open for mixed ranks; the mean makes no single adapter the measure.
    reference_rank: str = "mean"
    """r of sqrt(r / k) where ranks differ: mean | max | min | a number"""
    # Unrelated units cluster almost arbitrarily: a single start would leave the merge to the seed.
    n_init: int = 10
    """Starts of the clustering, of which the best is kept."""


@dataclass(kw_only=True)
class TrimRule:
    """How ties, dare and knots choose entries."""

    density: float = 0.5
    """ties, dare, knots: share of the entries that are kept"""
    trim_space: str = choice("delta", CHOICES["trim_space"])
    """ties, dare: entries of the update (delta), or of A and B as PEFT does it (factor)."""
    trim_scope: str = choice("module", CHOICES["trim_scope"])
    """knots: whether a share is kept of every module, or of the whole model as in the authors' code."""
    election: bool = False
    """dare: also elect signs, as dare_ties"""
    sign_method: str = choice("total", CHOICES["sign_method"])
    """ties, dare, knots: how the sign of an entry is elected."""


@dataclass
class MergeRule(LegoRule, TrimRule):
    """Method, ranks, weights, and the settings of every method; a method ignores those it does not read."""

    method: str = choice("lego", LORA_METHODS)
    """What is written to artifacts/adapter."""
    rank: int | str | None = None
    """LEGO's k or the rank cut to, or energy:SHARE or budget:SHARE of the sum of the updates by module; null: mean rank
    for lego, the largest for svd, all ranks for ties, dare, knots."""
    rank_ratio: float | None = None
    """Merged rank as a share of the pooled ranks of a module."""
    rank_pattern: dict[str, int] = field(default_factory=dict)
    """Merged rank by module, patterns as in PEFT."""
    weights: list[float] = field(default_factory=list)
    """One per adapter; empty is 1 each, and 1/n each for linear."""

    @property
    def row(self) -> LoraRow:
        """The row of the method.

        Raises:
            UserError: an unknown method.
        """
        return LORA_METHODS[self.method]

    @property
    def equal_ranks(self) -> bool:
        """Whether A and B are added entry by entry, so that all inputs must have one rank."""
        row = self.row
        return row.equal_ranks or ("trim_space" in row.reads and TRIM_SPACES[self.trim_space].equal_ranks)

    @property
    def ranked(self) -> bool:
        """Whether the merged rank can be chosen."""
        return self.row.ranked and not self.equal_ranks

    def weights_of(self, count: int) -> list[float]:
        """The weights of `count` adapters: those that are set, or the method's default.

        Raises:
            UserError: another number of them is set.
        """
        if self.weights and len(self.weights) != count:
            raise UserError(f"weights has {len(self.weights)} values for {count} adapters; give one each")
        return list(self.weights) or [1.0 / count if self.row.averages else 1.0] * count

    def settings(self) -> dict[str, Any]:
        """The settings that the method reads, by name."""
        return {name: getattr(self, name) for name in self.row.reads}


def rule_of(settings: MergeRule, **changes: Any) -> MergeRule:
    """Return the fields of `MergeRule` alone, from a configuration that inherits them."""
    own = {each.name: getattr(settings, each.name) for each in dataclasses.fields(MergeRule)}
    return MergeRule(**(own | changes))


def check_rule(rule: MergeRule, prefix: str = "") -> None:
    """Refuse names that no table has, with the nearest one, and numbers out of range.

    Args:
        rule: what to check.
        prefix: put in front of the fields' names in messages ("task.").

    Raises:
        UserError: naming the field.
    """
    for name, table in CHOICES.items():
        table.check(f"{prefix}{name}", getattr(rule, name))
    check_reference_rank(f"{prefix}reference_rank", rule.reference_rank)
    check_range(f"{prefix}density", rule.density, 0, open_interval=True)
    check_range(f"{prefix}density", rule.density, 0, 1)
    check_range(f"{prefix}n_init", rule.n_init, 1)
    if rule.rank is None and rule.rank_ratio is None:
        return
    if rule.rank is not None and rule.rank_ratio is not None:
        raise UserError(f"{prefix}rank and {prefix}rank_ratio are both set; keep one")
    if not rule.ranked:
        said = f"{prefix}method={rule.method}"
        said += f" with {prefix}trim_space={rule.trim_space}" if rule.row.ranked else ""
        others = ", ".join(LORA_METHODS.where(ranked=True))
        raise UserError(f"{said} has no rank to choose; drop {prefix}rank or use {others}")
    if isinstance(rule.rank, str):
        RankRule.parse(f"{prefix}rank", rule.rank)
    elif rule.rank is not None:
        check_range(f"{prefix}rank", rule.rank, 1)


def check_reference_rank(key: str, value: str) -> None:
    """Refuse what is neither a name of `REFERENCE_RANKS` nor a whole number of at least 1."""
    if value in REFERENCE_RANKS:
        return
    if not value.isdigit():
        hint = did_you_mean(value, REFERENCE_RANKS)
        raise UserError(f"{key}={value} is not {', '.join(REFERENCE_RANKS)} or a number{hint}")
    check_range(key, int(value), 1)


def reference_rank(ranks: Sequence[int], rule: str) -> float:
    """r of LEGO's sqrt(r / k) where adapters differ in rank.

    Args:
        ranks: of the adapters that have the module.
        rule: a name of `REFERENCE_RANKS`, or a number written as text.
    """
    if rule.isdigit():
        return float(int(rule))
    # LEGO's output reweighting compares with the variance of one adapter, and they differ in rank here.
    return float(REFERENCE_RANKS[rule].load()(ranks))
