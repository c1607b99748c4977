"""The section of one task: `task_section("spt", runs, out)`.

What every task has stands here: groups with mean and spread, the comparison figures of the task (`sweep_figures`), what
differs between the runs. What only one has comes from its own section module (`registry.section`), else from
`permlab.reports.generic`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from types import ModuleType

from permlab import registry
from permlab.errors import first_line
from permlab.reports import generic, search
from permlab.reports.aggregate import repeated
from permlab.reports.collect import RunRecord
from permlab.reports.collection import Collection, collections, words
from permlab.reports.document import Block, Details, Links, Section, Table, Text
from permlab.reports.naming import as_text, decisive, differing_keys, run_names, short_names
from permlab.reports.writer import Output
from permlab.runs import comparison
from permlab.tables import Row, counted

MOST_COLLECTIONS = 12
"""Experiments and sweeps of one task that are shown with figures; the rest is in the table of runs."""
MOST_KEYS = 8
"""Differing keys up to which the runs are listed one by one."""


def task_section(task: str, runs: Sequence[RunRecord], out: Output) -> Section:
    """Return the section of one task; its parts are those of `collections`."""
    module = registry.section(task) or generic
    section = Section(anchor("task", task), getattr(module, "TITLE", task))
    done = [run for run in runs if run.status == "done"]
    if not done:
        section.blocks.append(Text(f"No finished runs of task={task}; {counted(len(runs), 'run')} did not finish."))
        return section
    question = getattr(module, "QUESTION", "")
    if question:
        section.blocks.append(Text(question))
    parts = collections(task, done)
    for collection in parts[:MOST_COLLECTIONS]:
        child = Section(anchor("part", task, collection.name), collection.title, short=collection.short)
        child.blocks += guarded(collection, lambda c: headline(c, out))
        child.blocks += guarded(collection, lambda c: sweep_figures(c, out))
        child.blocks += guarded(collection, lambda c: search.blocks(c, out))
        child.blocks += guarded(collection, lambda c: module.blocks(c, out))
        child.blocks += guarded(collection, lambda c: closing(c, out))
        section.children.append(child)
    if len(parts) > MOST_COLLECTIONS:
        left = ", ".join(collection.title for collection in parts[MOST_COLLECTIONS:][:40])
        section.blocks.append(Text(f"Not shown with figures, but in the table of runs: {left}."))
    return section


def guarded(collection: Collection, work: Callable[[Collection], list[Block]]) -> list[Block]:
    """Return the blocks, or one line when a run's files are so odd that they cannot be made: the rest stands."""
    try:
        return work(collection)
    except Exception as error:
        return [Text(f"A part of this section could not be made ({type(error).__name__}: {first_line(error)}).")]


def anchor(*parts: str) -> str:
    """Return an id for headings, made of letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-") or "part"


def headline(collection: Collection, out: Output) -> list[Block]:
    """The groups with mean and spread of the headline numbers, and all metrics folded away."""
    about = collection.runs[-1].experiment
    blocks: list[Block] = [Text(str(about["claim"]))] if about.get("claim") else []
    names = headline_metrics(collection)
    rows = []
    for group in collection.groups:
        numbers = {name: group.spread(name) for name in names}
        count = {f"{repeated(collection.task)}s": group.seeds}
        rows.append({"configuration": group.label, **count, **numbers, "minutes": round(group.minutes, 2)})
    title = f"Mean ± standard deviation over {repeated(collection.task)}s"
    blocks.append(out.table(collection.prefix("groups"), rows, title))
    return blocks


def headline_metrics(collection: Collection) -> list[str]:
    """Return the metrics that the task puts first, or the first few there are."""
    return comparison.headline(task_module(collection.task), [numbers(run) for run in collection.runs])


def sweep_figures(collection: Collection, out: Output) -> list[Block]:
    """The figures of a comparison over all groups of the collection: the task's own, else its headline."""
    names = ", ".join(group.label for group in collection.groups)
    given = [(g.varied, [numbers(run) for run in g.runs]) for g in collection.groups]
    drawn = comparison.sweep_figures(task_module(collection.task), given)
    return [
        out.figure(collection.prefix(name), drawing, f"{words(name)} for {names}", f"{words(name)}, all finished runs.")
        for name, drawing in drawn.items()
    ]


def task_module(task: str) -> ModuleType | None:
    """Return the module of a task; None for one of another version or package."""
    try:
        return registry.task(task)
    except Exception:
        return None


def numbers(run: RunRecord) -> dict[str, float]:
    """Return the metrics of a run that were measured."""
    return {name: value for name, value in run.metrics.items() if value is not None}


def closing(collection: Collection, out: Output) -> list[Block]:
    """All metrics, what differs between the runs, and links to them, folded away."""
    blocks: list[Block] = []
    names = list(dict.fromkeys(name for run in collection.runs for name in run.metrics))
    rows = [
        {
            "metric": name,
            **{group.label: group.spread(name) for group in collection.groups if len(collection.groups) <= 12},
        }
        for name in names
    ]
    if rows and len(collection.groups) <= 12:
        blocks.append(out.table(collection.prefix("metrics"), rows, "All metrics"))
    differing = differences(collection, out)
    if differing:
        blocks.append(differing)
    linked = [out.link(group.newest.directory, group.label) for group in collection.groups[:30]]
    blocks.append(Links("Newest run of each configuration:", linked))
    return [Details("All metrics, configuration differences, run directories", blocks)]


def differences(collection: Collection, out: Output) -> Table | None:
    """Only the keys that differ between the runs: a column each, or a row each when they are many."""
    keys = differing_keys(collection.runs)
    if not keys:
        return None
    title = "Configuration differences between these runs"
    if len(keys) <= MOST_KEYS:
        names, told = short_names(keys), run_names(collection.runs)
        rows: list[Row] = []
        for run in collection.runs:
            flat = decisive(run)
            link = out.link(run.directory, told[run.directory])
            rows.append({"run": link, **{names[key]: as_text(flat.get(key)) for key in keys}})
    else:
        rows = [{"key": key, "values": value_counts(collection.runs, key)} for key in keys]
    return out.table(collection.prefix("differences"), rows, title)


def value_counts(runs: Sequence[RunRecord], key: str) -> str:
    """Return `spt (3), original (3)`: the values of a key and how many runs have each; at most eight."""
    counts: dict[str, int] = {}
    for run in runs:
        text = as_text(decisive(run).get(key))
        counts[text] = counts.get(text, 0) + 1
    shown = ", ".join(f"{value} ({count})" for value, count in list(counts.items())[:8])
    return shown + (f" and {len(counts) - 8} more" if len(counts) > 8 else "")
