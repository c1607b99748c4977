"""Merged ranks that follow from the updates: `RankRule.parse("energy:0.95")`. Imports nothing heavy.

`task.rank=energy:0.95` takes for each module the smallest rank that keeps 95 % of the energy of the sum; `budget:0.25`
spends a quarter of the pooled parameters where each of them keeps most.
"""

from __future__ import annotations

from dataclasses import dataclass

from permlab.errors import UserError
from permlab.registry import Row, Table


@dataclass(frozen=True)
class RankRuleRow(Row):
    """A way to choose ranks: `target` is `(spectra, costs, share) -> {module: rank}`, see `allocation`."""


RANK_RULES = Table(
    "rule for ranks",
    [
        RankRuleRow(
            "energy",
            "per module the smallest rank that keeps this share of the sum's energy",
            target="permlab.adapters.allocation:by_energy",
        ),
        RankRuleRow(
            "budget",
            "this share of the pooled parameters, spent by marginal gain over all modules",
            target="permlab.adapters.allocation:by_budget",
        ),
    ],
)


@dataclass(frozen=True)
class RankRule:
    """`energy:0.95` read."""

    name: str
    share: float

    @classmethod
    def parse(cls, key: str, text: str) -> RankRule:
        """Read NAME:SHARE.

        Raises:
            UserError: another form, an unknown name, or a share outside (0, 1].
        """
        name, colon, share = text.partition(":")
        forms = " or ".join(f"{each}:0.95" for each in RANK_RULES)
        if not colon:
            raise UserError(f"{key}={text} is no rank; give a whole number, {forms}")
        RANK_RULES.check(key, name)
        try:
            value = float(share)
        except ValueError:
            value = -1.0
        if not 0 < value <= 1:
            raise UserError(f"{key}={text}: the share after the colon must be above 0 and at most 1")
        return cls(name, value)
