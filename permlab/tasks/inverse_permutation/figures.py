"""Figures of `task=inverse_permutation`; each function returns a matplotlib figure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from permlab import figures
from permlab.probes.table import POSITIONS, READINGS, READOUTS, ROUTES, STYLES, VARIANTS
from permlab.tables import spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from permlab.probes import Training

_SMALLEST = 1e-6  # errors below are drawn here on logarithmic axes
_SMALLEST_EXPLICIT = 1e-40  # the same for explicit weights, which run in double precision


def _look(label: str) -> tuple[str, str]:
    """Colour of the variant and line of the readout: two readouts of one variant differ by their line."""
    variant, _, readout = label.partition("/")
    return figures.color(VARIANTS[variant]), READOUTS[readout].line if readout else "-"


def error_curves(trained: dict[str, Training]) -> Figure:
    """Test error of every seed against steps, with the exact floor of each arm."""
    from permlab.probes import mse_floor

    fig, ax = figures.new(width=2 if len(trained) > 2 else 1, height=2.8)
    lowest = 1.0
    for label, training in trained.items():
        steps = [test.step for test in training.curve]
        shade, line = _look(label)
        for k in range(len(training.seeds)):
            values = [max(test.test_mse[k], _SMALLEST) for test in training.curve]
            lowest = min(lowest, *values)
            ax.plot(steps, values, line, color=shade, linewidth=1, label=label if k == 0 else None)
        floor = mse_floor(training.model.layout, training.model.depth)
        if floor > 0:
            ax.axhline(floor, color=shade, linestyle="--", linewidth=0.9, label=f"floor of {label}: {floor:.4g}")
    ax.set_yscale("log")
    ax.set_ylim(bottom=lowest / 2)
    ax.set_xlabel("training steps")
    ax.set_ylabel("test error (squared, per row)")
    ax.set_title(f"n = {next(iter(trained.values())).model.layout.n}; arms without a dashed line have floor 0")
    if len(trained) > 2:
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    else:
        ax.legend()
    return fig


def attention_maps(training: Training) -> Figure:
    """Attention of every layer on the first test example of the first seed; the last layer only for the rows read."""
    import torch

    from permlab.probes.problem import heldout_batch

    model, layout = training.model, training.model.layout
    x, _ = heldout_batch(layout, 1, training.seeds[0])
    maps: list[torch.Tensor] = []
    with torch.no_grad():
        model.forward(model.unpack(training.weights.detach()[:1]), x[None].to(training.device), maps)
    fig, axes = figures.new(width=2, columns=model.depth, height=3.2, squeeze=False)
    for layer, (ax, attention) in enumerate(zip(axes[0], maps)):
        image = ax.imshow(attention[0, 0, 0].cpu().numpy(), cmap="cividis", vmin=0, vmax=1, aspect="auto")
        rows_read = layer == model.depth - 1
        ax.set_title(f"layer {layer + 1}" + (", rows that are read" if rows_read else ""))
        ax.set_xlabel("row attended to")
        ax.set_ylabel("output row j" if rows_read else "row")
        ax.grid(False)
        ax.yaxis.get_major_locator().set_params(integer=True)
        ax.xaxis.get_major_locator().set_params(integer=True)
        _mark_rows(ax, layout, vertical=True)
        if not rows_read:
            _mark_rows(ax, layout, vertical=False)
    fig.colorbar(image, ax=axes[0].tolist(), label="attention", shrink=0.8)
    return fig


def _mark_rows(ax: Axes, layout: Any, vertical: bool) -> None:
    """Draw the borders of the blocks of rows, and their names above."""
    n, before = layout.n, layout.before
    blocks = [
        ("scratch", 0, before),
        ("P", before, n),
        ("Y_P", before + n, n),
        ("scratch", before + 2 * n, layout.after),
    ]
    for name, start, size in blocks:
        if not size:
            continue
        line = ax.axvline if vertical else ax.axhline
        line(start - 0.5, color="white", linewidth=0.7)
        if vertical:
            where = (start + (size - 1) / 2, 0.02)
            ax.text(
                *where, name, transform=ax.get_xaxis_transform(), ha="center", color="white", fontsize=figures.SMALL
            )


def learned_matrices(training: Training) -> Figure:
    """The matrices A of every layer and W of the first seed, with the blocks of the residual stream named."""
    from permlab.probes import Transformer

    model = training.model
    assert isinstance(model, Transformer)
    parts = [part[0].detach().cpu() for part in model.unpack(training.weights)]
    fig, axes = figures.new(width=2, columns=model.depth + 1, height=3.0, squeeze=False)
    for layer, (ax, a) in enumerate(zip(axes[0], parts[:-1])):
        _matrix(ax, a[:, 0], f"A, layer {layer + 1}" + (", head 1" if model.heads > 1 else ""))
        _mark_blocks(ax, model.blocks(layer), both=True)
        ax.set_xlabel("key block")
        ax.set_ylabel("query block")
    ax = axes[0][-1]
    _matrix(ax, parts[-1], "W")
    _mark_blocks(ax, model.blocks(model.depth), both=False)
    ax.set_xlabel("output bit")
    ax.set_ylabel("stream block")
    return fig


def _matrix(ax: Axes, values: Any, title: str) -> None:
    extent = float(values.abs().quantile(0.999)) if values.numel() < 10_000_000 else float(values.abs().max())
    ax.imshow(values.numpy(), cmap="RdBu_r", vmin=-extent, vmax=extent, aspect="auto", interpolation="nearest")
    ax.set_title(f"{title} (colour range ±{extent:.2g})")
    ax.grid(False)


def _mark_blocks(ax: Axes, blocks: list[Any], both: bool) -> None:
    """Name the blocks of the stream on the axes and draw their borders."""
    centres = [(where.start + where.stop - 1) / 2 for _, where in blocks]
    names = [name for name, _ in blocks]
    ax.set_yticks(centres, names)
    if both:
        ax.set_xticks(centres, names, rotation=90 if len(names) > 2 else 0)
    for _, where in blocks[1:]:
        ax.axhline(where.start - 0.5, color=figures.PALETTE["grey"], linewidth=0.4)
        if both:
            ax.axvline(where.start - 0.5, color=figures.PALETTE["grey"], linewidth=0.4)


def scratch_sweep(rows: list[dict[str, Any]], n: int) -> Figure:
    """Error, row accuracy and share of seeds at the floor against the number of scratch rows, with exact floors."""
    fig, (left, right, rate) = figures.new(width=2, columns=3, height=3.0)
    for position in dict.fromkeys(row["position"] for row in rows):
        chosen = sorted((row for row in rows if row["position"] == position), key=lambda row: row["scratch_rows"])
        counts = [row["scratch_rows"] for row in chosen]
        shade = figures.color(POSITIONS[position])
        left.plot(counts, [r["test_mse"] for r in chosen], "o-", color=shade, label=f"trained, {position}")
        left.fill_between(
            counts, [r["test_mse_best"] for r in chosen], [r["test_mse_worst"] for r in chosen], color=shade, alpha=0.2
        )
        left.plot(counts, [r["mse_floor"] for r in chosen], "--", color=shade, label=f"exact floor, {position}")
        right.plot(counts, [r["row_accuracy"] for r in chosen], "o-", color=shade)
        right.plot(counts, [r["row_accuracy_ceiling"] for r in chosen], "--", color=shade)
        rate.plot(counts, [r["at_floor"] for r in chosen], "o-", color=shade)
        if any(r["at_floor"] != r["at_floor_restarted"] for r in chosen):
            after = [r["at_floor_restarted"] for r in chosen]
            rate.plot(counts, after, "s:", color=shade, fillstyle="none", label=f"with restarts, {position}")
    left.set_ylabel("test error (squared, per row)")
    right.set_ylabel("row accuracy (dashed: ceiling)")
    rate.set_ylabel("share of seeds at the floor")
    for ax in (left, right, rate):
        ax.axvline(n - 1, color=figures.color("floor"), linewidth=0.7, linestyle=":")
        ax.set_xlabel("scratch rows (dotted: n - 1)")
    left.set_title(f"n = {n}, last n rows read")
    rate.set_ylim(-0.03, 1.03)
    fig.legend(loc="outside lower center", ncols=4)
    return fig


def mechanisms(rows: list[dict[str, Any]], score: str) -> Figure:
    """Share of seeds per mechanism, and the score as trained and with attention taken away."""
    fig, (left, right) = figures.new(width=2, columns=2, height=max(2.0, 0.2 * len(rows) + 1))
    words = {"_others": ": all but own", "+": " + ", "|": " or "}
    names = []
    for row in rows:
        name = row["mechanism"]
        for sign, word in words.items():
            name = name.replace(sign, word)
        names.append(f"{row['arm']}   {name}")
    places = list(range(len(rows)))[::-1]
    shades = [figures.color(ROUTES[r]) if (r := _first_route(row["mechanism"])) else "0.7" for row in rows]
    left.barh(places, [row["share"] for row in rows], color=shades)
    for place, row in zip(places, rows):
        left.text(row["share"] + 0.02, place, f"{row['seeds']}", va="center", fontsize=figures.SMALL)
    left.set_yticks(places, names, fontsize=figures.SMALL)
    left.set(xlabel="share of seeds (number beside)", xlim=(0, 1.15), ylim=(-0.7, len(rows) - 0.3))
    looks = (("row_accuracy", "o", "as trained"), ("without_others", "^", "another route flattened"))
    for key, mark, label in (*looks, ("without_it", "x", "its own route flattened")):
        right.plot(
            [row[key] for row in rows], places, mark, color=figures.color("floor"), label=label, fillstyle="none"
        )
    right.set_yticks(places, [""] * len(places))
    right.set(xlabel=score, xlim=(-0.03, 1.05), ylim=left.get_ylim())
    fig.legend(loc="outside lower center", ncols=3)
    return fig


def _first_route(mechanism: str) -> str | None:
    """The route that gives a mechanism its colour."""
    route = re.split(r"[+|]", mechanism)[0].removesuffix("_others")
    return route if route in ROUTES else None


def construction(rows: list[dict[str, Any]], n: int) -> Figure:
    """Error of the explicit weights against temperature, floors dashed."""
    fig, ax = figures.new(width=1, height=2.6)
    for k, label in enumerate(dict.fromkeys(row["arm"] for row in rows)):
        chosen = [row for row in rows if row["arm"] == label]
        shade, _ = _look(label)
        # Arms often coincide: open marks of falling size show those below.
        look = {"color": shade, "marker": "osD^v<>"[k % 7], "fillstyle": "none", "markersize": max(3, 8 - 2 * k)}
        errors = [max(row["test_mse"], _SMALLEST_EXPLICIT) for row in chosen]
        ax.plot([row["temperature"] for row in chosen], errors, label=label, **look)
        if chosen[0]["mse_floor"] > 0:
            ax.axhline(chosen[0]["mse_floor"], color=shade, linestyle="--", linewidth=0.9, label=f"floor of {label}")
    ax.axhline(1e-6, color=figures.color("floor"), linestyle=":", linewidth=0.9, label="$10^{-6}$")
    ax.set_xscale("log")
    ax.set_yscale("log")
    betas = sorted({row["beta"] for row in rows})
    shown = [beta for k, beta in enumerate(betas) if k % 2 == 0 or len(betas) < 5]
    ax.set_xticks([1 / beta for beta in shown], [f"1/{beta:g}" for beta in shown])
    ax.minorticks_off()
    ax.set_xlabel("temperature 1/β")
    ax.set_ylabel("error (squared, per row)")
    ax.set_title(f"explicit two-layer weights, n = {n}")
    ax.legend()
    return fig


def combinations(results: list[dict[str, Any]], n: int) -> Figure:
    """Mean accuracy of every architecture and reading, a line from worst to best seed, its ceiling as a black mark."""
    fig, ax = figures.new(width=2, height=2.6)
    for k, row in enumerate(results):
        reading = READINGS[row["reading"]]
        first = reading.name not in [r["reading"] for r in results[:k]]
        ax.bar(k, row["accuracy"], color=figures.color(reading), label=reading.title if first else None)
        ax.hlines(row["ceiling"], k - 0.4, k + 0.4, color=figures.color("floor"), linewidth=1.2)
        ax.vlines(k, row["worst"], row["best"], color=figures.color("floor"), linewidth=0.9)
        ax.text(k, row["best"] + 0.03, f"{row['accuracy']:.2f}", ha="center", fontsize=figures.SMALL)
    ax.set_xticks(range(len(results)), [f"{r['architecture']}\n{READINGS[r['reading']].title}" for r in results])
    ax.set_ylim(0, 1.3)
    ax.set_ylabel("share of right symbols")
    ax.set_title(f"n = {n}; black mark: the most the mask allows")
    ax.legend(ncols=3, loc="upper left")
    return fig


def prompts(rows: list[dict[str, Any]]) -> Figure:
    """Exact match and accuracy per position against n, with chance."""
    fig, axes = figures.new(width=2, columns=2, height=2.6)
    sizes = sorted({row["n"] for row in rows})
    for ax, key, name in zip(axes, ("exact", "accuracy"), ("whole list right", "places right")):
        for style in dict.fromkeys(row["style"] for row in rows):
            chosen = sorted((row for row in rows if row["style"] == style), key=lambda row: row["n"])
            ax.plot(
                [r["n"] for r in chosen],
                [r[key] for r in chosen],
                "o-",
                color=figures.color(STYLES[style]),
                label=style,
            )
        chance = {row["n"]: row[f"chance_{key}"] for row in rows}
        ax.plot(sizes, [chance[n] for n in sizes], ":", color=figures.color("floor"), label="chance")
        ax.set_xticks(sizes)
        ax.set_xlabel("list length n")
        ax.set_ylabel(f"share of {name}" if key == "accuracy" else "share of lists right")
        ax.set_ylim(-0.03, 1.03)
    axes[0].legend()
    return fig


def scaling(groups: list[tuple[dict[str, str], list[dict[str, float]]]]) -> dict[str, Figure]:
    """Steps and seconds to the target against n, mean and deviation over jobs, for a sweep over task.n alone."""
    solved = [(metrics["n"], metrics) for _, jobs in groups for metrics in jobs if metrics.get("seeds_solved")]
    sizes = sorted({n for n, _ in solved})
    if len(sizes) < 2 or any(list(varied) != ["task.n"] for varied, _ in groups):
        return {}
    fig, axes = figures.new(width=2, columns=2, height=2.5)
    panels = (("steps_to_target", "steps to the target error"), ("train_seconds", "seconds for all seeds"))
    for ax, (name, label) in zip(axes, panels):
        found = [spread(m[name] for size, m in solved if size == n) for n in sizes]
        means, errors = [each.mean if each else 0 for each in found], [(each and each.deviation) or 0 for each in found]
        ax.errorbar(sizes, means, errors, fmt="o-", color=figures.color(VARIANTS["scratch"]), capsize=2)
        ax.set(xscale="log", xlabel="n", ylabel=label)
        ax.set_xticks(sizes, [str(int(n)) for n in sizes])
        ax.minorticks_off()
    axes[1].set_yscale("log")
    figures.readable_log(axes[1].yaxis)
    return {"scaling": fig}
