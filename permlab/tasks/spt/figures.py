"""Figures of `permlab task=spt`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from permlab import figures
from permlab.models.table import OBJECTIVES
from permlab.reports.naming import arm_names
from permlab.tables import is_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMS = ("child_parent_of", "child_child_of", "parent_parent_of", "parent_child_of")
"""Surface forms of `dataset.forms=matrix`, in the order of `dataset.train_form`: first entity, relation word."""

MASKED = next(row.title for row in OBJECTIVES.values() if row.masked)
IN_TEXT = "reverse, covered in its text"
"""What only a masked model can be asked: what stood first, with the rest of the text as it was read."""


def units_histogram(histogram: dict[int, int]) -> Figure:
    """Draw units per text against the number of texts."""
    figure, ax = figures.new()
    ax.bar(list(histogram), list(histogram.values()), color=figures.color("spt"), width=0.8)
    frame_units(ax, histogram)
    return figure


def frame_units(ax: Axes, units: Iterable[Any]) -> None:
    """Frame a histogram of units by its own bars: one alone would fill the axes, and whole numbers need whole ticks."""
    from matplotlib.ticker import MaxNLocator

    found = [unit for unit in units if is_number(unit)] or [0]
    ax.set_xlim(min(found) - 2, max(found) + 2)
    ax.set(xlabel="units per text", ylabel="texts")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def training_loss(points: list[tuple[int, float]], order: str) -> Figure:
    """Draw the training loss against the step."""
    figure, ax = figures.new()
    ax.plot(*zip(*points), color=figures.color(order))
    ax.set(xlabel="step", ylabel="training loss (nats per token)")
    return figure


def recall_curve(rounds: list[dict[str, Any]]) -> Figure:
    """Draw forward and reverse accuracy against the step."""
    figure, ax = figures.new()
    for direction in ("forward", "reverse"):
        points = [(each["step"], each[f"{direction}_accuracy"]) for each in rounds if f"{direction}_accuracy" in each]
        if points:
            ax.plot(*zip(*points), marker=".", color=figures.color(direction), label=direction)
    ax.set(xlabel="step", ylabel="accuracy", ylim=(-0.03, 1.03))
    ax.legend()
    return figure


def recall_bars(rows: list[dict[str, Any]]) -> Figure:
    """Draw accuracy per direction, group and kind of answer."""
    figure, ax = figures.new(width=2, height=0.5 + 0.24 * len(rows))
    places = range(len(rows))[::-1]
    labels = []
    for place, row in zip(places, rows):
        wording = {"held_out": ", held-out wording", "in_text": ", covered in its text"}.get(row["wording"], "")
        labels.append(f"{row['direction']}: {row['group']} \u2192 {row['asked']}{wording}".replace("_", " "))
        ax.barh(place, row["accuracy"], color=figures.color(row["direction"]), height=0.7)
        ax.text(row["accuracy"] + 0.01, place, f"{row['accuracy']:.2f}", va="center", fontsize=7)
    ax.set_yticks(places, labels)
    ax.set(xlim=(0, 1.08), xlabel="accuracy (the answer, word for word)")
    ax.grid(axis="y", visible=False)
    return figure


def order_matrix(groups: list[tuple[dict[str, str], list[dict[str, float]]]]) -> dict[str, Figure]:
    """Draw trained form x asked form, when the sweep varied the trained form; else nothing."""
    rows = {}
    for varied, metrics in groups:
        form = varied.get("dataset.train_form")
        if form is not None and metrics and f"form_{FORMS[0]}" in metrics[0]:
            rows[FORMS[int(form)]] = [sum(m[f"form_{f}"] for m in metrics) / len(metrics) for f in FORMS]
    if not rows:
        return {}
    figure, ax = figures.new(width=2, height=2.6)
    names = {form: form.replace("_", " first, ", 1).replace("_", " ") for form in FORMS}
    image = figures.heat_map(ax, list(rows.values()), [names[f] for f in rows], [names[f] for f in FORMS])
    ax.set(xlabel="form asked", ylabel="form trained")
    ax.tick_params(axis="x", labelsize=figures.SMALL)
    figure.colorbar(image, ax=ax, label="accuracy")
    return {"order_matrix": figure}


def recall_by_arm(groups: list[tuple[dict[str, str], list[dict[str, float]]]]) -> dict[str, Figure]:
    """Draw forward and reverse accuracy (mean, and every seed as a dot) for what the sweep varied."""
    arms = [(varied, metrics) for varied, metrics in groups if metrics and "reverse_accuracy" in metrics[0]]
    if len(arms) < 2:
        return {}
    figure, ax = figures.new(width=2, height=0.6 + 0.34 * len(arms))
    for place, (_, metrics) in enumerate(reversed(arms)):
        for direction, shift in (("forward", 0.2), ("reverse", -0.2)):
            values = [m[f"{direction}_accuracy"] for m in metrics]
            label = direction if place == 0 else None
            mean = sum(values) / len(values)
            ax.barh(place + shift, mean, height=0.36, color=figures.color(direction), label=label)
            ax.plot(values, [place + shift] * len(values), "o", color=figures.PALETTE["black"], markersize=2)
            ax.text(max(mean, *values) + 0.015, place + shift, f"{mean:.2f}", va="center", fontsize=7)
        if in_text := [m["reverse_accuracy_in_text"] for m in metrics if "reverse_accuracy_in_text" in m]:
            # What only a masked model can be asked; without it, its bar would say that it knows nothing in reverse.
            value = sum(in_text) / len(in_text)
            ax.plot(value, place - 0.2, "D", color=figures.color("reverse"), mfc="none", markersize=5, label=IN_TEXT)
            ax.text(value + 0.02, place - 0.2, f"{value:.2f}", va="center", fontsize=7)
    masked = [MASKED if "reverse_accuracy_in_text" in metrics[0] else "" for _, metrics in arms]
    ax.set_yticks(range(len(arms)), arm_names([varied for varied, _ in arms], masked, figures.arm_label)[::-1])
    ax.set(xlim=(0, 1.1), xlabel="accuracy (the answer, word for word)")
    ax.grid(axis="y", visible=False)
    ax.legend(ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    return {"recall_by_arm": figure}
