"""Figures of `task=ntk`: sizes against k, accuracy against the number of networks, finite width against the law."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from permlab import figures
from permlab.ntk.law import ensemble_size, success_probability
from permlab.ntk.published import PUBLISHED_WIDTH, published_curve
from permlab.ntk.sizes import percent
from permlab.ntk.table import PARAMETERIZATIONS
from permlab.ntk.transform import Uniformity
from permlab.tables import Row
from permlab.tasks.ntk.settings import NtkConfig

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOG_SPAN = 20
"""Axes are logarithmic when the largest k is more than this many times the smallest."""


def draw_sizes(task: NtkConfig, rows: list[Row]) -> Figure:
    """N(k): the law, the band of simulated runs, published points, and the other kernel's law for comparison."""
    figure, ax = figures.new(width=2, height=3.4)
    for index, ones in enumerate(task.counts):
        series = [row for row in rows if row["ones"] == ones]
        name = "all inputs, union bound (sufficient)" if ones is None else f"law of the expected accuracy, {ones} ones"
        _draw_series(ax, task, series, name, figures.color("law" if index == 0 else f"ones {ones}"), index == 0)
    logarithmic = rows[-1]["k"] > LOG_SPAN * max(rows[0]["k"], 5)
    if logarithmic:
        ax.set(xscale="log", yscale="log")
    elif not task.testing.every:
        _draw_other_kernel(ax, task, rows)
    points = [row for row in rows if row["published"]]
    if points:
        label = f"published, one run each (width {PUBLISHED_WIDTH:,})"
        ax.plot(
            [row["k"] for row in points],
            [row["published"] for row in points],
            "o",
            color=figures.color("published"),
            markersize=3.5,
            label=label,
            zorder=3,
        )
    if not logarithmic:
        ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set(xlabel="input size k (bits)", ylabel=f"networks N to {percent(task.target)}")
    ax.legend(loc="upper left" if logarithmic or not points else "lower right")
    return figure


def _draw_series(ax: Axes, task: NtkConfig, series: list[Row], name: str, color: str, first: bool) -> None:
    k = [row["k"] for row in series]
    ax.plot(k, [row["ensemble_size"] for row in series], color=color, label=name, marker="." if len(k) < 12 else None)
    banded = [row for row in series if row["first_low"] is not None]
    if banded:
        label = f"first passage of one run, 95 % of {task.replicates} simulated" if first else None
        ax.fill_between(
            [row["k"] for row in banded],
            [row["first_low"] for row in banded],
            [row["first_high"] for row in banded],
            color=color,
            alpha=0.18,
            linewidth=0,
            label=label,
        )
    if "necessary" in series[0]:
        ax.fill_between(
            k,
            [row["necessary"] for row in series],
            [row["ensemble_size"] for row in series],
            color=color,
            alpha=0.12,
            linewidth=0,
            label="proven range of N (de Caen to union bound)",
        )
    if first and len(k) > 1:
        bounds = [row["sufficient_bound"] for row in series]
        if k[-1] > LOG_SPAN * max(k[0], 5):
            ax.plot(k, bounds, ":", color=figures.PALETTE["grey"], label="sufficient by tail bounds alone")


def _draw_other_kernel(ax: Axes, task: NtkConfig, rows: list[Row]) -> None:
    other = next(row for row in PARAMETERIZATIONS.values() if row.name != task.parameterization)
    k = np.array(sorted({row["k"] for row in rows if row["ones"] == task.ones[0]}))
    sizes = ensemble_size(k, task.ones[0], task.target, other.name)
    label = "law, both layers train" if other.scaled else "law, last layer only"
    label += f" ({sizes[-1]} at k = {k[-1]})"
    ax.plot(k, sizes, "--", color=figures.color(PARAMETERIZATIONS["ntk"]), label=label)
    if other.scaled:
        # The full-kernel law is 4.5 times higher: let it leave the frame rather than flatten the points.
        top = max(max(row["ensemble_size"], row["first_high"] or 0, row["published"] or 0) for row in rows)
        ax.set_ylim(0, 1.6 * top)


def draw_accuracy(task: NtkConfig, rows: list[Row]) -> Figure:
    """Accuracy against N: law, mean of simulated runs and their 95 % band, one colour for each (k, ones)."""
    figure, ax = figures.new(width=2, height=3.4)
    series = sorted({(row["k"], row["ones"] or 0) for row in rows})
    import matplotlib

    palette = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.88, len(series)))
    for color, (k, ones) in zip(palette, series):
        own = [row for row in rows if (row["k"], row["ones"] or 0) == (k, ones)]
        networks = np.array([row["networks"] for row in own])
        if ones:
            fine = np.arange(1, networks[-1] + 1)
            ax.plot(fine, success_probability(k, ones, fine, task.parameterization), color=color, linewidth=1.2)
        ax.plot(
            networks,
            [row["accuracy"] for row in own],
            ".",
            color=color,
            markersize=3,
            label=f"k = {k}" + (f", {ones} ones" if len(task.ones) > 1 and ones else ""),
        )
        curve = published_curve(k, ones, int(networks[-1])) if task.testing.drawn else []
        told = [(n, accuracy) for n, accuracy in enumerate(curve, start=1) if accuracy is not None]
        ax.plot([n for n, _ in told], [accuracy for _, accuracy in told], ":", color=color, linewidth=1)
        ax.fill_between(
            networks, [row["low"] for row in own], [row["high"] for row in own], color=color, alpha=0.15, linewidth=0
        )
    ax.axhline(task.target, color=figures.PALETTE["grey"], linewidth=0.8, linestyle="--")
    ax.set(xlabel="networks averaged N", ylabel="test inputs with every output right", ylim=(0, 1.02))
    ax.set_xlim(left=0)
    ax.legend(
        loc="lower right",
        title="lines: law; dots and bands: simulated;\ndotted: published run" if not task.testing.every else None,
    )
    return figure


