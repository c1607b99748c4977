"""Section of `task=spt`: leaderboard, accuracy by order and direction, order matrix, units, training curves."""

from __future__ import annotations

from typing import Any

from permlab import figures
from permlab.reports.aggregate import series
from permlab.reports.collection import Collection, newest_tables
from permlab.reports.document import Block, Figure
from permlab.reports.writer import Output
from permlab.tables import Row, counted
from permlab.tasks.spt.figures import IN_TEXT, frame_units
from permlab.tasks.spt.leaderboard import DIRECTIONS, drawn, objective, standings

TITLE = "Semantic-aware permutation training (spt)"
QUESTION = "Does training on permuted semantic units cure the reversal curse? (arXiv 2403.00758)"


def blocks(collection: Collection, out: Output) -> list[Block]:
    """Accuracy, units and curves over all finished runs; the comparison figures come before."""
    made: list[Block] = [
        block
        for block in (*board(collection, out), recall(collection, out), units(collection, out), curves(collection, out))
        if block is not None
    ]
    titles = {"likelihood": "Log-probability of the true minus a shuffled answer (nats), newest run"}
    return made + newest_tables(collection, out, ["likelihood"], titles)


def board(collection: Collection, out: Output) -> list[Block]:
    """One table and one figure of all configurations, where there are several."""
    rows = standings(collection.groups) if collection.many else []
    if not rows:
        return []
    note = (
        "Right answers, 95 % intervals by bootstrap over facts of all seeds; forgotten: nats a token on general text."
    )
    shown = (*DIRECTIONS, *([IN_TEXT] if any(IN_TEXT in row for row in rows) else []))
    if IN_TEXT in shown:
        note += " Of a masked model, a control and no order, reverse is asked in the wording of the other order too."
    first = dict.fromkeys(("configuration", *shown))  # in this order, also where the first row has not all of them
    words = [{**first, **row, **{each: str(row.get(each) or "") for each in shown}} for row in rows]
    alt = "Forward and reverse recall: " + "; ".join(f"{w['configuration']} reverse {w['reverse']}" for w in words[:20])
    return [
        out.table(collection.prefix("leaderboard"), words, "Leaderboard", note=note),
        out.figure(collection.prefix("recall-intervals"), drawn(rows), alt, "Recall with intervals over facts."),
    ]


def recall(collection: Collection, out: Output) -> Block | None:
    """Accuracy of every kind of question, by configuration: mean and spread over seeds."""
    rows: list[Row] = []
    for group in collection.groups:
        keys = ("wording", "direction", "group", "asked")
        for row in group.aggregated("recall", keys, ("accuracy", "bleu", "queries")):
            asked = {key: str(row[key] or "").replace("_", " ") for key in keys}
            queries = row["queries"].mean if row["queries"] else None
            rows.append({"configuration": group.label, **asked, **{k: row[k] for k in ("accuracy", "bleu")}})
            rows[-1]["questions"] = queries
    if not rows:
        return None
    note = "Accuracy: the answer starts exactly as asked. Questions: per run."
    return out.table(collection.prefix("recall"), rows, "Accuracy by order and direction", note=note)


def units(collection: Collection, out: Output) -> Figure | None:
    """Units per text, one line of marks per segmentation that occurs."""
    found: dict[tuple[tuple[Any, Any], ...], list[str]] = {}
    for group in collection.groups:
        rows = tuple((row.get("units"), row.get("texts")) for row in group.newest.table("units_histogram"))
        if rows:
            found.setdefault(rows, []).append(group.label)
    if not found:
        return None
    figure, ax = figures.new(width=2 if len(found) > 1 else 1, height=2.4)
    width = 0.8 / len(found)
    for number, (rows, labels) in enumerate(found.items()):
        label = labels[0] if len(labels) == 1 else f"{labels[0]} and {len(labels) - 1} more with the same units"
        shift = (number - (len(found) - 1) / 2) * width
        marks = [unit + shift for unit, _ in rows], [count for _, count in rows]
        ax.bar(*marks, width=width, color=figures.numbered(number), label=label)
    frame_units(ax, [unit for rows in found for unit, _ in rows])
    if len(found) > 1:
        ax.legend(fontsize=6)
    alt = "Histogram of units per text: " + "; ".join(
        f"{len(rows)} bars for {labels[0]}" for rows, labels in found.items()
    )
    return out.figure(collection.prefix("units"), figure, alt, "Units per text after segmentation.")


def curves(collection: Collection, out: Output) -> Figure | None:
    """Training loss against the step: mean over seeds, shaded from the lowest to the highest seed."""
    drawn = []
    causal = [group for group in collection.groups if not objective(group).masked]
    for group in (causal or collection.groups)[:12]:  # the loss of covered tokens is another quantity
        rows = [row for run in group.runs[-20:] for row in run.logged()]
        xs, means, lows, highs = series(rows, "step", "loss")
        if xs:
            drawn.append((group, xs, means, lows, highs))
    if not drawn:
        return None
    figure, ax = figures.new(width=2, height=2.8)
    orders = [group.newest.config["task"].get("order") for group, *_ in drawn]
    for number, ((group, xs, means, lows, highs), order) in enumerate(zip(drawn, orders)):
        shade = figures.color(str(order)) if orders.count(order) == 1 else figures.numbered(number)
        dashes = "-" if number < len(figures.PALETTE) else "--"
        label = f"{group.label} ({counted(len(group.runs), 'run')})"
        ax.plot(xs, means, dashes, color=shade, label=label, linewidth=1.2)
        ax.fill_between(xs, lows, highs, color=shade, alpha=0.15, linewidth=0)
    ax.set(xlabel="training step", ylabel="training loss (nats per token)")
    lowest, highest = min(min(d[2]) for d in drawn), max(max(d[2]) for d in drawn)
    if lowest > 0 and highest > 10 * lowest:
        ax.set_yscale("log")
        figures.readable_log(ax.yaxis)
    ax.legend(fontsize=6)
    ends = "; ".join(f"{group.label} ends at {means[-1]:.3g}" for group, _, means, _, _ in drawn)
    caption = "Training loss: mean over runs, shaded from the lowest to the highest run."
    if 0 < len(causal) < len(collection.groups):
        caption += " Of covered tokens it is another quantity, which is left out."
    return out.figure(collection.prefix("training"), figure, f"Training loss against step: {ends}", caption)
