"""Section of `task=state_tracking`: how far networks follow, accuracy by position for every word problem, drift."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from permlab import figures
from permlab.reports.aggregate import Group, series
from permlab.reports.collection import Collection, newest_tables, own_figures, words
from permlab.reports.document import Block, Figure
from permlab.reports.writer import Output
from permlab.state_tracking.table import NETWORKS
from permlab.tables import Row, counted
from permlab.tasks.state_tracking.figures import POSITION, RIGHT

TITLE = "Following a permutation through a product (state_tracking)"
QUESTION = (
    "Which sequence models can follow a permutation through a product? (arXiv 2404.08819, 2411.12537, 2502.10297)"
)
FIGURES = {"drift": "Explicit weights: distance from the exact state against the symbols read"}
TITLES = {"constructions": "Explicit weights, right to the last position and how far they drift"}
NAMED = ("task.group", "task.alphabet", "task.network")
"""Keys that panels and lines are named by already."""


def repeats(task: Mapping[str, Any]) -> int:
    """Return how many seeds stand inside one run."""
    return task.get("seeds", 1) if task.get("mode") == "train" else 1


def blocks(collection: Collection, out: Output) -> list[Block]:
    """A table of all configurations, curves, then the figures of explicit weights."""
    made: list[Block] = []
    trained = [group for group in collection.groups if group.rows("reach")]
    if trained:
        rows = [standing(group) for group in trained]
        made.append(out.table(collection.prefix("reach"), rows, "How far networks follow, median and worst over seeds"))
        made.append(curves(collection, trained, out))
    made += own_figures(collection, out, list(FIGURES), lambda name: FIGURES.get(name, words(name)))
    return made + newest_tables(collection, out, list(TITLES), TITLES)


def problem(group: Group) -> str:
    """The word problem of a group of runs: S3, or S3 (swaps)."""
    task = group.newest.config["task"]
    return f"{task['group']}" + ("" if task["alphabet"] == "all" else f" ({task['alphabet']})")


def line_name(group: Group) -> str:
    """The network of a group of runs, and what else was varied."""
    more = [f"{key.rpartition('.')[2]} {value}" for key, value in group.varied.items() if key not in NAMED]
    return ", ".join([NETWORKS[group.newest.config["task"]["network"]].title, *more])


def standing(group: Group) -> Row:
    """The row of a configuration."""
    tested = group.rows("reach")
    reached = sorted(each["reach"] for each in tested)
    row: Row = {"words": problem(group), "network": line_name(group), "seeds": len(tested)}
    row |= {"reach": reached[len(reached) // 2], "reach, worst": reached[0]}
    named = {"accuracy_longer": "right beyond training", "chance": "best guess", "one_letter": "one letter"}
    row |= {name: group.spread(key) for key, name in named.items()}
    ceiling = tested[0].get("one_letter_ceiling")
    return row | {"one letter, at most": ceiling}


def curves(collection: Collection, trained: list[Group], out: Output) -> Figure:
    """Accuracy by position, a panel per word problem, a line per network: mean of all seeds, from worst to best."""
    panels: dict[str, figures.Panel] = {}
    for group in trained:
        task = group.newest.config["task"]
        marks = {"across": group.newest.metrics["chance"], "upright": task["train"]["length"]}
        panel = panels.setdefault(problem(group), figures.Panel([], **marks))
        xs, means, lows, highs = series(group.rows("curves"), "position", "accuracy")
        panel.lines.append(figures.Line(line_name(group), xs, means, lows, highs))
    ends = [f"{of}: {line.name} {line.means[-1]:.2f}" for of, each in panels.items() for line in each.lines]
    alt = f"Accuracy at the end: {'; '.join(ends)}"
    caption = (
        f"Share of right products by position, mean and range of seeds, {counted(len(trained), 'configuration')}. "
        "Dotted: longest trained word; dashed: best guess."
    )
    return out.figure(collection.prefix("accuracy"), figures.draw_panels(panels, POSITION, RIGHT), alt, caption)