def draw_transformed(rows: list[Row], test: Uniformity) -> Figure:
    """Published points as u = P(first passage is earlier): against k, and sorted against the uniform distribution."""
    figure, axes = figures.new(width=2, height=3.0, columns=2)
    told = [row for row in rows if row.get("transformed") is not None]
    ax = axes[0]
    ax.plot(
        [r["k"] for r in told], [r["transformed"] for r in told], "o", color=figures.color("published"), markersize=3.5
    )
    for level in (0.025, 0.5, 0.975):
        ax.axhline(level, color=figures.PALETTE["grey"], linewidth=0.8, linestyle="-" if level == 0.5 else ":")
    ax.set(xlabel="input size k (bits)", ylabel="u = P(first passage earlier)", ylim=(0, 1))
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax = axes[1]
    count = len(test.points)
    expected = (np.arange(count) + 0.5) / count
    ax.fill_between(
        expected, *test.band, color=figures.color("law"), alpha=0.18, linewidth=0, label="95 % under the law"
    )
    ax.plot([0, 1], [0, 1], color=figures.color("law"), linewidth=0.8)
    ax.plot(expected, np.sort(test.points), "o", color=figures.color("published"), markersize=3.5, label="published")
    ax.set(xlabel="uniform quantile", ylabel="sorted u", xlim=(0, 1), ylim=(0, 1), title=f"p = {test.p:.2f}")
    ax.legend(loc="upper left")
    return figure


def draw_trained_accuracy(task: NtkConfig, rows: list[Row]) -> Figure:
    """Accuracy of averages of trained networks against their number: the widest of each k, law and published run."""
    import matplotlib

    figure, ax = figures.new(width=2, height=3.4)
    widest = [row for row in rows if row["width"] == max(task.width)]
    series = sorted({(row["k"], row["ones"] or 0) for row in widest})
    palette = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.85, len(series)))
    for color, (k, ones) in zip(palette, series):
        own = [row for row in widest if (row["k"], row["ones"] or 0) == (k, ones)]
        networks = [row["networks"] for row in own]
        label = f"k = {k}" + (f", {ones} ones" if len(task.ones) > 1 and ones else "")
        ax.plot(networks, [row["law"] for row in own], color=color, linewidth=1.2, label=label)
        ax.plot(networks, [row["accuracy"] for row in own], ".", color=color, markersize=2.5)
        told = [row for row in own if row["published"] is not None]
        ax.plot([r["networks"] for r in told], [r["published"] for r in told], ":", color=color, linewidth=1)
    ax.axhline(task.target, color=figures.PALETTE["grey"], linewidth=0.8, linestyle="--")
    ax.set(xlabel="networks averaged N", ylabel="test inputs with every output right", ylim=(0, 1.02))
    ax.set_xlim(left=0)
    ax.legend(loc="lower right", title="lines: law; dots: networks trained here; dotted: published")
    return figure


def draw_widths(task: NtkConfig, rows: list[Row]) -> Figure:
    """Measured ensemble size against width, with the laws of both kernels and of this width's tangent kernel."""
    sizes = sorted({(row["k"], row["ones"] or 0) for row in rows})
    figure, axes = figures.new(width=1 if len(sizes) == 1 else 2, height=3.3, columns=len(sizes), squeeze=False)
    for ax, (k, ones) in zip(axes[0], sizes):
        own = sorted((row for row in rows if (row["k"], row["ones"] or 0) == (k, ones)), key=lambda row: row["width"])
        width = [row["width"] for row in own]
        if ones:
            ax.axhline(own[0]["law_last_layer"], color=figures.color("law"), label="law, last layer")
            ax.axhline(
                own[0]["law_both_layers"],
                color=figures.color(PARAMETERIZATIONS["ntk"]),
                linestyle="--",
                label="law, full kernel",
            )
            if "law_this_width" in own[0]:
                laws = [row["law_this_width"] for row in own]
                ax.plot(width, laws, ":", color=figures.PALETTE["green"], label="law, kernel of this width")
        measured = [row["ensemble_size"] if row["ensemble_size"] is not None else np.nan for row in own]
        errors = [2 * (row["ensemble_size_error"] or 0) for row in own]
        style = {"fmt": "o", "linewidth": 1, "color": figures.color("published")}
        ax.errorbar(width, measured, errors, **style, label="from measured moments (2 s.e.)")
        stops = [row for row in own if row["stopping_mean"] is not None]
        ax.errorbar(
            [row["width"] * 1.06 for row in stops],
            [row["stopping_mean"] for row in stops],
            yerr=[2 * (row["stopping_error"] or 0) for row in stops],
            fmt="s",
            color=figures.color("simulated"),
            markersize=3,
            linewidth=1,
            label="mean first N (2 s.e.)",
        )
        expected = own[-1]["stopping_law"]
        if expected is not None:
            ax.axhline(expected, color=figures.color("simulated"), linewidth=0.8, label="mean first N, simulated law")
        ax.set(xscale="log", yscale="log", xlabel="width (hidden units)", title=f"k = {k}")
        ax.set_xticks(width, [f"{value:,}" for value in width])
        ax.tick_params(which="minor", bottom=False, labelbottom=False)
        for formatter in (ax.yaxis.set_major_formatter, ax.yaxis.set_minor_formatter):
            formatter("{x:g}")
    axes[0][0].set_ylabel(f"networks N to {percent(task.target)}")
    handles, labels = axes[0][-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2 * len(sizes))
    return figure
