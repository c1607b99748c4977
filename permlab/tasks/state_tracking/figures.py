"""Figures of `task=state_tracking`: accuracy by position, how far each network follows, drift of explicit weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, median
from typing import TYPE_CHECKING

from permlab import figures
from permlab.state_tracking.table import NETWORKS
from permlab.tables import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from permlab.state_tracking import Tested

SMALLEST = 1e-8
POSITION, RIGHT = "position", "share right"


def draw_seeds(tested: Tested, group: str) -> Figure:
    """Accuracy of every seed of a run by position."""
    points = tested.points()
    lines = []
    for seed in tested.seeds:
        xs, ys = zip(*((row["position"], row["accuracy"]) for row in points if row["seed"] == seed))
        lines.append(figures.Line(f"seed {seed}", list(xs), list(ys), list(ys), list(ys)))
    name = f"{NETWORKS[tested.network].title} on {group}"
    return figures.draw_panels(
        {name: figures.Panel(lines, across=tested.chance, upright=tested.trained)}, POSITION, RIGHT
    )


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
