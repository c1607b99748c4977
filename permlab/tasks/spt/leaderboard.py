"""Configurations side by side: forward and reverse recall with intervals over facts, and what was forgotten.

    rows = standings(collection.groups); figure = drawn(rows)

The answers of all seeds are taken together; facts of different seeds are different facts. A masked model is no order
but the control of all of them: it comes last, by its own name, and is asked in two ways.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from permlab import figures
from permlab.models.table import OBJECTIVES, ObjectiveRow
from permlab.reports.aggregate import Group
from permlab.reports.naming import arm_names
from permlab.tables import Row
from permlab.tasks.spt.figures import IN_TEXT, MASKED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from permlab.text.intervals import Interval

DIRECTIONS = ("forward", "reverse")


def standings(groups: Iterable[Group]) -> list[Row]:
    """Return one row per configuration, the best in reverse first: intervals by direction, facts, nats forgotten."""
    from permlab.text.intervals import recall_interval

    rows: list[Row] = []
    listed = list(groups)
    for group, name in zip(listed, names(listed)):
        answers = group.rows("answers")
        row: Row = {"configuration": name, **{each: recall_interval(answers, each) for each in DIRECTIONS}}
        if in_text := recall_interval(answers, "reverse", "in_text"):
            row[IN_TEXT] = in_text
        row["facts"] = max((row[each].facts for each in DIRECTIONS if row[each]), default=0)
        forgotten = group.spread("forgotten")
        if forgotten:
            row["forgotten (nats)"] = forgotten
        if row["facts"]:
            rows.append(row)
    best = DIRECTIONS[::-1]
    return sorted(rows, key=lambda row: [IN_TEXT in row, *(-(row[each].share if row[each] else -1) for each in best)])


def objective(group: Group) -> ObjectiveRow:
    """Return what the models of a group predict; runs from before there was a choice are causal."""
    return OBJECTIVES[(group.newest.config.get("model") or {}).get("objective", "causal")]


def names(groups: Sequence[Group]) -> list[str]:
    """Return the groups' labels; beside a masked model they say what differs among the causal ones."""
    masked = [MASKED if objective(group).masked else "" for group in groups]
    if not any(masked):
        return [group.label for group in groups]
    return arm_names([g.varied for g in groups], masked, lambda told: ", ".join(f"{k}={v}" for k, v in told.items()))


def drawn(rows: Sequence[Row]) -> Figure:
    """Draw a row per configuration: both directions, with their intervals; a line parts masked models from orders."""
    figure, ax = figures.new(width=2, height=0.8 + 0.2 * len(rows))
    for column, shift, marker in (("forward", -0.15, "o"), ("reverse", 0.15, "o"), (IN_TEXT, 0.15, "D")):
        there = [(place + shift, row[column]) for place, row in enumerate(rows) if row.get(column)]
        found: list[Interval] = [each for _, each in there]
        shares = [each.share for each in found]
        reach = [[e.share - e.low for e in found], [e.high - e.share for e in found]]
        look = {"color": figures.color(column.partition(",")[0]), "markersize": 3, "fmt": marker}
        if found:
            ax.errorbar(
                shares, [y for y, _ in there], xerr=reach, label=column, mfc="none" if marker == "D" else None, **look
            )
    if any(IN_TEXT in row for row in rows):
        ax.axhline(sum(IN_TEXT not in row for row in rows) - 0.5, color=figures.PALETTE["black"], linewidth=0.6)
    ax.set_yticks(range(len(rows)), [row["configuration"].replace("_", " ") for row in rows])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set(xlim=(-0.03, 1.03), xlabel="share of right answers, 95 % interval over facts")
    ax.legend(ncols=3, loc="lower right", bbox_to_anchor=(1, 1))
    return figure
