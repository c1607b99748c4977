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

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from permlab.config import Config
from permlab.merging.arm import slug
from permlab.tables import Row, paired, pick, summarise

if TYPE_CHECKING:
    from permlab.merging.studies.pleas.case import Case
    from permlab.runs.run import Run


def run_pleas(config: Config, run: Run) -> None:
    """Train the pairs, merge each in every way, write tables, figures, numbers.

    Raises:
        UserError: training diverged, or a model without a linear head.
    """
    from permlab.merging.studies.pleas.arms import arm_rows, plans
    from permlab.merging.studies.pleas.budgets import budget_rows
    from permlab.tasks.merge.pairs import build, forget_networks, load_data, spec_of

    task = config.task
    data = load_data(config)
    model = build(config, data)
    spec = spec_of(model, data)
    saved = run.load_checkpoint() if run.resumed else None
    tables: dict[str, list[Row]] = saved["tables"] if saved else {"networks": [], "pleas": [], "budgets": []}
    for pair in range(saved["pairs"] if saved else 0, task.pairs):
        case = _case(config, run, data, model, spec, pair, tables)
        with run.progress(f"merging pair {pair + 1}", len(list(plans(case)))) as bar:
            tables["pleas"] += arm_rows(case, bar.update)
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
    from permlab.merging.studies.pleas.case import Case
    from permlab.seeding import derived_seed
    from permlab.tasks.merge.pairs import BATCH, network_data, statistics_batches, train_pair, untrained

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
    from permlab.merging.studies.pleas.arms import REFERENCE, with_reset
    from permlab.tasks.merge.figures.pleas import draw_arms, draw_budgets

    for name, rows in tables.items():
        run.table(name, rows, show=False)
    lines = summarise(tables["pleas"], ("arm",), count="pairs", aside=("pair",))
    scores = [name for name in ("own", "joint", "probe") if any(line.get(name) is not None for line in lines)]
    columns = ["arm", *(column for name in scores for column in (name, f"{name}_sd")), "macs", "dense_macs"]
    run.table("pleas_mean", lines, title="merged networks, mean and deviation over pairs", columns=columns)
    by = ("matching", "allocator", "budget")
    budgets = summarise(tables["budgets"], by, count="pairs", aside=("pair",))
    columns = [*by, "macs", *scores[: 2 if "joint" in scores else 1]]
    run.table("budgets_mean", budgets, title="least squares at equal budgets, means over pairs", columns=columns)
    reference = with_reset(REFERENCE, [line["arm"] for line in lines])
    score = "joint" if "joint" in scores else "own"
    differences = paired(tables["pleas"], "arm", reference, score)
    run.table("differences", differences, title=f"difference to {reference}, pair by pair")
    numbers: dict[str, Any] = {}
    for line in lines:
        numbers |= {f"{slug(line['arm'])}_{key}": line.get(key) for key in (*scores, "macs")}
    for line in budgets:
        label = f"{slug(line['matching'])}_{line['allocator']}_{line['budget']:g}"
        numbers |= {f"{label}_{key}": line.get(key) for key in ("own", "joint", "macs")}
    at_price = pick(lines, arm=reference)
    numbers |= {f"{key}_accuracy": at_price.get(key) for key in ("own", "joint")}
    run.summary(**{name: value for name, value in numbers.items() if value is not None})
    run.figure("arms", draw_arms(lines, score))
    if budgets:
        run.figure("budgets", draw_budgets(budgets, lines, score))
