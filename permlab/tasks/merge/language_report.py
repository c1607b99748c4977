"""Tables, numbers and figures of merged language models."""

from __future__ import annotations

import math
import statistics
from typing import Any

from permlab import figures
from permlab.config import Config
from permlab.runs.run import Run
from permlab.tasks.merge.language import arms_of

Row = dict[str, Any]
SHOWN = ("texts", "arm", "perplexity", "loss", "accuracy", "loss_barrier", "l2_reduction")
AVERAGED = (
    "perplexity", "loss", "accuracy", "loss_barrier", "accuracy_barrier", "midpoint_loss", "midpoint_accuracy",
    "l2_reduction", "seconds_matching",
)  # fmt: skip


def report(config: Config, run: Run, rows: list[Row], curves: list[Row]) -> None:
    """arms.csv, curves.csv, summary.csv, the figure and the headline numbers."""
    run.table("arms", rows, show=False)
    if curves:
        run.table("curves", curves, show=False)
    table = means(rows)
    run.table("summary", table, title="Perplexity after merging, mean over pairs", columns=list(SHOWN))
    run.summary(**headline(config, rows))
    if curves:
        run.figure("barrier", barrier_figure(curves))


def means(rows: list[Row]) -> list[Row]:
    """Mean and standard deviation over pairs by set of texts and arm; perplexity is that of the mean loss."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["texts"], row["arm"]), []).append(row)
    table = []
    for (texts, arm), members in groups.items():
        line: Row = {"texts": texts, "arm": arm, "pairs": len(members)}
        for name in AVERAGED:
            values = [row[name] for row in members if name in row]
            if values:
                line[name] = statistics.fmean(values)
                line[f"{name}_sd"] = statistics.stdev(values) if len(values) > 1 else 0.0
        line["perplexity"] = math.exp(min(line["loss"], 700.0))
        table.append(line)
    return table


def headline(config: Config, rows: list[Row]) -> dict[str, float]:
    """Numbers of result.json: means over pairs on the test texts; perplexities are those of mean losses."""
    first = arms_of(config)[0].label
    numbers: dict[str, float] = {"pairs": len({row["pair"] for row in rows})}
    tested = [row for row in rows if row["texts"] == "test"]

    def mean(arm: str, name: str) -> float | None:
        values = [row[name] for row in tested if row["arm"] == arm and name in row]
        return statistics.fmean(values) if values else None

    def add(prefix: str, arm: str, names: tuple[str, ...]) -> None:
        for name in names:
            value = mean(arm, name)
            if value is not None:
                numbers[prefix + name] = value
        if prefix + "midpoint_loss" in numbers:
            numbers[prefix + "midpoint_perplexity"] = math.exp(min(numbers[prefix + "midpoint_loss"], 700.0))

    barriers = ("loss_barrier", "accuracy_barrier", "midpoint_loss", "midpoint_accuracy")
    add("", first, (*barriers, "l2_reduction", "moved", "seconds_matching"))
    add("naive_", "no permutation", barriers)
    add("random_", "random permutation", barriers)
    add("activation_", "activation matching", barriers)
    add("untrained_", "untrained", ("loss", "l2_reduction"))
    add("ensemble_", "ensemble", ("loss",))
    plain = [row for row in tested if "loss_barrier" not in row and row["arm"] not in ("untrained", "ensemble")]
    numbers["endpoint_loss"] = statistics.fmean(row["loss"] for row in plain)
    numbers["endpoint_accuracy"] = statistics.fmean(row["accuracy"] for row in plain)
    for name in ("endpoint", "untrained", "ensemble"):
        if f"{name}_loss" in numbers:
            numbers[f"{name}_perplexity"] = math.exp(min(numbers[f"{name}_loss"], 700.0))
    changes = [row["end_change"] for row in rows if "end_change" in row]
    if changes:
        numbers["largest_end_change"] = max(changes)
    return numbers


def barrier_figure(curves: list[Row]) -> Any:
    """Perplexity on the line between the networks, one thin line per pair, on the test texts."""
    from matplotlib.ticker import LogLocator, NullFormatter

    fig, ax = figures.new()
    seen = set()
    for pair in dict.fromkeys(row["pair"] for row in curves):
        for arm in dict.fromkeys(row["arm"] for row in curves):
            points = [r for r in curves if (r["pair"], r["arm"], r["texts"]) == (pair, arm, "test")]
            label = None if arm in seen else arm
            seen.add(arm)
            losses = [math.exp(min(row["loss"], 700.0)) for row in points]
            ax.plot([row["position"] for row in points], losses, color=figures.color(arm), alpha=0.8, label=label)
    ax.set(xlabel="position between the networks (0 = A, 1 = matched B)", ylabel="perplexity on test texts")
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=2)
    return fig
