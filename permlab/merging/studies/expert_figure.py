"""Figure of `task.study=experts`: `draw_experts(means)`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from permlab import figures
from permlab.tables import Row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure


def draw_experts(means: Sequence[Row]) -> Figure:
    """Loss on held-out text against the experts that stay, one line per arm.

    Args:
        means: rows by number kept and arm, with deviations over networks.
    """
    figure, ax = figures.new(width=2, height=2.9)
    whole = means[0]
    colors = [value for name, value in figures.PALETTE.items() if name != "black"]
    for number, arm in enumerate(dict.fromkeys(str(row["arm"]) for row in means[1:])):
        own = [row for row in means if row["arm"] == arm]
        ax.errorbar(
            [row["kept"] for row in own],
            [row["loss"] for row in own],
            yerr=[row["loss_sd"] or 0.0 for row in own],
            fmt="o-",
            color=colors[number % len(colors)],
            label=arm,
            capsize=2,
        )
    ax.axhline(whole["loss"], color=figures.PALETTE["black"], linewidth=0.8, linestyle=":", label=str(whole["arm"]))
    ax.set_xticks(sorted({int(row["kept"]) for row in means[1:]}))
    ax.set_xlabel(f"experts kept of {whole['kept']} in every layer")
    ax.set_ylabel("loss on held-out text (nats per token)")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure
