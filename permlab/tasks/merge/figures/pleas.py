"""Figures of `task.study=pleas`: accuracy of every arm, and accuracy against multiply-accumulates."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from permlab import figures
from permlab.matching.table import MATCHES
from permlab.merging.studies.pleas.arms import REFERENCE, PartialArm, with_reset
from permlab.merging.table import COMBINES
from permlab.tables import Row
from permlab.tasks.merge.figures.lmc import deviations

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

LABELS = {"joint": "accuracy, one decision among all labels", "own": "accuracy, mean over tasks"}
MARKERS = "os^Dv<>p"
"""Of the allocators, in their order; without a permutation the colour is that of the control."""
NAIVE = MATCHES["identity"].title
SINGLES = (
    (PartialArm("identity", repaired=True), "x"),
    (PartialArm("identity", "regmean"), "1"),
    (PartialArm("activation"), "+"),
)
"""Arms at the price of one network, as points."""


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
    markers = dict(zip(dict.fromkeys(line["allocator"] for line in budgets), itertools.cycle(MARKERS)))
    for match, allocator in dict.fromkeys((line["matching"], line["allocator"]) for line in budgets):
        own = [line for line in budgets if (line["matching"], line["allocator"]) == (match, allocator)]
        start = ends[with_reset(f"{match}, {COMBINES[REFERENCE.combine].title}", ends)]
        points = [start, *own]
        matched = match != NAIVE
        ax.errorbar(
            [line["macs"] for line in points],
            [line[score] for line in points],
            deviations(points, score),
            fmt=markers[allocator] + ("-" if matched else "--"),
            color=figures.color(allocator if matched else match),
            label=f"{match}, {allocator}",
            linewidth=1,
            elinewidth=0.6,
        )
    for arm, marker in SINGLES:
        value, color = ends[with_reset(arm.label, ends)][score], figures.color(arm.match)
        ax.plot(1, value, marker, color=color, label=arm.label, markersize=6)
    if ensemble:
        ax.plot(2, ensemble[score], "*", color=figures.color("ensemble"), label="ensemble", markersize=8)
    ax.set(xlabel="multiply-accumulates relative to one network", ylabel=LABELS[score])
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
