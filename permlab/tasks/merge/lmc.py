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

import functools
from string import ascii_letters
from typing import TYPE_CHECKING

from permlab import registry
from permlab.config import Config
from permlab.tables import Row, pivoted, summarise
from permlab.tasks.merge.loop import Tables, each_case
from permlab.tasks.merge.settings import MergeConfig
from permlab.tasks.merge.table import ANALYSES, Measured, measured

if TYPE_CHECKING:
    from permlab.merging import Endpoint, Subject
    from permlab.runs.run import Run


def run_lmc(config: Config[MergeConfig], run: Run) -> None:
    """Train the pairs (triples where three networks are compared), analyse each, write tables, figures, numbers."""
    from permlab.merging import Subject
    from permlab.merging.methods.repair import batchnorms
    from permlab.tasks.merge.pairs import pairs_of, setting_of, train_pair

    task, pairs = config.task, pairs_of(config)
    model = pairs.build()
    spec, sets = pairs.spec(model), pairs.sets()
    renorm = "reset" if task.renorm != "none" and batchnorms(model) else "none"
    count = max((ANALYSES[name].networks for name in task.analyses), default=2)

    def measure(pair: int) -> tuple[Tables, dict[str, float]]:
        ends = train_pair(run, pairs, model, pair, count)
        subject = Subject(
            model,
            spec,
            [end.state for end in ends],
            sets,
            setting_of(config, run, sets["train"], pair),
            untrained=[pairs.untrained(pair, k) for k in range(count)],
            points=task.points,
            renorm=renorm,
            pair=pair,
        )
        tables = {"networks": network_rows(pair, ends), **analysed(run, subject, task.analyses)}
        return tables, numbers_of(tables, measured(task.analyses))

    report(run, each_case(run, range(task.pairs), measure), measured(task.analyses))


def network_rows(pair: int, ends: list[Endpoint]) -> list[Row]:
    """How good the networks are."""
    return [{"pair": pair, "network": name.swapcase(), **end.metrics} for name, end in zip(ascii_letters, ends)]


def analysed(run: Run, subject: Subject, names: list[str]) -> Tables:
    """The tables of all analyses of one pair."""
    first = functools.cache(subject.first)  # analyses of two networks share what they compute
    tables: Tables = {}
    with run.progress(f"analysing pair {subject.pair + 1}", len(names)) as bar:
        for done, name in enumerate(names):
            tables |= ANALYSES[name].load()(first(ANALYSES[name].networks))
            bar.update(done + 1)
            run.check_stop()
    return tables


def means_of(tables: Tables, each: Measured) -> list[Row]:
    """Means over pairs of one table."""
    return summarise(tables[each.name], each.keys, count="pairs", aside=("pair",))


def numbers_of(tables: Tables, written: list[Measured]) -> dict[str, float]:
    """What the analyses say in numbers, means over the pairs in the tables."""
    numbers: dict[str, float] = {}
    for each in written:
        if each.metrics:
            numbers |= registry.load(each.metrics)(means_of(tables, each))
    return numbers


def report(run: Run, tables: Tables, written: list[Measured]) -> None:
    """Write every table, the means over pairs, the numbers and figures that the rows of the analyses name."""
    for name, rows in tables.items():
        run.table(name, rows, show=False)
    for each in written:
        if not each.keys:
            continue
        means, shown = means_of(tables, each), list(each.shown)
        run.table(f"{each.name}_mean", means, title=f"{each.name}: means over pairs", show=bool(shown), columns=shown)
        if each.pivot:
            name, across, value = each.pivot
            keys = [key for key in each.keys if key != across]
            run.table(name, pivoted(means, across, value, keys), title=f"{value} by {across}, means over pairs")
    run.summary(**numbers_of(tables, written))
    for each in written:
        if each.figure:
            run.figure(each.name, registry.load(each.figure)(tables))
