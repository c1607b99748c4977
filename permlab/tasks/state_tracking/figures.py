"""Figures of `task=state_tracking`: accuracy by position, how far each network follows, drift of explicit weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import TYPE_CHECKING

from permlab import figures
from permlab.tables import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMALLEST = 1e-8


def draw_curves(points: Sequence[Row], trained: int, chance: float, title: str) -> Figure:
    """Accuracy of every seed by position; the longest trained word dotted, chance dashed."""
    figure, ax = figures.new()
    for number, seed in enumerate(dict.fromkeys(row["seed"] for row in points)):
        own = [row for row in points if row["seed"] == seed]
        positions, shares = [row["position"] for row in own], [row["accuracy"] for row in own]
        ax.plot(positions, shares, color=figures.numbered(number), label=f"seed {seed}")
    ax.axhline(chance, color=figures.color("floor"), linestyle="--", linewidth=0.9)
    ax.axvline(trained, color=figures.color("floor"), linestyle=":", linewidth=0.9)
    ax.set(xlabel="position (dotted: longest trained; dashed: best guess)", ylabel="share right", ylim=(-0.03, 1.03))
    ax.set_title(title, fontsize=figures.SMALL)
    ax.legend()
    return figure


@dataclass(frozen=True)
class Line:
    """A network's accuracy by position: mean, worst and best seed."""

    name: str
    network: str
    positions: list[float]
    means: list[float]
    lows: list[float]
    highs: list[float]


@dataclass(frozen=True)
class Panel:
    """Networks on one word problem; `trained` is the longest word of the training, `chance` the best guess."""

    lines: list[Line]
    trained: int
    chance: float


def draw_panels(panels: Mapping[str, Panel]) -> Figure:
    """Accuracy by position, a panel per word problem; one legend, networks in their colours."""
    columns = 2 if len(panels) in (2, 4) else min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = figures.new(width=2, height=2.0 * rows + 0.6, rows=rows, columns=columns, sharey=True, squeeze=False)
    names = list(dict.fromkeys(line.name for panel in panels.values() for line in panel.lines))
    shades = {name: figures.numbered(number) for number, name in enumerate(names)}
    for ax, (title, panel) in zip(axes.flat, panels.items()):
        for line in panel.lines:
            style = ("-", "--", "-.")[names.index(line.name) // 7 % 3]
            ax.plot(line.positions, line.means, style, color=shades[line.name], label=line.name)
            ax.fill_between(line.positions, line.lows, line.highs, color=shades[line.name], alpha=0.15, linewidth=0)
        ax.axhline(panel.chance, color=figures.color("floor"), linestyle="--", linewidth=0.9)
        ax.axvline(panel.trained, color=figures.color("floor"), linestyle=":", linewidth=0.9)
        ax.set_title(title)
        ax.set_ylim(-0.03, 1.03)
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    for ax in axes[:, 0]:
        ax.set_ylabel("share right")
    for number in range(max(0, len(panels) - columns), len(panels)):
        axes.flat[number].set_xlabel("position")
    handles = {name: handle for ax in axes.flat for handle, name in zip(*ax.get_legend_handles_labels())}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=figures.SMALL)
    return figure


def draw_reach(cells: Sequence[tuple[str, str, Sequence[Mapping[str, float | None]]]]) -> Figure:
    """Share of right products behind the trained length, networks by groups, with the median reach in the cells."""
    groups = list(dict.fromkeys(group for group, _, _ in cells))
    networks = list(dict.fromkeys(network for _, network, _ in cells))
    found = {(g, n): metrics for g, n, metrics in cells}
    size = (0.8 + 0.32 * len(networks), len(groups))
    figure, ax = figures.new(width=2, height=max(2.0, size[0]))
    shares = [[mean(_all(found.get((g, n), []), "accuracy_longer")) for g in groups] for n in networks]
    image = figures.heat_map(ax, shares, networks, groups)
    for text, (n, g) in zip(ax.texts, ((n, g) for n in networks for g in groups)):
        text.set_text(f"{text.get_text()}\nto {median(_all(found.get((g, n), []), 'reach')):.0f}")
        text.set_fontsize(figures.SMALL - 1)
    figure.colorbar(image, ax=ax, label="share right beyond the trained length")
    return figure


def _all(metrics: Sequence[Mapping[str, float | None]], name: str) -> list[float]:
    return [value for each in metrics if (value := each.get(name)) is not None] or [float("nan")]


def draw_drift(rows: Sequence[Row], margins: Mapping[str, float], group: str) -> Figure:
    """Largest distance from the exact state so far, as a share of the half way to another state, by position."""
    figure, ax = figures.new()
    for number, (name, margin) in enumerate(margins.items()):
        own = [row for row in rows if row["construction"] == name]
        shares = [max(row["drift"] / margin, SMALLEST) for row in own]
        ax.plot([row["position"] for row in own], shares, color=figures.numbered(number), label=name)
    ax.axhline(1, color=figures.color("floor"), linestyle="--", linewidth=0.9, label="half way to another state")
    ax.set(xlabel="symbols read", ylabel="drift, share of half the gap", xscale="log", yscale="log")
    ax.set_title(f"explicit weights for {group}, float32", fontsize=figures.SMALL)
    ax.legend()
    return figure
