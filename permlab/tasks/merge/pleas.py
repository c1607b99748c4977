"""`permlab task=merge task.study=pleas`: merging in part, with every control at the same price (arXiv 2407.02447).

permlab task=merge task.study=pleas task.labels=2 task.pairs=5 model.width=64             # different labels
permlab task=merge task.study=pleas task.domains=[original,inverted] model.width=64       # same labels, two domains

Arms of task.compare, [activation/fisher] for instance, stand beside those of the study.

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
from permlab.merging.arm import parse_arm, slug
from permlab.tables import Row, paired, pick, summarise
from permlab.tasks.merge.loop import Tables, each_case
from permlab.tasks.merge.settings import MergeConfig

if TYPE_CHECKING:
    from permlab.merging import Endpoint, ImagePairs, Subject
    from permlab.runs.run import Run


def run_pleas(config: Config[MergeConfig], run: Run) -> None:
    """Train the pairs, merge each in every way, write tables, figures, numbers.

    Raises:
        UserError: training diverged, or a model without a linear head.
    """
    from permlab.merging.studies.pleas.arms import arm_rows, plans
    from permlab.merging.studies.pleas.budgets import budget_rows, planned_budgets
    from permlab.tasks.merge.pairs import pairs_of, train_pair

    pairs = pairs_of(config)
    model = pairs.build()
    spec = pairs.spec(model)
    compared = [parse_arm(text) for text in config.task.compare]

    def measure(pair: int) -> tuple[Tables, dict[str, float]]:
        ends = train_pair(run, pairs, model, pair)
        subject = subject_of(config, run, pairs, model, spec, pair, ends)
        arms = list(plans(subject, compared))
        with run.progress(f"merging pair {pair + 1}", len(arms)) as bar:
            merged = arm_rows(subject, arms, bar.update)
        run.check_stop()
        with run.progress(f"budgets of pair {pair + 1}", len(planned_budgets())) as bar:
            budgets = budget_rows(subject, bar.update)
        networks = [
            {"pair": pair, "network": name, "labels": str(end.labels), **end.metrics} for name, end in zip("AB", ends)
        ]
        tables = {"networks": networks, "pleas": merged, "budgets": budgets}
        return tables, numbers_of(*means_of(tables))

    report(run, each_case(run, range(config.task.pairs), measure))


def subject_of(
    config: Config[MergeConfig], run: Run, pairs: ImagePairs, model: Any, spec: Any, pair: int, ends: Sequence[Endpoint]
) -> Subject:
    """Two networks, the images of their tasks, and what merging them may read."""
    from permlab.merging import Subject, batches_of, find_head, head_tensors
    from permlab.merging.networks.pairs import BATCH
    from permlab.merging.studies.pleas.scores import set_name
    from permlab.tasks.merge.pairs import setting_of

    task = config.task
    parts = pairs.parts(pair)
    own = [pairs.statistics(part) for part in parts]
    sets = {set_name("train", k): batches for k, batches in enumerate(own)}
    sets |= {set_name("test", k): batches_of(part.x_test, part.y_test, BATCH) for k, part in enumerate(parts)}
    disjoint = task.labels > 1
    same = not task.domains and not task.apart
    # heads for different labels are kept; those of two domains are merged like everything else
    heads = head_tensors(ends[0].state, find_head(model, (pairs.data.x_train[:2],))) if disjoint else ()
    return Subject(
        model,
        spec,
        [end.state for end in ends],
        sets,
        setting_of(config, run, own[0] if same else mixed(own), pair, own_batches=own, heads=heads),
        labels=[end.labels for end in ends] if disjoint else (),
        untrained=[pairs.untrained(pair, 0)],
        pair=pair,
    )


def mixed(own: Sequence[Sequence[Any]]) -> list[Any]:
    """Batches with images of both tasks: statistics that are averaged over batches need them mixed."""
    import torch

    count = max(len(batches) for batches in own)
    parts = [[torch.cat(values).tensor_split(count) for values in zip(*batches)] for batches in own]
    return [tuple(torch.cat([part[kind][at] for part in parts]) for kind in (0, 1)) for at in range(count)]


BUDGET_KEYS = ("matching", "allocator", "budget")


def means_of(tables: Tables) -> tuple[list[Row], list[Row]]:
    """Means over pairs of arms and of budgets."""
    return (
        summarise(tables["pleas"], ("arm",), count="pairs", aside=("pair",)),
        summarise(tables["budgets"], BUDGET_KEYS, count="pairs", aside=("pair",)),
    )


def scores_in(lines: Sequence[Row]) -> list[str]:
    """The accuracies that there are: `joint` only for different labels, `probe` only where it was trained."""
    return [name for name in ("own", "joint", "probe") if any(line.get(name) is not None for line in lines)]


def reference_in(lines: Sequence[Row]) -> str:
    """PLeaS at the price of one network, as it counts for this architecture."""
    from permlab.merging.studies.pleas.arms import REFERENCE, with_reset

    return with_reset(REFERENCE.label, [line["arm"] for line in lines])


def numbers_of(lines: Sequence[Row], budgets: Sequence[Row]) -> dict[str, float]:
    """Accuracies and multiply-accumulates of every arm and budget; PLeaS at the price of one network by itself."""
    numbers: dict[str, Any] = {}
    for line in lines:
        numbers |= {f"{slug(line['arm'])}_{key}": line.get(key) for key in (*scores_in(lines), "macs")}
    for line in budgets:
        label = f"{slug(line['matching'])}_{line['allocator']}_{line['budget']:g}"
        numbers |= {f"{label}_{key}": line.get(key) for key in ("own", "joint", "macs")}
    at_price = pick(lines, arm=reference_in(lines))
    numbers |= {f"{key}_accuracy": at_price.get(key) for key in ("own", "joint")}
    return {name: value for name, value in numbers.items() if value is not None}


def intervals_of(differences: Sequence[Row], score: str) -> dict[str, float]:
    """Per arm the paired difference to the reference and its 95 % interval, where there are two pairs or more."""
    numbers: dict[str, float] = {}
    for line in differences:
        if line["low"] is not None:
            name = f"{slug(line['arm'])}_{score}_above"
            numbers |= {name: line[score], f"{name}_low": line["low"], f"{name}_high": line["high"]}
    return numbers


def report(run: Run, tables: Tables) -> None:
    """Write what `run_pleas` measured."""
    from permlab.merging.studies.pleas.arms import PLAIN, with_reset
    from permlab.tasks.merge.figures.pleas import draw_arms, draw_budgets

    for name, rows in tables.items():
        run.table(name, rows, show=False)
    lines, budgets = means_of(tables)
    scores, reference = scores_in(lines), reference_in(lines)
    columns = ["arm", *(column for name in scores for column in (name, f"{name}_sd")), "macs", "dense_macs"]
    run.table("pleas_mean", lines, title="merged networks, mean and deviation over pairs", columns=columns)
    columns = [*BUDGET_KEYS, "macs", *scores[: 2 if "joint" in scores else 1]]
    run.table("budgets_mean", budgets, title="least squares at equal budgets, means over pairs", columns=columns)
    score = "joint" if "joint" in scores else "own"
    plain = with_reset(PLAIN.label, [line["arm"] for line in lines])
    differences = {to: paired(tables["pleas"], "arm", to, score) for to in (reference, plain)}
    rows = [{"to": to, **row} for to, found in differences.items() for row in found]
    run.table("differences", rows, title=f"{score} accuracy above another arm, pair by pair, with 95 % intervals")
    intervals = {to: intervals_of(found, score) for to, found in differences.items()}
    run.summary(**numbers_of(lines, budgets), **intervals[reference])
    run.summary(**{f"{name}_average": value for name, value in intervals[plain].items()})
    run.figure("arms", draw_arms(lines, score))
    if budgets:
        run.figure("budgets", draw_budgets(budgets, lines, score))
