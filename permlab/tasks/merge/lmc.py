"""`permlab task=merge task.study=lmc`: why does matching work? Distances, singular vectors, three networks.

permlab task=merge task.study=lmc task.pairs=5
permlab task=merge task.study=lmc task.analyses=[three,start] model.width=64

Tables (arXiv 2402.04051, and the questions of its reviewers): distances.csv (L2, R, barriers, disagreement and
temperature by arm), spectra.csv (R against gamma), singular_value_gaps.csv, singular_values.csv (first pair),
trace.csv (every step of weight matching), taylor.csv (second-order estimate of the barrier), causal.csv (permutations
from part of the singular vectors), three.csv (three networks), start.csv (straight-through matching started at A or at
random weights). Every row is one pair; *_mean.csv have means and deviations over pairs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from permlab import registry
from permlab.config import Config
from permlab.tables import Row, pivoted, summarise
from permlab.tasks.merge.table import ANALYSES, Measured, measured

if TYPE_CHECKING:
    from permlab.merging.studies.lmc.subject import Subject
    from permlab.runs.run import Run

Tables = dict[str, list[Row]]


def run_lmc(config: Config, run: Run) -> None:
    """Train the pairs (triples where three networks are compared), analyse each, write tables, figures, numbers."""
    from permlab.tasks.merge.pairs import build, forget_networks, load_data, spec_of

    task = config.task
    data = load_data(config)
    model = build(config, data)
    spec = spec_of(model, data)
    saved = run.load_checkpoint() if run.resumed else None
    tables: Tables = saved["tables"] if saved else {}
    for pair in range(saved["pairs"] if saved else 0, task.pairs):
        _analyse(config, run, _subject(config, run, data, model, spec, pair, tables), tables)
        run.save_checkpoint({"tables": tables, "pairs": pair + 1})
        run.check_stop()
    forget_networks(run)
    report(run, tables, measured(task.analyses))


def _subject(config: Config, run: Run, data: Any, model: Any, spec: Any, pair: int, tables: Tables) -> Subject:
    """Train the networks of one pair and note how good they are."""
    from permlab.merging.methods.repair import batchnorms
    from permlab.merging.studies.lmc.subject import Subject
    from permlab.seeding import derived_seed
    from permlab.tasks.merge.pairs import evaluation_sets, statistics_batches, train_pair, untrained

    task = config.task
    ends = train_pair(
        config, run, data, model, pair, max((ANALYSES[name].networks for name in task.analyses), default=2)
    )
    tables.setdefault("networks", [])
    for name, end in zip("ABC", ends):
        tables["networks"].append({"pair": pair, "network": name, **end.metrics})
    sets = evaluation_sets(config, data)
    return Subject(
        pair=pair,
        spec=spec,
        model=model,
        states=[end.state for end in ends],
        untrained=[untrained(config, data, pair, k) for k in (0, 1)],
        sets=sets,
        small=statistics_batches(config, data, 128),
        points=task.points,
        steps=task.steps,
        similarity=task.similarity,
        seed=derived_seed(config.seed, "match", pair),
        reset=sets["train"] if task.renorm != "none" and batchnorms(model) else None,
    )


def _analyse(config: Config, run: Run, subject: Subject, tables: Tables) -> None:
    """Add the rows of one pair."""
    chosen = config.task.analyses
    with run.progress(f"analysing pair {subject.pair + 1}", len(chosen)) as bar:
        for done, name in enumerate(chosen):
            for table, rows in ANALYSES[name].load()(subject).items():
                tables.setdefault(table, []).extend(rows)
            bar.update(done + 1)


def report(run: Run, tables: Tables, written: list[Measured]) -> None:
    """Write every table, the means over pairs, the numbers and figures that the rows of the analyses name."""
    for name, rows in tables.items():
        run.table(name, rows, show=False)
    for each in written:
        if each.keys:
            means = summarise(tables[each.name], each.keys, count="pairs", aside=("pair",))
            title, shown = f"{each.name}: means over pairs", list(each.shown)
            run.table(f"{each.name}_mean", means, title=title, show=bool(shown), columns=shown)
            if each.pivot:
                name, across, value = each.pivot
                keys = [key for key in each.keys if key != across]
                title = f"{value} by {across}, means over pairs"
                run.table(name, pivoted(means, across, value, keys), title=title)
            if each.metrics:
                run.summary(**registry.load(each.metrics)(means))
    for each in written:
        if each.figure:
            run.figure(each.name, registry.load(each.figure)(tables))
