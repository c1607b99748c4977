"""`permlab task=merge task.study=pleas`: merging in part, with every control at the same price (arXiv 2407.02447).

permlab task=merge task.study=pleas task.labels=2 task.pairs=5 model.width=64             # different labels
permlab task=merge task.study=pleas task.domains=[original,inverted] model.width=64       # same labels, two domains

Tables: pleas.csv (one row per pair and arm), budgets.csv (allocators at equal multiply-accumulates), pleas_mean.csv and
budgets_mean.csv (means and deviations over pairs), differences.csv (every arm against PLeaS on the same
pairs). Scores: `own` is the mean over tasks of the accuracy with the task's own head on its own images,
`joint` one decision among all labels, `probe` a linear probe per task; `macs` is relative to one network, blocks of
zeros not counted.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from permlab.config import Config
from permlab.tasks.merge.report import slug

if TYPE_CHECKING:
    from permlab.runs.run import Run
    from permlab.tasks.merge.pleas_parts import Case

Row = dict[str, Any]
REFERENCE = "activation matching, least squares"
"""PLeaS at the price of one network, which every other arm is compared with."""


def run_pleas(config: Config, run: Run) -> None:
    """Train the pairs, merge each in every way, write tables, figures, numbers.

    Raises:
        UserError: training diverged, or a model without a linear head.
    """
    from permlab.tasks.merge.pairs import build, forget_networks, load_data, spec_of
    from permlab.tasks.merge.pleas_parts import budget_rows, plans, table_rows

    task = config.task
    data = load_data(config)
    model = build(config, data)
    spec = spec_of(model, data)
    saved = run.load_checkpoint() if run.resumed else None
    tables: dict[str, list[Row]] = saved["tables"] if saved else {"networks": [], "pleas": [], "budgets": []}
    for pair in range(saved["pairs"] if saved else 0, task.pairs):
        case = _case(config, run, data, model, spec, pair, tables)
        with run.progress(f"merging pair {pair + 1}", len(list(plans(case)))) as bar:
            tables["pleas"] += table_rows(case, bar.update)
        run.check_stop()
        with run.progress(f"budgets of pair {pair + 1}", 18) as bar:
            tables["budgets"] += budget_rows(case, bar.update)
        run.save_checkpoint({"tables": tables, "pairs": pair + 1})
        run.check_stop()
    forget_networks(run)
    report(run, tables)


def _case(config: Config, run: Run, data: Any, model: Any, spec: Any, pair: int, tables: dict[str, list[Row]]) -> Case:
    """Train the two networks of a pair; put together what merging them may read."""
    from permlab.merging import batches_of, find_head, head_tensors
    from permlab.seeding import derived_seed
    from permlab.tasks.merge.pairs import BATCH, network_data, statistics_batches, train_pair, untrained
    from permlab.tasks.merge.pleas_parts import Case

    ends = train_pair(config, run, data, model, pair)
    for name, end in zip("AB", ends):
        tables["networks"].append({"pair": pair, "network": name, "labels": str(end.labels), **end.metrics})
    parts = network_data(config, data, pair)
    own = [statistics_batches(config, part) for part in parts]
    head = find_head(model, (data.x_train[:2],))
    disjoint = config.task.labels > 1
    same = not disjoint and not config.task.domains and config.task.share == 1
    return Case(
        pair=pair,
        spec=spec,
        model=model,
        states=[end.state for end in ends],
        untrained=untrained(config, data, pair, 0),
        head=head,
        heads=head_tensors(ends[0].state, head) if disjoint else (),
        labels=[end.labels for end in ends] if disjoint else None,
        train=own,
        test=[batches_of(part.x_test, part.y_test, BATCH) for part in parts],
        data=own[0] if same else _mixed(own),
        similarity=config.task.similarity,
        ridge=config.task.ridge,
        seed=derived_seed(config.seed, "match", pair),
    )


def _mixed(own: Sequence[Sequence[Any]]) -> list[Any]:
    """Batches with images of both tasks: statistics that are averaged over batches need them mixed."""
    import torch

    count = max(len(batches) for batches in own)
    parts = [[torch.cat(values).tensor_split(count) for values in zip(*batches)] for batches in own]
    return [tuple(torch.cat([part[kind][at] for part in parts]) for kind in (0, 1)) for at in range(count)]


def report(run: Run, tables: dict[str, list[Row]]) -> None:
    """Write what `run_pleas` measured."""
    from permlab.tasks.merge.lmc import means
    from permlab.tasks.merge.pleas_figures import draw_arms, draw_budgets

    for name, rows in tables.items():
        run.table(name, rows, show=False)
    lines = means(tables["pleas"], ("arm",))
    scores = [name for name in ("own", "joint", "probe") if any(name in line for line in lines)]
    columns = ["arm", *(column for name in scores for column in (name, f"{name}_sd")), "macs", "dense_macs"]
    run.table("pleas_mean", lines, title="merged networks, mean and deviation over pairs", columns=columns)
    budgets = means(tables["budgets"], ("matching", "allocator", "budget"))
    columns = ["matching", "allocator", "budget", "macs", *scores[: 2 if "joint" in scores else 1]]
    run.table("budgets_mean", budgets, title="least squares at equal budgets, means over pairs", columns=columns)
    reference = with_reset(REFERENCE, [line["arm"] for line in lines])
    score = "joint" if "joint" in scores else "own"
    differences = paired(tables["pleas"], reference, score)
    run.table("differences", differences, title=f"difference to {reference}, pair by pair")
    numbers = {}
    for line in lines:
        numbers |= {f"{slug(line['arm'])}_{key}": line[key] for key in (*scores, "macs") if key in line}
    for line in budgets:
        label = f"{slug(line['matching'])}_{line['allocator']}_{line['budget']:g}"
        numbers |= {f"{label}_{key}": line[key] for key in ("own", "joint", "macs") if key in line}
    at_price = next(line for line in lines if line["arm"] == reference)
    run.summary(**numbers, **{f"{key}_accuracy": at_price[key] for key in ("own", "joint") if key in at_price})
    run.figure("arms", draw_arms(lines, score))
    if budgets:
        run.figure("budgets", draw_budgets(budgets, lines, score))


def with_reset(arm: str, arms: Sequence[str]) -> str:
    """An arm as it counts: with BatchNorm statistics measured again where the network has any."""
    return f"{arm} + reset" if f"{arm} + reset" in arms else arm


def paired(rows: Sequence[Row], reference: str, score: str) -> list[Row]:
    """Per arm the difference of a score to the reference on the same pairs: mean, deviation, pairs above, pairs."""
    base = {row["pair"]: row[score] for row in rows if row["arm"] == reference}
    found = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        own = [row[score] - base[row["pair"]] for row in rows if row["arm"] == arm and row.get(score) is not None]
        if own and arm != reference:
            spread = statistics.stdev(own) if len(own) > 1 else math.nan
            above = sum(value > 0 for value in own)
            found.append({"arm": arm, score: statistics.fmean(own), "sd": spread, "above": above, "pairs": len(own)})
    return found
