"""`permlab task=ntk task.mode=maps`: ensemble sizes of other networks, noisy labels and exact addition, by law."""

from __future__ import annotations

from typing import TYPE_CHECKING

from permlab import figures
from permlab.config import Config
from permlab.ntk.maps import MapLaw, Network, addition_size, permutation_counts
from permlab.ntk.sizes import percent
from permlab.runs.run import Run
from permlab.tables import Row
from permlab.tasks.ntk.settings import NtkConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VARIANTS: dict[str, tuple[str, Network, float]] = {
    "published": ("published", Network(), 0.0),
    "bias_01": ("biases of sd 0.1", Network(bias=0.1), 0.0),
    "bias_03": ("biases of sd 0.3", Network(bias=0.3), 0.0),
    "two_layers": ("two hidden layers", Network(hidden_layers=2), 0.0),
    "noise_01": ("label noise of sd 0.1", Network(), 0.1),
    "noise_03": ("label noise of sd 0.3", Network(), 0.3),
}
"""End of the metric's name -> words, network and label noise that every network draws anew."""
ADDITION = "one step of addition, k / 4 bits"
SHARED = 0.01
"""Standard deviation of the noise that all networks share."""


def run_maps(config: Config[NtkConfig], run: Run) -> None:
    """Table, figure and headline numbers of the largest k with the first `ones`."""
    task, ones, largest = config.task, config.task.ones[0], max(config.task.k)
    rows = [row for k in sorted(set(task.k)) for row in rows_of(k, ones, task.target)]
    title = f"networks to {percent(task.target)} of inputs with {ones} ones (additions: uniformly drawn numbers)"
    run.table("ensemble_size", rows, title=title)
    last = {row["variant"]: row["ensemble_size"] for row in rows if row["k"] == largest}
    run.summary(**{f"size_{name}": last[words] for name, (words, *_) in VARIANTS.items()})
    added = [row["ensemble_size"] for row in rows if row["variant"] == ADDITION]
    if added:
        run.summary(size_addition_shortest=added[0], size_addition_longest=added[-1])
    ceiling = MapLaw(largest, ones, noise=SHARED, shared=True).ceiling(*permutation_counts(largest, ones))
    run.summary(ceiling_shared_noise=ceiling)
    run.say(f"k={largest}, noise of sd {SHARED} in labels that all networks share: at most {ceiling:.2g} right")
    run.figure("sizes_of_variants", draw(rows, task.target))


def rows_of(k: int, ones: int, target: float) -> list[Row]:
    """One row per variant for one k."""
    counts = permutation_counts(k, ones)
    sizes = {
        words: MapLaw(k, ones, network, noise).ensemble_size(*counts, target)
        for words, network, noise in VARIANTS.values()
    }
    if k % 4 == 0 and k >= 8:
        sizes[ADDITION] = addition_size(k // 4, target)
    plain = sizes["published"]
    return [
        {"k": k, "variant": name, "ensemble_size": size, "over_published": size / plain} for name, size in sizes.items()
    ]


def draw(rows: list[Row], target: float) -> Figure:
    """Networks against k, a line per variant."""
    figure, ax = figures.new(width=2, height=3.4)
    for name in dict.fromkeys(row["variant"] for row in rows):
        own = [row for row in rows if row["variant"] == name]
        style = {"color": "black", "linewidth": 2} if name == "published" else {}
        ax.plot([row["k"] for row in own], [row["ensemble_size"] for row in own], ".-", label=name, **style)
    ax.set(xlabel="training inputs k", ylabel=f"networks N to {percent(target)}", xscale="log", yscale="log")
    sizes = sorted({row["k"] for row in rows})
    ax.set_xticks(sizes, [f"{k:,}" for k in sizes])
    ax.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    ax.yaxis.set_major_formatter("{x:,g}")
    figure.legend(loc="outside right upper")
    return figure
