"""Figures of `task.study=lmc`: `draw_trace(tables)`; each is drawn from the rows of all tables of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from permlab import figures
from permlab.merging.studies.lmc.arms import ACTIVATION, NAIVE, RANDOM, WEIGHT
from permlab.tables import Row, mean, pick, summarise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Tables = dict[str, list[Row]]
COLORS = {
    "leading vectors only": "green", "other vectors only": "red", "random vectors": "purple",
    "single networks": "orange", "trained A": "blue", "trained B": "sky", "untrained": "grey",
}  # fmt: skip
FLOOR = 1e-2
"""Barriers below this are drawn on a linear scale."""


def deviations(lines: Sequence[Row], column: str) -> np.ndarray:
    """Deviations over pairs of one column, 0 where there is a single pair."""
    return np.array([line[f"{column}_sd"] or 0.0 for line in lines])


def draw_alignment(tables: Tables) -> Figure:
    """R against gamma: trained and untrained, matched and not; bands are one deviation over pairs."""
    figure, ax = figures.new(width=1, height=3.1)
    lines = summarise(tables["spectra"], ("networks", "arm", "gamma"))
    for kind, arm in dict.fromkeys((line["networks"], line["arm"]) for line in lines):
        if arm in ("with itself", RANDOM.label):
            continue
        own = [line for line in lines if (line["networks"], line["arm"]) == (kind, arm)]
        gamma, r = np.array([row["gamma"] for row in own]), np.array([row["r"] for row in own])
        spread = deviations(own, "r")
        style = "-" if kind == "trained" else "--"
        label = arm if kind == "trained" else f"untrained, {arm}"
        ax.plot(gamma, r, style, marker=".", color=figures.color(arm), label=label)
        ax.fill_between(gamma, r - spread, r + spread, color=figures.color(arm), alpha=0.15, linewidth=0)
    ax.set(xlabel="gamma (share of the largest singular value)", ylabel="R(gamma)")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def draw_variance(tables: Tables) -> Figure:
    """Variance relative to the ends against depth, one line an arm; bands are one deviation over pairs."""
    figure, ax = figures.new(width=1, height=3.1)
    lines = summarise(tables["variance"], ("arm", "depth"))
    for arm in dict.fromkeys(line["arm"] for line in lines):
        own = [line for line in lines if line["arm"] == arm]
        depth, ratio = np.array([row["depth"] for row in own]), np.array([row["variance_ratio"] for row in own])
        spread, base = deviations(own, "variance_ratio"), arm.partition(" + ")[0]
        style = "--" if base != arm else "-"
        ax.plot(depth, ratio, style, marker=".", color=figures.color(base), label=arm.replace("reset", "REPAIR"))
        ax.fill_between(depth, ratio - spread, ratio + spread, color=figures.color(base), alpha=0.15, linewidth=0)
    ax.axhline(1.0, color="0.6", linewidth=0.8)
    ax.set(xlabel="layer", ylabel="variance / that of the ends", ylim=(0, None))
    ax.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _barrier_axis(ax: Axes) -> None:
    ax.set_yscale("symlog", linthresh=FLOOR)
    ax.set_ylabel("loss barrier at the midpoint (nats, test)")


def draw_trace(tables: Tables) -> Figure:
    """Barrier against R and against the L2 reduction along the steps of weight matching, one line a pair."""
    figure, axes = figures.new(width=2, height=2.6, columns=2, sharey=True)
    pairs = sorted({row["pair"] for row in tables["trace"]})
    for ax, column, label in zip(axes, ("r_0.3", "l2_reduction"), ("R(0.3)", "reduction of the L2 distance")):
        for number, pair in enumerate(pairs):
            own = [row for row in tables["trace"] if row["pair"] == pair]
            ax.plot(
                [row[column] for row in own],
                [row["loss_barrier"] for row in own],
                marker=".",
                color=figures.color(WEIGHT.label),
                alpha=0.6,
                linewidth=0.8,
                label=None if number else "steps of weight matching",
            )
        _others(ax, tables, column)
        ax.set_xlabel(label)
    _barrier_axis(axes[0])
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def _color(name: str) -> str:
    return figures.PALETTE[COLORS[name]] if name in COLORS else figures.color(name)


def _others(ax: Axes, tables: Tables, column: str) -> None:
    """Ends of other methods, as points: permutations from part of the singular vectors, activation matching."""
    series = {
        "leading vectors only": [row for row in tables.get("causal", []) if row["part"] == "leading"],
        "other vectors only": [row for row in tables.get("causal", []) if row["part"] == "rest"],
        "random vectors": [row for row in tables.get("causal", []) if row["part"] == "random ranks"],
        ACTIVATION.label: [row for row in tables.get("distances", []) if row["arm"] == ACTIVATION.label],
    }
    for marker, (name, rows) in zip("^vxs", series.items()):
        if rows:
            x, y = [row[column] for row in rows], [row["loss_barrier"] for row in rows]
            ax.plot(x, y, marker, color=_color(name), markersize=3, alpha=0.7, label=name)


def draw_causal(tables: Tables) -> Figure:
    """Barrier of permutations from the leading vectors only and from the others only, against gamma."""
    figure, axes = figures.new(width=2, height=2.6, columns=2)
    lines = summarise(tables["causal"], ("part", "gamma"))
    whole = pick(lines, part="all")
    names = {"leading": "leading vectors only", "rest": "other vectors only", "random ranks": "random vectors"}
    for ax, column in zip(axes, ("loss_barrier", "l2_reduction")):
        for part, name in names.items():
            own = [line for line in lines if line["part"] == part]
            x, y = [line["gamma"] for line in own], [line[column] for line in own]
            error = deviations(own, column)
            ax.errorbar(x, y, error, marker="o", color=figures.PALETTE[COLORS[name]], label=name)
        ax.axhline(whole[column], color=figures.color(WEIGHT.label), linestyle="--", label="all vectors")
        ax.set_xlabel("gamma (share of the largest singular value)")
    _barrier_axis(axes[0])
    axes[1].set_ylabel("reduction of the L2 distance")
    naive = mean([row for row in tables.get("trace", []) if not row["step"]], "loss_barrier")
    if naive is not None:
        axes[0].axhline(naive, color=figures.color(NAIVE.label), label=NAIVE.label)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def draw_singular_values(tables: Tables) -> Figure:
    """Histograms of the singular values of the first pair, layer by layer, trained and untrained."""
    rows = tables["singular_values"]
    layers = list(dict.fromkeys(row["layer"] for row in rows))[:4]
    figure, axes = figures.new(width=2, height=2.2, columns=len(layers), squeeze=False)
    for ax, layer in zip(axes[0], layers):
        series: dict[tuple[str, str], list[float]] = {}
        for row in rows:
            key = (row["networks"], row["network"])
            if row["layer"] == layer and key != ("untrained", "B"):
                series.setdefault(key, []).append(row["value"])
        bins = np.linspace(0, max(max(values) for values in series.values()), 31)
        for (kind, name), values in series.items():
            label = f"{kind} {name}" if kind == "trained" else "untrained"
            ax.hist(values, bins, histtype="step", color=figures.PALETTE[COLORS[label]], label=label)
        ax.set(title=layer, xlabel="singular value")
    axes[0][0].set_ylabel("number")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def draw_taylor(tables: Tables) -> Figure:
    """Second-order estimate against the true barrier on the training images."""
    figure, ax = figures.new(width=1, height=2.6)
    for arm in dict.fromkeys(row["arm"] for row in tables["taylor"]):
        own = [row for row in tables["taylor"] if row["arm"] == arm]
        ax.plot(
            [row["barrier"] for row in own],
            [row["estimate"] for row in own],
            "o",
            color=figures.color(arm),
            label=arm,
            alpha=0.8,
        )
    values = [row[key] for row in tables["taylor"] for key in ("barrier", "estimate")]
    span = [min(0.0, *values), max(values)]
    ax.plot(span, span, ":", color=figures.PALETTE["grey"], label="exact")
    ax.set_xscale("symlog", linthresh=FLOOR)
    ax.set_yscale("symlog", linthresh=FLOOR)
    ax.set(xlabel="barrier at the midpoint (nats, training)", ylabel="second-order estimate (nats)")
    ax.legend(loc="upper left")
    return figure


def _short(method: str, arm: str) -> str:
    """Two lines under a bar."""
    words = {"anchor": "each to A", "direct": "C to B", "all": "all to the mean", "naive": "no\npermutation"}
    return words[arm] if method == "none" else f"{method.replace(' matching', '')}\n{words[arm]}"


def draw_three(tables: Tables) -> Figure:
    """Barriers between the three networks by method and arm."""
    lines = summarise(tables["three"], ("method", "arm", "pair_of"))
    lines = [line for line in lines if line["loss_barrier"] is not None]
    arms = list(dict.fromkeys((line["method"], line["arm"]) for line in lines))
    figure, ax = figures.new(width=2, height=2.6)
    shades = {"a-b": "sky", "a-c": "blue", "b-c": "orange"}
    for shift, (pair, color) in enumerate(shades.items()):
        own = [line for line in lines if line["pair_of"] == pair]
        at = [arms.index((line["method"], line["arm"])) + 0.27 * (shift - 1) for line in own]
        spread = deviations(own, "loss_barrier")
        ax.bar(at, [line["loss_barrier"] for line in own], 0.25, yerr=spread, color=figures.PALETTE[color], label=pair)
    ax.set_xticks(range(len(arms)), [_short(*arm) for arm in arms])
    _barrier_axis(ax)
    ax.legend(title="networks")
    return figure


def draw_many(tables: Tables) -> Figure:
    """Test loss and calibration error against the number of networks, one line an arm."""
    figure, axes = figures.new(width=2, height=2.6, columns=2)
    lines = summarise(tables["many"], ("count", "arm"), count="pairs")
    for ax, column in zip(axes, ("loss", "calibration_error")):
        for arm in dict.fromkeys(line["arm"] for line in lines):
            own = [line for line in lines if line["arm"] == arm]
            x, y = [line["count"] for line in own], [line[column] for line in own]
            ax.errorbar(x, y, deviations(own, column), marker=".", color=_color(arm), label=arm)
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter("{x:g}")
        ax.set(xlabel="networks", ylabel=f"{column.replace('_', ' ')} (test)", yscale="log")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure
