"""Section of `task=state_tracking`: accuracy by position over all seeds, how far networks follow, drift."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from permlab import figures
from permlab.reports.aggregate import series
from permlab.reports.collection import Collection, newest_tables, own_figures, words
from permlab.reports.document import Block, Figure
from permlab.reports.writer import Output
from permlab.tables import Row, counted

TITLE = "Following a permutation through a product (state_tracking)"
QUESTION = (
    "Which sequence models can follow a permutation through a product? (arXiv 2404.08819, 2411.12537, 2502.10297)"
)
FIGURES = {"drift": "Explicit weights: distance from the exact state against the symbols read"}
MOST_LINES = 10


def repeats(task: Mapping[str, Any]) -> int:
    """Return how many seeds stand inside one run."""
    return task.get("seeds", 1) if task.get("mode") == "train" else 1


def blocks(collection: Collection, out: Output) -> list[Block]:
    """A table of all configurations, curves, then the figures of explicit weights."""
    made: list[Block] = []
    rows = standings(collection)
    if rows:
        made.append(out.table(collection.prefix("reach"), rows, "How far networks follow, median and worst over seeds"))
        made.append(curves(collection, out))
    made += own_figures(collection, out, list(FIGURES), lambda name: FIGURES.get(name, words(name)))
    return made + newest_tables(collection, out, [], {})


def standings(collection: Collection) -> list[Row]:
    """One row per configuration that was trained."""
    rows: list[Row] = []
    for group in collection.groups:
        tested = group.rows("reach")
        if not tested:
            continue
        row: Row = {"configuration": group.label, "seeds": len(tested)}
        reached = sorted(each["reach"] for each in tested)
        row |= {"reach": reached[len(reached) // 2], "reach, worst": reached[0]}
        for key, name in (("accuracy_longer", "right beyond training"), ("chance", "best guess")):
            if spread := group.spread(key):
                row[name] = spread
        rows.append(row)
    return rows


def curves(collection: Collection, out: Output) -> Figure:
    """Accuracy by position, a line per configuration: mean of all seeds, shaded from worst to best."""
    figure, ax = figures.new(width=2, height=3.0)
    trained = [group for group in collection.shown(out) if group.rows("curves")][:MOST_LINES]
    said = []
    for number, group in enumerate(trained):
        xs, means, lows, highs = series(group.rows("curves"), "position", "accuracy")
        shade = figures.numbered(number)
        ax.plot(xs, means, color=shade, label=group.label)
        ax.fill_between(xs, lows, highs, color=shade, alpha=0.15, linewidth=0)
        said.append(f"{group.label} ends at {means[-1]:.2f}")
    ax.set(xlabel="position", ylabel="share right", ylim=(-0.03, 1.03))
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=6)
    caption = f"Share of right products by position, mean of the seeds of {counted(len(trained), 'configuration')}."
    alt = f"Accuracy against position: {'; '.join(said)}"
    return out.figure(collection.prefix("accuracy"), figure, alt, caption)
