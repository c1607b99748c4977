"""Figures of the modes depth, lengths, fillers and text of `task=inverse_permutation`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from permlab import figures
from permlab.probes.table import ARCHITECTURES, ENCODINGS, STYLES

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def depth(rows: list[dict[str, Any]], n: int) -> Figure:
    """Test error of every shape against layers, one panel per arm: mean, bars from best to worst seed, floor dashed."""
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    fig, axes = figures.new(width=2, columns=len(arms), height=2.8, squeeze=False)
    layers = sorted({row["layers"] for row in rows})
    shapes = list(dict.fromkeys((row["heads"], row["mlp"], row["positions"]) for row in rows))
    heads = sorted({shape[0] for shape in shapes})
    one_kind = len({shape[2] for shape in shapes}) == 1
    for ax, arm in zip(axes[0], arms):
        for k, (head, mlp, positions) in enumerate(shapes):
            chosen = [
                r for r in rows if (r["arm"], r["heads"], r["mlp"], r["positions"]) == (arm, head, mlp, positions)
            ]
            # Shapes often coincide: each stands a little beside its number of layers.
            xs = [layers.index(r["layers"]) + 0.7 * ((k + 0.5) / len(shapes) - 0.5) for r in chosen]
            means = [r["test_mse"] for r in chosen]
            low = [r["test_mse"] - r["test_mse_best"] for r in chosen]
            high = [r["test_mse_worst"] - r["test_mse"] for r in chosen]
            shade = figures.numbered(heads.index(head)) if one_kind else figures.color(ENCODINGS[positions])
            label = f"{head} head{'s' if head > 1 else ''}, {'mlp' if mlp else 'no mlp'}"
            look = {"color": shade, "fillstyle": "full" if mlp else "none", "markersize": 4, "capsize": 1.5}
            label += "" if one_kind else f", {positions}"
            ax.errorbar(xs, means, [low, high], fmt="o" if mlp else "s", linewidth=0.8, label=label, **look)
        floor = next(row["mse_floor"] for row in rows if row["arm"] == arm)
        ax.axhline(floor, color=figures.color("floor"), linestyle="--", linewidth=0.9)
        ax.set_xticks(range(len(layers)), [str(number) for number in layers])
        ax.set_xlim(-0.6, len(layers) - 0.4)
        ax.set(xlabel="layers", title=f"{arm}, n = {n}; dashed: exact floor {floor:.3g}")
        ax.set_ylim(bottom=-0.03)
    axes[0][0].set_ylabel("test error (squared, per row)")
    axes[0][-1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=figures.SMALL)
    return fig


def lengths(rows: list[dict[str, Any]], trained: int) -> Figure:
    """Row accuracy against the size of the problem, shaded from worst to best seed; the size of training dotted."""
    fig, ax = figures.new(width=2, height=2.8)
    for k, label in enumerate(dict.fromkeys(row["network"] for row in rows)):
        chosen = [row for row in rows if row["network"] == label]
        sizes = [row["size"] for row in chosen]
        name, _, places = label.partition("/")
        shade = figures.color(ENCODINGS[name]) if name in ENCODINGS else figures.color("floor" if k == 0 else "green")
        line = {"prefix": "s--", "spread": "o-"}.get(places, "-")
        ax.plot(sizes, [row["row_accuracy"] for row in chosen], line, color=shade, label=label, markersize=3)
        low, high = [row["row_accuracy_worst"] for row in chosen], [row["row_accuracy_best"] for row in chosen]
        ax.fill_between(sizes, low, high, color=shade, alpha=0.12, linewidth=0)
    ax.axvline(trained, color=figures.color("floor"), linewidth=0.7, linestyle=":")
    ax.set(xlabel="rows of the problem (dotted: in training)", ylabel="row accuracy", ylim=(-0.03, 1.03))
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return fig


def fillers(rows: list[dict[str, Any]], n: int) -> Figure:
    """Accuracy against filler tokens, shaded from worst to best seed; the most that the mask allows dashed."""
    fig, ax = figures.new(width=1, height=2.8)
    for k, name in enumerate(dict.fromkeys(row["architecture"] for row in rows)):
        chosen = sorted((row for row in rows if row["architecture"] == name), key=lambda row: row["fillers"])
        counts, shade = [row["fillers"] for row in chosen], figures.numbered(k)
        ax.plot(counts, [row["accuracy"] for row in chosen], "o-", color=shade, label=ARCHITECTURES[name].title)
        low, high = [row["worst"] for row in chosen], [row["best"] for row in chosen]
        ax.fill_between(counts, low, high, color=shade, alpha=0.2, linewidth=0)
        ceilings = [row["ceiling"] for row in chosen]
        ax.plot(counts, ceilings, "--", color=figures.color("floor"), linewidth=0.9)
    ax.axvline(n - 1, color=figures.color("floor"), linewidth=0.7, linestyle=":")
    ax.set(xlabel="filler tokens (dotted: n - 1)", ylabel="share of right symbols (dashed: ceiling)", ylim=(0, 1.05))
    ax.set_title(f"n = {n}, last n tokens read")
    ax.legend(loc="lower right")
    return fig


def text(rows: list[dict[str, Any]], n: int) -> Figure:
    """Share of right places against training steps, a line for each style, chance dotted."""
    fig, ax = figures.new(width=1, height=2.6)
    for style in dict.fromkeys(row["style"] for row in rows):
        chosen = [row for row in rows if row["style"] == style]
        steps, values = [row["step"] for row in chosen], [row["accuracy"] for row in chosen]
        ax.plot(steps, values, "o-", color=figures.color(STYLES[style]), label=style)
    ax.axhline(1 / n, color=figures.color("floor"), linestyle=":", linewidth=0.9, label="chance")
    ax.set(xlabel="training steps", ylabel="share of places right", ylim=(-0.03, 1.03), title=f"{n} shuffled words")
    ax.legend()
    return fig
