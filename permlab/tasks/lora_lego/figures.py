"""Figures of `task=lora_lego`: methods as bars, the sweep of k, clusters, pruning, gauges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from permlab import figures
from permlab.adapters.benchmark.exam import CONTROLS
from permlab.adapters.benchmark.prune import PRUNINGS
from permlab.adapters.benchmark.trials import REWEIGHTINGS
from permlab.adapters.table import LORA_METHODS
from permlab.tables import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLES = ("o-", "s--", "^:", "x-.")


def color_of(family: str) -> str:
    """Colour of a method's row, or of a control."""
    return figures.color(LORA_METHODS.get(family, family))


def draw_methods(part: Sequence[Row], title: str, chosen: str) -> Figure:
    """Bars: score of every method at its tuned scale, with the untuned score and what the base keeps as marks.

    Args:
        part: means of one regime and number of adapters.
        title: which these are.
        chosen: label of the row that repeats another method, left out.
    """
    constant, *_, ensemble = CONTROLS
    tuned = [row for row in part if row["scale_rule"] == "tuned" and row["method"] != chosen]
    plain = {row["method"]: row for row in part if row["scale_rule"] == "1"}
    tuned.sort(key=lambda row: float(row["score"]))
    fig, ax = figures.new(width=2, height=0.17 * len(tuned) + 1.0)
    places = range(len(tuned))
    ax.barh(
        places,
        [row["score"] for row in tuned],
        xerr=[row["score_sd"] or 0.0 for row in tuned],
        color=[color_of(row["family"]) for row in tuned],
        error_kw={"elinewidth": 0.8},
        height=0.72,
    )
    ax.plot(
        [plain[row["method"]]["score"] for row in tuned],
        places,
        "|",
        color=figures.PALETTE["black"],
        markersize=7,
        label="scale 1",
    )
    if tuned and tuned[0].get("kept") is not None:
        black = figures.PALETTE["black"]
        ax.plot([row["kept"] for row in tuned], places, ".", color=black, label="kept of the base, tuned scale")
    if ensemble in plain:
        ax.axvline(plain[ensemble]["score"], color=figures.PALETTE["black"], linestyle=":", linewidth=1, label=ensemble)
    floor = plain.get(constant, {}).get("score", 0.0)
    if floor > 0.05:
        ax.axvline(floor, color=figures.PALETTE["grey"], linestyle="--", linewidth=1, label=constant)
    ax.set_yticks(places, [row["method"] for row in tuned], fontsize=figures.SMALL)
    ax.set_ylim(-0.7, len(tuned) - 0.3)
    ax.set_xlabel("score / score of the single adapter")
    ax.set_title(f"{title}; bars: scale chosen on validation questions")
    fig.legend(loc="outside lower center", ncols=3, fontsize=figures.SMALL)
    return fig


def draw_sweep(part: Sequence[Row], title: str, chosen: str) -> Figure:
    """Score against k at scale 1 and tuned, one line per reweighting; methods that are `level` as level lines."""
    fig, axes = figures.new(width=2, columns=2, height=2.9, sharey=True)
    level = LORA_METHODS.where(level=True)
    for ax, (rule, said) in zip(axes, (("1", "1"), ("tuned", "tuned"))):
        rows = [row for row in part if row["scale_rule"] == rule and row["method"] != chosen]
        swept = [row for row in rows if row.get("sweep")]
        for (reweighting, _), style in zip(REWEIGHTINGS, _STYLES):
            line = sorted((row for row in swept if row["sweep"] == reweighting), key=lambda row: int(row["k"]))
            if line:
                ax.errorbar(
                    [row["k"] for row in line],
                    [row["score"] for row in line],
                    yerr=[row["score_sd"] or 0.0 for row in line],
                    color=color_of(line[0]["family"]),
                    fmt=style,
                    capsize=2,
                    label=f"{line[0]['family']}, {reweighting}",
                )
        for row, dashes in zip((row for row in rows if row["family"] in level), ("-", "-", "--")):
            color = color_of(row["family"])
            ax.axhline(row["score"], color=color, linestyle=dashes, linewidth=1, label=row["method"])
        ax.set_xlabel("merged rank k")
        ax.set_xticks(sorted({row["k"] for row in swept}))
        ax.set_title(f"{title}, scale {said}")
    axes[0].set_ylabel("score / single adapter")
    lines = axes[0].get_legend_handles_labels()
    fig.legend(*lines, loc="outside lower center", ncols=4, fontsize=figures.SMALL, handlelength=3)
    return fig


def draw_diagnostics(spread: Sequence[Row]) -> Figure:
    """Clusters that mix adapters, norm ratio and distance between k-means seeds, against k."""
    fig, axes = figures.new(width=2, columns=3, height=2.2)
    shown = (
        ("mixed_share", "share of clusters\nthat mix adapters"),
        ("norm_ratio", "|merged| / mean |input|"),
        ("seed_spread", "relative difference\nbetween k-means seeds"),
    )
    cases = list(dict.fromkeys((row["regime"], row["adapters"]) for row in spread))
    regimes = list(dict.fromkeys(row["regime"] for row in spread))
    for ax, (name, label) in zip(axes, shown):
        for number, (regime, count) in enumerate(cases):
            part = [row for row in spread if (row["regime"], row["adapters"]) == (regime, count)]
            style = ("-", "--")[regimes.index(regime) % 2]
            shade = figures.numbered(number)
            k, values = [row["k"] for row in part], [row[name] for row in part]
            ax.plot(k, values, style, marker="o", color=shade, label=f"{count}, {regime} A")
        ax.set_xlabel("merged rank k")
        ax.set_ylabel(label, fontsize=7)
        ax.set_ylim(0, 1.15 * max(row[name] for row in spread) + 1e-3)
    axes[0].legend(fontsize=figures.SMALL)
    return fig


def draw_pruning(table: Sequence[Row]) -> Figure:
    """Score of one adapter against the rank it is cut to, one line per rule."""
    fig, ax = figures.new(height=2.6)
    for each in PRUNINGS:
        part = [row for row in table if row["method"] == each.label]
        ax.errorbar(
            [row["k"] for row in part],
            [row["score"] for row in part],
            yerr=[row["score_sd"] or 0.0 for row in part],
            color=figures.PALETTE[each.color],
            linestyle="--" if each.dashed else "-",
            marker="o",
            label=each.label,
            capsize=2,
        )
    ax.set_xlabel("rank k of the pruned adapter")
    ax.set_ylabel("score / score at full rank")
    ax.set_ylim(-0.03, 1.05)
    ax.legend(fontsize=figures.SMALL)
    return fig


def draw_gauges(rows: Sequence[Row], changes: Sequence[str]) -> Figure:
    """Heat map of the gauge table."""
    fig, ax = figures.new(width=2, height=2.2)
    values = [[row[change] for change in changes] for row in rows]
    image = figures.heat_map(ax, values, [row["merge"] for row in rows], list(changes))
    ax.set_xlabel("how the copy differs")
    fig.colorbar(image, ax=ax, label="relative error of delta W")
    return fig
