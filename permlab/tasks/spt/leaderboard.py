"""Configurations side by side: forward and reverse recall with intervals over facts, and what was forgotten.

    rows = standings(collection.groups); figure = drawn(rows)

The answers of all seeds are taken together; facts of different seeds are different facts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from permlab import figures
from permlab.reports.aggregate import Group
from permlab.tables import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from permlab.text.intervals import Interval

DIRECTIONS = ("forward", "reverse")


def standings(groups: Iterable[Group]) -> list[Row]:
    """Return one row per configuration, the best in reverse first: intervals by direction, facts, nats forgotten."""
    from permlab.text.intervals import clustered_interval

    rows: list[Row] = []
    for group in groups:
        answers = [row for row in group.rows("answers") if "right" in row]
        row: Row = {"configuration": group.label}
        for direction in DIRECTIONS:
            asked = headline(answers, direction)
            facts = [(r["run_seed"], r.get("fact") or r["prompt"]) for r in asked]
            row[direction] = (
                clustered_interval([str(r["right"]).lower() == "true" for r in asked], facts) if asked else None
            )
        row["facts"] = max((row[each].facts for each in DIRECTIONS if row[each]), default=0)
        forgotten = group.spread("forgotten")
        if forgotten:
            row["forgotten (nats)"] = forgotten
        if row["facts"]:
            rows.append(row)
    return sorted(rows, key=lambda row: [-(row[each].share if row[each] else -1) for each in reversed(DIRECTIONS)])


def headline(answers: Sequence[Row], direction: str) -> list[Row]:
    """Return the questions of the headline: facts trained one way, in trained wordings where half of them are."""
    worded = [row for row in answers if row["wording"] in ("trained", "held_out")]
    asked = [row for row in worded if row["direction"] == direction and row["group"] != "both"]
    trained = [row for row in asked if row["wording"] == "trained"]
    return trained if 2 * len(trained) >= len(asked) else [row for row in asked if row["wording"] == "held_out"]


def drawn(rows: Sequence[Row]) -> Figure:
    """Draw a row per configuration: both directions, with their intervals."""
    figure, ax = figures.new(width=2, height=0.8 + 0.2 * len(rows))
    for direction, shift in zip(DIRECTIONS, (-0.15, 0.15)):
        there = [(place + shift, row[direction]) for place, row in enumerate(rows) if row[direction]]
        found: list[Interval] = [each for _, each in there]
        shares = [each.share for each in found]
        reach = [[e.share - e.low for e in found], [e.high - e.share for e in found]]
        color = figures.color(direction)
        ax.errorbar(shares, [y for y, _ in there], xerr=reach, fmt="o", color=color, markersize=3, label=direction)
    ax.set_yticks(range(len(rows)), [row["configuration"].replace("_", " ") for row in rows])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set(xlim=(-0.03, 1.03), xlabel="share of right answers, 95 % interval over facts")
    ax.legend(ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    return figure
