"""What a sweep compares: groups that differ in more than the seed, their numbers, and a figure of any headline metric.

    groups = [({"task.order": "spt"}, [{"reverse_accuracy": 0.98}, {"reverse_accuracy": 0.96}])]
    number_rows(groups, ["reverse_accuracy"])       # reverse_accuracy_mean, _sd, _n: for comparison.csv
    sweep_figures(task, groups)                     # the task's own figures, else its headline over what was varied

The closing of a sweep and the report draw the same figures from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from permlab import figures
from permlab.tables import Row, counted, is_number, number_columns, spread, words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Group = tuple[dict[str, str], list[dict[str, float]]]
"""What was varied besides the seed, and the metrics of every finished job of it."""
MOST_METRICS = 8
"""Metrics of a table where a task names no headline, or none of it was measured."""
MOST_PANELS = 4
MOST_LINES = 9
"""Lines in one panel; beyond, every configuration gets a row of its own."""
MOST_ROWS = 40
"""Configurations in one figure; the tables have all."""
LONGEST_VALUE = 40
"""Letters of a value in a label."""
LOG_SPAN = 20
"""Largest over smallest value of a swept number from which its axis is logarithmic."""


def headline(task: ModuleType | None, metrics: Sequence[dict[str, float]]) -> list[str]:
    """Return the metrics that the task puts first, as far as they were measured, else the first few there are."""
    present = number_columns(metrics)
    return ([name for name in getattr(task, "HEADLINE", ()) if name in present] or present)[:MOST_METRICS]


def number_rows(groups: Sequence[Group], names: Sequence[str]) -> list[Row]:
    """Return a row per group: what was varied, how many jobs, and mean, deviation and count of every metric."""
    rows: list[Row] = []
    for varied, metrics in groups:
        row: Row = {**varied, "seeds": len(metrics)}
        for name in names:
            found = spread(each.get(name) for each in metrics)
            row[f"{name}_mean"], row[f"{name}_sd"] = (found.mean, found.deviation) if found else (None, None)
            row[f"{name}_n"] = found.count if found else 0
        rows.append(row)
    return rows


def word_rows(groups: Sequence[Group], names: Sequence[str]) -> list[Row]:
    """Return the same for people: `mean ± deviation` in one cell."""
    return [
        {**varied, "seeds": len(metrics), **{name: words(each.get(name) for each in metrics) for name in names}}
        for varied, metrics in groups
    ]


def sweep_figures(task: ModuleType | None, groups: Sequence[Group]) -> dict[str, Figure]:
    """Return the figures of a comparison by name: the task's own, else the headline over what was varied.

    Groups without a finished job are left out; nothing is drawn of a single job, or where nothing was measured.
    """
    measured = [(varied, metrics) for varied, metrics in groups if metrics]
    if sum(len(metrics) for _, metrics in measured) < 2:
        return {}
    draw = getattr(task, "sweep_figures", None)
    own: dict[str, Figure] = draw(measured) if draw else {}
    return own or headline_figure(measured, headline(task, [each for _, found in measured for each in found]))


def headline_figure(groups: Sequence[Group], names: Sequence[str]) -> dict[str, Figure]:
    """Draw each metric in a panel of its own: mean and deviation over seeds, and every seed as a dot.

    A number that was swept is the x axis, with a line for every value of a second key; anything else, and a sweep over
    seeds only, gets a row per configuration.
    """
    shown = list(names)[:MOST_PANELS]
    if not shown or not groups:
        return {}
    key = swept_number(groups)
    columns = min(2, len(shown))
    lines = -(-len(shown) // columns)
    tall = 2.5 if key else 0.75 + 0.24 * min(len(groups), MOST_ROWS)
    figure, axes = figures.new(
        width=2, rows=lines, columns=columns, height=lines * tall + 0.2, squeeze=False, sharey=False if key else "row"
    )
    panels = list(axes.flat)
    for ax, name in zip(panels, shown):
        if key:
            draw_lines(ax, groups, key, name)
        else:
            draw_rows(ax, groups[:MOST_ROWS], name)
    for ax in panels[len(shown) :]:
        ax.set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside upper center", ncols=3, fontsize=figures.SMALL)
    return {"headline": figure}


def swept_number(groups: Sequence[Group]) -> str | None:
    """Return the key that makes the x axis: a number with the most values, with at most one key beside it."""
    keys = list(groups[0][0])
    values = {key: {number(varied.get(key)) for varied, _ in groups} for key in keys}
    fitting = [key for key in keys if None not in values[key] and len(values[key]) > 1]
    if not fitting or len(keys) > 2:
        return None
    best = max(fitting, key=lambda key: len(values[key]))
    others = {tuple(v for k, v in varied.items() if k != best) for varied, _ in groups}
    return best if len(others) <= MOST_LINES else None


def draw_lines(ax: Axes, groups: Sequence[Group], key: str, name: str) -> None:
    """Draw one metric against a swept number, a line for every value of the other key."""
    series: dict[str, list[tuple[float, list[float]]]] = {}
    for varied, metrics in groups:
        values = [each[name] for each in metrics if is_number(each.get(name))]
        x = number(varied[key])
        if values and x is not None:
            series.setdefault(said({k: v for k, v in varied.items() if k != key}), []).append((x, values))
    for place, (label, points) in enumerate(series.items()):
        shade = figures.numbered(place)
        points.sort(key=lambda point: point[0])
        found = [spread(values) for _, values in points]
        means = [each.mean if each else 0.0 for each in found]
        errors = [(each.deviation or 0.0) if each else 0.0 for each in found]
        ax.errorbar([x for x, _ in points], means, errors, fmt="o-", color=shade, capsize=2, label=label or None)
        for x, values in points:
            ax.plot([x] * len(values), values, "o", color=shade, markersize=2, alpha=0.5)
    xs = sorted({x for points in series.values() for x, _ in points})
    if len(xs) > 2 and xs[0] > 0 and xs[-1] >= LOG_SPAN * xs[0]:
        ax.set_xscale("log")
        figures.readable_log(ax.xaxis)
    ax.set(xlabel=key, ylabel=name.replace("_", " "))


def draw_rows(ax: Axes, groups: Sequence[Group], name: str) -> None:
    """Draw one metric with a row per configuration."""
    most = 0
    for place, (_, metrics) in enumerate(groups):
        values = [each[name] for each in metrics if is_number(each.get(name))]
        found = spread(values)
        if found is None:
            continue
        most = max(most, len(values))
        ax.errorbar(found.mean, place, xerr=found.deviation or 0.0, fmt="o", color=figures.numbered(0), capsize=2)
        ax.plot(values, [place] * len(values), "o", color=figures.PALETTE["black"], markersize=2, alpha=0.6)
    labels = [said(varied) or counted(len(metrics), "seed") for varied, metrics in groups]
    ax.set_yticks(range(len(groups)), labels)
    ax.set_ylim(len(groups) - 0.5, -0.5)
    ax.set_xlabel(name.replace("_", " ") + (" (mean ± sd)" if most > 1 else ""))
    ax.locator_params(axis="x", nbins=5)


def number(text: str | None) -> float | None:
    """Return what a swept value says as a number, also `[10]`; None for anything else."""
    try:
        value = float((text or "").strip("[] "))
    except ValueError:
        return None
    return value if is_number(value) else None


def said(varied: dict[str, str]) -> str:
    """Return `order=spt, n=4`: the last parts of keys, as they stand on the command line."""
    short = {key: key.removesuffix(".name").rsplit(".", 1)[-1] for key in varied}
    return ", ".join(f"{short[key]}={value[:LONGEST_VALUE]}" for key, value in varied.items())
