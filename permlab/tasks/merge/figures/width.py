"""Figure of `task.study=width`: `draw_width(means, weight_decay)`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from permlab import figures
from permlab.tables import Row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

PANELS = (("loss_barrier", "test loss barrier (nats)"), ("accuracy_barrier", "test accuracy barrier"))


def draw_width(means: Sequence[Row], weight_decay: float) -> Figure:
    """Loss and accuracy barriers against the width: solid as they are, dashed with calibrated outputs.

    Args:
        means: rows by width and arm, with deviations over pairs.
        weight_decay: of the training, which the axis says.
    """
    widths = list(dict.fromkeys(line["width"] for line in means))
    figure, axes = figures.new(width=2, columns=2, height=2.9)
    for ax, (key, words) in zip(axes, PANELS):
        for arm in dict.fromkeys(line["arm"] for line in means):
            own = [line for line in means if line["arm"] == arm]
            ax.errorbar(
                [line["width"] for line in own],
                [line[key] for line in own],
                yerr=[line[f"{key}_sd"] or 0.0 for line in own],
                fmt="o--" if arm.endswith("calibrated") else "o-",
                color=figures.color(arm.removesuffix(", calibrated")),
                label=arm,
                capsize=2,
            )
        ax.axhline(0, color=figures.PALETTE["black"], linewidth=0.8, linestyle=":")
        ax.set_xscale("log")
        ax.set_xticks(widths, [f"{width:g}" for width in widths])
        ax.minorticks_off()
        ax.set_xlabel(f"width (weight decay {weight_decay:g})")
        ax.set_ylabel(words)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure
