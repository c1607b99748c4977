"""Section of `task=inverse_permutation`: error curves with floors, attention maps, scratch sweep, explicit weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from permlab import figures
from permlab.reports.aggregate import Group, series
from permlab.reports.collection import Collection, newest_tables, own_figures, words
from permlab.reports.document import Block, Figure
from permlab.reports.writer import Output
from permlab.tables import counted

TITLE = "Undoing a permutation (inverse_permutation)"
QUESTION = "Can a transformer undo a permutation, and what does the causal mask cost? (arXiv 2509.24125)"
TITLES = {
    "arms": "Arms: means over seeds, with exact floors and ceilings",
    "mechanisms": "Mechanisms of layer 1, each checked by ablation",
    "scratch_sweep": "Scratch rows, with the exact floor of each count",
    "depth": "Depth, heads and feed-forward blocks: means over seeds",
    "lengths_ends": "Problems of the size of training, and the largest",
    "construction": "Explicit two-layer weights",
    "combinations": "Architectures and readings at the same parameter budget",
    "fillers": "Filler tokens: accuracy over seeds, with the most the mask allows",
    "text": "A language model trained on shuffled words, before and after",
    "prompts": "Few-shot prompts",
}
FIGURES = {
    "attention_*": "Attention of every layer on one test example",
    "mechanisms": "Share of seeds per mechanism; accuracy with attention taken away",
    "scratch_sweep": "Error, accuracy and share of seeds at the floor against the number of scratch rows",
    "depth": "Test error against layers, from best to worst seed; floors dashed",
    "lengths": "Row accuracy against the size of the problem; the size of training dotted",
    "construction": "Error of the explicit weights against temperature",
    "combinations": "Accuracy of every architecture and reading, with the most the mask allows",
    "fillers": "Accuracy against the number of filler tokens, the most the mask allows dashed",
    "text": "Share of right places against training steps",
    "prompts": "Few-shot prompts: share of right lists and places against length",
}
SMALLEST = 1e-6


def repeats(task: Mapping[str, Any]) -> int:
    """Return how many seeds stand inside one run: training repeats every arm with `task.seeds`."""
    return task.get("seeds", 1) if task.get("mode") in ("train", "scratch_sweep", "depth", "lengths", "fillers") else 1


def blocks(collection: Collection, out: Output) -> list[Block]:
    """Curves over all runs and seeds, then the runs' own figures and tables."""
    made: list[Block] = []
    for group in collection.shown(out):
        figure = curves(collection, group, out)
        if figure:
            made.append(figure)
    made += own_figures(collection, out, list(FIGURES), describe)
    return made + newest_tables(collection, out, list(TITLES), TITLES)


def curves(collection: Collection, group: Group, out: Output) -> Figure | None:
    """Test error of every arm against steps: mean over all seeds, shaded from best to worst; floors dashed."""
    rows = group.rows("curves")
    arms = list(dict.fromkeys(str(row.get("arm")) for row in rows))
    if not arms:
        return None
    floors = {str(row.get("arm")): row.get("mse_floor") for row in group.newest.table("arms")}
    figure, ax = figures.new(width=2, height=3.0)
    said = []
    for number, arm in enumerate(arms):
        xs, means, lows, highs = series([r for r in rows if str(r.get("arm")) == arm], "step", "test_mse")
        if not xs:
            continue
        shade = figures.color(arm.partition("/")[0])
        same_colour = [a.partition("/")[0] for a in arms[:number]].count(arm.partition("/")[0])
        line = ("-", "-.", ":")[same_colour % 3]
        low, mean, high = ([max(v, SMALLEST) for v in values] for values in (lows, means, highs))
        ax.plot(xs, mean, line, color=shade, label=arm)
        ax.fill_between(xs, low, high, color=shade, alpha=0.15, linewidth=0)
        floor = floors.get(arm)
        if isinstance(floor, (int, float)) and floor > 0:
            ax.axhline(floor, color=shade, linestyle="--", linewidth=0.9, label=f"floor of {arm}: {floor:.4g}")
        said.append(f"{arm} ends at {means[-1]:.3g}" + (f" (floor {floor:.3g})" if floor else ""))
    ax.set(xlabel="training steps", ylabel="test error (squared, per row)", yscale="log")
    figures.readable_log(ax.yaxis)
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=6)
    seeds = len({(row["run_seed"], row.get("seed")) for row in rows})
    caption = (
        f"Test error, mean of {counted(seeds, 'seed')}, shaded from best to worst; exact floors dashed. {group.label}."
    )
    name = collection.prefix("error_curves")
    return out.figure(name, figure, f"Test error against steps: {'; '.join(said)}", caption)


def describe(name: str) -> str:
    """Return the caption of one of the runs' figures."""
    if name.startswith("attention_"):
        return f"{FIGURES['attention_*']}: {name.removeprefix('attention_').replace('_', ' ')}"
    return FIGURES.get(name, words(name))
