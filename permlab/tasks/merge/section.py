"""Section of `task=merge`: barrier curves with spread, arms, R(gamma), singular values, accuracy against MACs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from permlab import figures
from permlab.reports.aggregate import Group, aggregated
from permlab.reports.collection import Collection, newest_tables, own_figures, words
from permlab.reports.document import Block, Figure
from permlab.reports.writer import Output
from permlab.tables import Row, counted, is_number, number_columns
from permlab.tasks.merge.table import ANALYSES, measured

TITLE = "Merging networks after permuting their units (merge)"
QUESTION = (
    "Can two networks be merged after permuting their units? "
    "(arXiv 2209.04836, 2402.04051, 2407.02447, 2305.03053, 2211.08403)"
)
TABLES = {
    "arms": (("width", "arm", "role"), "Every arm, mean ± standard deviation over pairs and runs"),
    "pleas": (("arm",), "Partial merges: every arm, mean ± standard deviation over pairs and runs"),
    "budgets": (("matching", "allocator", "budget"), "Least squares at equal budgets"),
    **{each.name: (each.keys, each.title) for each in measured(ANALYSES) if each.title},
}
"""Tables with one row per pair: the columns that say what a row is about, and the title of the means."""
ASIDE = ("run_seed", "pair", "seed", "match", "combine", "renorm", "solver", "note", "ratios", "pair_of")
OWN_TITLES = {"r_by_gamma": "R(gamma): alignment of the leading singular vectors, means over pairs"}
FIGURES = {
    "arms": "Every arm and control, with the spread over pairs",
    "arms_against_width": "Barriers against width",
    **{each.name: each.caption for each in measured(ANALYSES) if each.caption},
    "budgets": "Accuracy against multiply-accumulates (MACs) of partial merges, by allocation",
}

REPEATED = "pair"
"""What `repeats` counts, and the spread is over."""
UNITS = {"loss": " (nats)", "accuracy": ""}


def repeats(task: Mapping[str, Any]) -> int:
    """Return how many seeds stand inside one run: networks of our own come in `task.pairs` pairs."""
    return 1 if task.get("models") else task.get("pairs", 1)


def blocks(collection: Collection, out: Output) -> list[Block]:
    """Curves and arms over all pairs and runs of a configuration, then the other figures and tables."""
    made: list[Block] = []
    for group in collection.shown(out):
        figure = curves(collection, group, out)
        if figure:
            made.append(figure)
    made += own_figures(collection, out, list(FIGURES), lambda name: FIGURES.get(name, words(name)))
    for name, (keys, title) in TABLES.items():
        rows: list[Row] = []
        for group in collection.shown(out):
            first = {"configuration": group.label} if collection.many else {}
            rows += [{**first, **row} for row in means(group.rows(name), keys)]
        if rows:
            made.append(out.table(collection.prefix(name), rows, title))
    return made + newest_tables(collection, out, list(OWN_TITLES), OWN_TITLES)


def means(rows: list[Row], keys: tuple[str, ...]) -> list[Row]:
    """One row per arm with the Spread of every column of numbers."""
    present = [key for key in keys if any(row.get(key) is not None for row in rows)]
    return aggregated(rows, present, number_columns(rows, (*present, *ASIDE)))


def curves(collection: Collection, group: Group, out: Output) -> Figure | None:
    """Loss and accuracy on the line between the networks: mean over pairs and runs, shaded by their deviation."""
    rows = [row for row in group.rows("curves") if is_number(row.get("position")) and trained(row)]
    if not rows:
        return None
    chosen = "test" if any(row.get("set") == "test" for row in rows) else rows[0].get("set")
    tested = [row for row in rows if row.get("set") == chosen]
    shown = [key for key in ("loss", "accuracy") if any(is_number(row.get(key)) for row in tested)]
    figure, axes = figures.new(width=2, columns=len(shown), height=2.9, squeeze=False)
    said: list[str] = []
    for ax, key in zip(axes[0], shown):
        for arm in dict.fromkeys(str(row.get("arm")) for row in tested):
            own = [row for row in tested if str(row.get("arm")) == arm and is_number(row.get(key))]
            points = sorted((row["position"], row[key]) for row in aggregated(own, ("position",), (key,)))
            x, mean = [at for at, _ in points], [found.mean for _, found in points]
            low, high = ([found.mean + sign * (found.deviation or 0.0) for _, found in points] for sign in (-1, 1))
            ax.plot(x, mean, color=figures.color(arm), label=arm)
            ax.fill_between(x, low, high, color=figures.color(arm), alpha=0.18, linewidth=0)
            if key == "loss" and mean:
                said.append(f"{arm} {mean[len(mean) // 2]:.3g}")
        ax.set(xlabel="position between network A (0) and B (1)", ylabel=f"{chosen} {key}{UNITS[key]}")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    pairs = len({(row["run_seed"], row.get("pair")) for row in tested})
    caption = f"Barrier curves, mean ± standard deviation over {counted(pairs, 'pair')}. {group.label}."
    alt = f"Loss on the line between two networks; halfway: {', '.join(said) or 'no loss recorded'}"
    return out.figure(collection.prefix("barriers"), figure, alt, caption)


def trained(row: Row) -> bool:
    """Leave out the curves of untrained networks, which flatten all others."""
    return not str(row.get("arm")).startswith("untrained")
