"""Figures of `task.study=real`: three domains as bars; drift, module types and predicted against measured loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from permlab import figures
from permlab.adapters.real.domains import ALL, CONTROLS, DOMAINS
from permlab.tables import Row
from permlab.tasks.lora_lego.figures import color_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LINES = ("-", "--", ":", "-.")


def draw_domains(means: Sequence[Row]) -> Figure:
    """Exact match of every merge in the three domains; references as level lines.

    Args:
        means: rows of `domain`, `task`, `method`, `family`, `scale_rule`, `exact`, `exact_sd`.
    """
    whole = [row for row in means if row["task"] == ALL]
    methods = list(dict.fromkeys(row["method"] for row in whole if row["method"] not in CONTROLS))[::-1]
    fig, axes = figures.new(width=2, columns=len(DOMAINS), height=0.2 * len(methods) + 1.4, sharey=True)
    for ax, domain in zip(axes, DOMAINS):
        part = {(row["method"], row["scale_rule"]): row for row in whole if row["domain"] == domain}
        bars = [part[method, "tuned"] for method in methods]
        ax.barh(
            range(len(methods)),
            [row["exact"] for row in bars],
            xerr=[row["exact_sd"] or 0.0 for row in bars],
            color=[color_of(row["family"]) for row in bars],
            error_kw={"elinewidth": 0.8},
            height=0.72,
        )
        plain = [part[method, "1"]["exact"] for method in methods]
        ax.plot(plain, range(len(methods)), "|", color=figures.PALETTE["black"], markersize=8, label="scale 1")
        for name, style in zip(CONTROLS, _LINES):
            if (name, "1") in part:
                ax.axvline(part[name, "1"]["exact"], color=figures.PALETTE["black"], ls=style, lw=1, label=name)
        ax.set_yticks(range(len(methods)), methods, fontsize=figures.SMALL)
        ax.set_xlim(0, 1)
        ax.set_title(domain)
    axes[1].set_xlabel("questions answered exactly; bars: scale tuned on validation questions")
    lines = axes[0].get_legend_handles_labels()
    fig.legend(*lines, loc="outside lower center", ncols=5, fontsize=figures.SMALL, handlelength=3)
    return fig


def draw_interference(
    types: Sequence[Row], drift: Sequence[Row], predicted: Sequence[Row], correlation: Mapping[str, float]
) -> Figure:
    """Drift of each layer, error by type of module, and predicted against measured loss of every merge."""
    fig, axes = figures.new(width=2, columns=3, height=3.1)
    methods = list(dict.fromkeys(row["method"] for row in drift))
    kinds = list(dict.fromkeys(row["type"] for row in types))
    for number, method in enumerate(methods):
        shade, style = figures.numbered(number), "o^sDvP*X<>"[number % 10]
        own = [row for row in drift if row["method"] == method]
        axes[0].plot(
            [row["layer"] for row in own], [row["drift"] for row in own], f"{style}-", color=shade, label=method
        )
        by_type = {row["type"]: row["predicted"] for row in types if row["method"] == method}
        axes[1].plot([by_type[kind] for kind in kinds], range(len(kinds)), style, color=shade)
        points = [row for row in predicted if row["method"] == method]
        x, y = [row["predicted"] for row in points], [row["lost_log_probability"] for row in points]
        axes[2].plot(x, y, style, color=shade, alpha=0.8)
    axes[0].set_xticks(sorted({row["layer"] for row in drift}))
    axes[0].set(xlabel="layer (0: embedding)", ylabel="drift of the output, scale 1")
    axes[1].set_yticks(range(len(kinds)), kinds, fontsize=figures.SMALL)
    axes[1].set(xlabel="predicted error, scale 1", xscale="log")
    axes[2].set(xlabel="predicted error", ylabel="lost log-probability (nats)", xscale="log")
    said = "rank correlation {correlation:.2f} [{correlation_low:.2f}, {correlation_high:.2f}]"
    axes[2].set_title(said.format(**correlation), fontsize=7)
    for ax in axes[1:]:
        figures.readable_log(ax.xaxis)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=figures.SMALL)
    return fig
