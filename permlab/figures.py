"""One look for every figure: `fig, ax = figures.new(); ax.plot(x, y, color=figures.color("weight matching"))`.

Sizes fit a text column: 3.4 inches for one (`width=1`), 7 inches for two, with 8 point type. Colours are Okabe and
Ito's palette with brown for its yellow, which is too light for lines: readers with any kind of colour blindness can
tell all of them apart (tests/test_figures.py computes it). A method keeps its colour in every figure: the one that its
row gives it (`registry.color_of`), and what is no method has a fixed one here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from permlab import registry

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

PALETTE = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "red": "#D55E00",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "brown": "#8B4513",
    "black": "#222222",
    "grey": "#666666",
}
FIXED = {
    # what is no method: controls and references are black or grey, the law blue
    "floor": "black",
    "published": "black",
    "ensemble": "black",
    "untrained": "black",
    "naive": "grey",
    "law": "blue",
    "simulated": "sky",
    # the two directions of a question
    "forward": "blue",
    "reverse": "orange",
    # a method and what follows it, beside the method alone
    "no permutation + reset": "brown",
    "weight matching + reset": "sky",
    "activation matching + reset": "purple",
}
"""Colours of names that have no row, as names of `PALETTE`."""
STYLE: dict[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "legend.frameon": False,
    "figure.dpi": 160,
    "svg.fonttype": "none",
    "svg.hashsalt": "permlab",
}
COLUMN_INCHES = {1: 3.4, 2: 7.0}
NARROW_LOG = 1000
"""Largest over smallest value up to which a logarithmic axis is labelled at 1, 2 and 5."""
SHORT_LOG = 5
"""The same up to which its labels are evenly spaced numbers: 1, 2 and 5 would leave one of them."""
SMALL = 6
"""Points of labels where many must fit; nothing is smaller."""


def new(
    width: int = 1, height: float | None = None, rows: int = 1, columns: int = 1, **subplots: Any
) -> tuple[Figure, Any]:
    """Return (figure, axes) one or two text columns wide; `height` in inches, by default 0.68 of a panel's width."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(STYLE)  # type: ignore[arg-type]  # its keys are spelled out in a Literal
    inches = COLUMN_INCHES[width]
    tall = height or rows * max(0.68 * inches / columns, 1.8)
    return plt.subplots(rows, columns, figsize=(inches, tall), layout="constrained", **subplots)


def color(method: str | registry.Row) -> str:
    """Return the colour of a method, by its row, name or label; names not listed get a stable one from the palette."""
    if isinstance(method, registry.Row):
        return PALETTE[method.color] if method.color else color(method.name)
    given = registry.color_of(method) or FIXED.get(method)
    if given:
        return PALETTE[given]
    names = [name for name in PALETTE if name not in ("black", "grey")]
    return PALETTE[names[hashlib.blake2b(method.encode(), digest_size=2).digest()[0] % len(names)]]


def numbered(number: int) -> str:
    """Return the colour of the first, second, ... of things that have no names of their own in other figures."""
    return list(PALETTE.values())[number % len(PALETTE)]


def readable_log(axis: Axis) -> None:
    """Label a logarithmic axis with plain numbers: evenly on a short one, at 1, 2 and 5, or at powers of ten.

    Matplotlib's own labels are `10^0` alone on a short axis, or `2 x 10^0, 3 x 10^0, 4 x 10^0` over each other.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    low, high = sorted(axis.get_view_interval())
    if low > 0 and high / low < NARROW_LOG:
        short = high / low < SHORT_LOG
        axis.set_major_locator(MaxNLocator(5) if short else LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def heat_map(
    ax: Axes, values: list[list[float]], rows: list[str], columns: list[str], low: float = 0, high: float = 1
) -> Any:
    """Draw a labelled matrix with its numbers in the cells; returns the image for a colour bar."""
    image = ax.imshow(values, cmap="cividis", vmin=low, vmax=high, aspect="auto")
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), rows)
    ax.grid(False)
    for i, line in enumerate(values):
        for j, value in enumerate(line):
            bright = (value - low) / (high - low or 1) > 0.55
            ax.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color="black" if bright else "white")
    return image


@dataclass(frozen=True)
class Line:
    """A curve with what it ranges over: `means`, and `lows` and `highs` around them."""

    name: str
    xs: Sequence[float]
    means: Sequence[float]
    lows: Sequence[float]
    highs: Sequence[float]


@dataclass(frozen=True)
class Panel:
    """Curves in one frame; `across` is a dashed height (a floor), `upright` a dotted place."""

    lines: list[Line]
    across: float | None = None
    upright: float | None = None


def draw_panels(panels: Mapping[str, Panel], x: str, y: str) -> Figure:
    """Draw shares from 0 to 1 in a panel per name; curves of one name have one colour in all, and one legend."""
    columns = 2 if len(panels) in (2, 4) else min(3, len(panels))
    rows = -(-len(panels) // columns)
    wide = 2 if columns > 1 else 1
    figure, axes = new(wide, 2.0 * rows + 0.6, rows, columns, sharey=True, squeeze=False)
    names = list(dict.fromkeys(line.name for panel in panels.values() for line in panel.lines))
    for ax, (title, panel) in zip(axes.flat, panels.items()):
        for line in panel.lines:
            number = names.index(line.name)
            style = ("-", "--", "-.")[number // len(PALETTE) % 3]
            ax.plot(line.xs, line.means, style, color=numbered(number), label=line.name)
            ax.fill_between(line.xs, line.lows, line.highs, color=numbered(number), alpha=0.15, linewidth=0)
        if panel.across is not None:
            ax.axhline(panel.across, color=color("floor"), linestyle="--", linewidth=0.9)
        if panel.upright is not None:
            ax.axvline(panel.upright, color=color("floor"), linestyle=":", linewidth=0.9)
        ax.set_title(title)
        ax.set_ylim(-0.03, 1.03)
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    for ax in axes[:, 0]:
        ax.set_ylabel(y)
    for number in range(max(0, len(panels) - columns), len(panels)):
        axes.flat[number].set_xlabel(x)
    handles = {name: handle for ax in axes.flat for handle, name in zip(*ax.get_legend_handles_labels())}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2 * wide, fontsize=SMALL)
    return figure


def arm_label(varied: Mapping[str, str]) -> str:
    """Name an arm by what was varied: words by themselves, numbers and switches with the last part of their key."""
    words = {"true", "false", "null"}
    parts = [
        f"{key.rpartition('.')[2]}={value}" if value in words or not value[:1].isalpha() else value
        for key, value in varied.items()
    ]
    return ", ".join(parts).replace("_", " ")
