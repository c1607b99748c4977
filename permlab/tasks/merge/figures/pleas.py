"""Figures of `task.study=pleas`: accuracy of every arm, and accuracy against multiply-accumulates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from permlab import figures
from permlab.merging.studies.pleas.arms import with_reset
from permlab.tables import Row
from permlab.tasks.merge.figures.lmc import deviations

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

LABELS = {"joint": "accuracy, one decision among all labels", "own": "accuracy, mean over tasks"}
STYLES = {"uniform": ("o", "sky"), "prefix": ("s", "green"), "greedy": ("^", "purple"), "qp": ("D", "blue")}
"""Allocator -> (marker, colour); without a permutation the colour is that of the control."""


def draw_arms(lines: Sequence[Row], score: str) -> Figure:
    """One bar per arm in the order of the table, coloured by matching; the whisker is one deviation over pairs."""
    own = [line for line in lines if line[score] is not None]
    figure, ax = figures.new(width=2, height=0.6 + 0.17 * len(own))
    at = np.arange(len(own))[::-1]
    ax.barh(
        at,
        [line[score] for line in own],
        xerr=deviations(own, score),
        color=[figures.color(line["arm"].removesuffix(" + reset").split(",")[0]) for line in own],
        height=0.75,
        error_kw={"linewidth": 0.8},
    )
    ax.set_yticks(at, [f"{line['arm']}  ({line['macs']:.2f}x)" for line in own])
    ax.set(xlabel=LABELS[score], xlim=(0, 1), ylim=(-0.7, len(own) - 0.3))
    ax.grid(False, axis="y")
    return figure


def draw_budgets(budgets: Sequence[Row], arms: Sequence[Row], score: str) -> Figure:
    """Accuracy against exact multiply-accumulates, one line per matching and allocator, from 1x to the ensemble."""
    figure, ax = figures.new(width=2, height=3.2)
    ends = {line["arm"]: line for line in arms}
    ensemble = ends.get("ensemble")
    for match, allocator in dict.fromkeys((line["matching"], line["allocator"]) for line in budgets):
        own = [line for line in budgets if (line["matching"], line["allocator"]) == (match, allocator)]
        start = ends[with_reset(f"{match}, least squares", list(ends))]
        points = [start, *own]
        marker, color = STYLES[allocator]
        matched = match != "no permutation"
        ax.errorbar(
            [line["macs"] for line in points],
            [line[score] for line in points],
            deviations(points, score),
            fmt=marker + ("-" if matched else "--"),
            color=figures.PALETTE[color] if matched else figures.color(match),
            label=f"{match}, {allocator}",
            linewidth=1,
            elinewidth=0.6,
        )
    singles = ("no permutation, REPAIR", "x"), ("no permutation, RegMean", "1"), ("activation matching, average", "+")
    for name, marker in singles:
        value = ends[with_reset(name, list(ends))][score]
        ax.plot(1, value, marker, color=figures.color(name.split(",")[0]), label=name, markersize=6)
    if ensemble:
        ax.plot(2, ensemble[score], "*", color=figures.color("ensemble"), label="ensemble", markersize=8)
    ax.set(xlabel="multiply-accumulates relative to one network", ylabel=LABELS[score])
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
