"""Figures of `permlab task=merge`: barrier curves, arms side by side, arms against width over the jobs of a sweep."""

from __future__ import annotations

import statistics
from typing import Any

from permlab import figures, registry
from permlab.matching.table import MATCHES
from permlab.merging.arm import slug
from permlab.merging.table import RENORMS
from permlab.tables import Row, spread

QUANTITIES = (("loss", "loss (nats)"), ("accuracy", "accuracy"))


def _band(ax: Any, x: list[float], series: list[list[float]], label: str) -> None:
    """Mean over pairs with its standard deviation."""
    found = [each for values in series if (each := spread(values))]
    color = _color(label)
    ax.plot(x, [each.mean for each in found], color=color, label=label)
    if all(each.deviation is not None for each in found):
        low, high = ([each.mean + sign * (each.deviation or 0) for each in found] for sign in (-1, 1))
        ax.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)


def draw_curves(rows: list[Row]) -> Any:
    """Loss and accuracy on the line between the networks, training images above test images."""
    sets = [name for name in ("train", "test") if any(row["set"] == name for row in rows)]
    arms = [arm for arm in dict.fromkeys(row["arm"] for row in rows) if not arm.startswith("untrained")]
    fig, axes = figures.new(width=2, rows=len(sets), columns=2, height=2.3 * len(sets), squeeze=False, sharex=True)
    for line, name in zip(axes, sets):
        for ax, (key, words) in zip(line, QUANTITIES):
            for arm in arms:
                points: dict[float, list[float]] = {}
                for row in rows:
                    if row["set"] == name and row["arm"] == arm:
                        points.setdefault(row["position"], []).append(row[key])
                _band(ax, list(points), list(points.values()), arm)
            ax.set_ylabel(f"{name} {words}")
    for ax in axes[-1]:
        ax.set_xlabel("position between network A (0) and network B (1)")
    fig.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return fig


def _color(arm: str) -> str:
    """Colour of an arm: its own, else that of the way to combine, else that of the matching."""
    if arm.startswith("untrained"):
        return figures.color("untrained")
    match, _, combine = arm.partition(" + ")[0].partition(" at ")[0].partition(", ")
    known = next((name for name in (arm, combine, match) if name and registry.color_of(name)), arm)
    return figures.color(arm if arm in figures.FIXED else known)


def draw_arms(rows: list[Row]) -> Any:
    """Every arm: test accuracy of the merged network and its loss barrier; small points are single pairs."""
    arms = list(dict.fromkeys(row["arm"] for row in rows if not row["role"].endswith("endpoint")))
    ends = [row["midpoint_accuracy"] for row in rows if row["role"] == "endpoint"]
    fig, axes = figures.new(width=2, columns=2, height=0.6 + 0.24 * len(arms), sharey=True)
    for ax, key, words in zip(
        axes, ("midpoint_accuracy", "loss_barrier"), ("test accuracy of the merged network", "test loss barrier (nats)")
    ):
        for place, arm in enumerate(reversed(arms)):
            values = [row[key] for row in rows if row["arm"] == arm and row.get(key) is not None]
            if not values:
                continue
            ax.plot(values, [place] * len(values), ".", color=_color(arm), alpha=0.4, markersize=3)
            if found := spread(values):
                ax.errorbar(found.mean, place, xerr=found.deviation or 0.0, fmt="o", color=_color(arm))
        ax.set_xlabel(words)
    axes[0].set_yticks(range(len(arms)), list(reversed(arms)))
    if ends:
        axes[0].axvline(statistics.fmean(ends), color=figures.PALETTE["black"], linewidth=0.8, linestyle=":")
    axes[1].axvline(0, color=figures.PALETTE["black"], linewidth=0.8, linestyle=":")
    return fig


SWEPT = ("loss_barrier", "midpoint_accuracy")
SPELLED = {"naive": MATCHES["identity"].title} | {slug(row.title): row.title for row in MATCHES.values()}
"""Names of arms in metrics -> as figures spell them."""


def spelled(arm: str) -> str:
    """The name of an arm in tables and figures, from its name in metrics: `x_reset` -> `x + reset`."""
    for renorm in RENORMS:
        if arm.endswith(f"_{renorm}"):
            return f"{spelled(arm.removesuffix(f'_{renorm}'))} + {renorm}"
    return SPELLED.get(arm, arm.replace("_", " "))


def draw_sweep(key: str, groups: list[tuple[dict[str, str], list[dict[str, float]]]]) -> Any:
    """Loss barrier and midpoint accuracy of every arm against a varied number: mean and deviation over jobs."""
    fig, axes = figures.new(width=2, columns=2, height=2.8)
    order = sorted(groups, key=lambda group: float(group[0][key]))
    arms = [name.removesuffix("_loss_barrier") for name in order[0][1][0] if name.endswith("_loss_barrier")]
    arms = [arm for arm in arms if not arm.startswith("untrained") and not arm.endswith("train")]
    for ax, metric in zip(axes, SWEPT):
        for arm in arms:
            name = f"{arm}_{metric}"
            points = [(float(varied[key]), [m[name] for m in jobs if name in m]) for varied, jobs in order]
            points = [(x, values) for x, values in points if values]
            label = spelled(arm)
            found = [spread(values) for _, values in points]
            means, errors = [e.mean for e in found if e], [e.deviation or 0.0 for e in found if e]
            ax.errorbar([x for x, _ in points], means, errors, fmt="o-", color=_color(label), label=label, capsize=2)
        ax.set_xscale("log")
        ax.set_xticks([float(varied[key]) for varied, _ in order], [varied[key] for varied, _ in order])
        ax.minorticks_off()
        ax.set_xlabel(key)
    axes[0].set_ylabel("test loss barrier (nats)")
    axes[1].set_ylabel("test accuracy, merged network")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return fig
