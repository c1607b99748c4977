"""What every task's section has: groups with mean and spread, the task's comparison figures, what differs between runs.

section = task_section("spt", runs, out)
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from permlab import registry
from permlab.reports.aggregate import Group, as_text, decisive, differing_keys, groups, short_names
from permlab.reports.collect import RunRecord, one_line
from permlab.reports.document import Block, Details, Figure, Links, Section, Table, Text
from permlab.reports.writer import Output
from permlab.tables import Row, is_number

MODULES = {"spt": "spt", "inverse_permutation": "probe", "ntk": "ntk", "merge": "merge", "lora_lego": "lego"}
"""task -> module of this package; any other task gets the generic section."""
MOST_METRICS = 8
MOST_COLLECTIONS = 12
"""Experiments and sweeps of one task that are shown with figures; the rest is in the table of runs."""
MOST_KEYS = 8
"""Differing keys up to which the runs are listed one by one."""


@dataclass
class Collection:
    """Runs of one task that belong together: one experiment, one sweep, or the runs outside of both."""

    task: str
    name: str
    title: str
    runs: list[RunRecord]
    groups: list[Group]

    @property
    def many(self) -> bool:
        """Whether there is more than one group to tell apart."""
        return len(self.groups) > 1

    def prefix(self, name: str) -> str:
        """Return a file name that says where a table or figure belongs."""
        return f"{self.task}-{self.name.removeprefix(self.task + '/')}-{name}"

    def shown(self, out: Output) -> list[Group]:
        """Return the groups whose own figures are embedded."""
        return self.groups[: out.own_figures]


def collections(task: str, runs: Sequence[RunRecord]) -> list[Collection]:
    """Sort finished runs of a task into experiments, sweeps and single runs."""
    found: dict[str, list[RunRecord]] = {}
    for run in runs:
        sweep = run.config.get("run", {}).get("sweep") if isinstance(run.config.get("run"), dict) else None
        name = run.experiment.get("name") or (
            f"sweep {str(sweep).rsplit('/', 1)[-1]}" if sweep else "runs on their own"
        )
        found.setdefault(str(name), []).append(run)
    made = []
    for name in sorted(found, key=lambda n: ("/" not in n, n == "runs on their own", n)):
        title = name if name == "runs on their own" or name.startswith("sweep ") else f"Experiment {name}"
        made.append(Collection(task, name, title[0].upper() + title[1:], found[name], groups(found[name])))
    return made


def task_section(task: str, runs: Sequence[RunRecord], out: Output) -> Section:
    """Return the section of one task; its parts are those of `collections`."""
    module = importlib.import_module(f"permlab.reports.sections.{MODULES.get(task, 'generic')}")
    section = Section(anchor("task", task), getattr(module, "TITLE", task))
    done = [run for run in runs if run.status == "done"]
    if not done:
        section.blocks.append(Text(f"No finished runs of task={task}; {len(runs)} did not finish."))
        return section
    question = getattr(module, "QUESTION", "")
    if question:
        section.blocks.append(Text(question))
    parts = collections(task, done)
    for collection in parts[:MOST_COLLECTIONS]:
        child = Section(anchor("part", task, collection.name), collection.title, short=collection.name)
        child.blocks += guarded(collection, lambda c: headline(c, out))
        child.blocks += guarded(collection, lambda c: sweep_figures(c, out))
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
        return [Text(f"A part of this section could not be made ({type(error).__name__}: {one_line(error)}).")]


def anchor(*parts: str) -> str:
    """Return an id for headings, made of letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-") or "part"


# ---- parts that every task has -----------------------------------------------------------------------------------


def headline(collection: Collection, out: Output) -> list[Block]:
    """The groups with mean and spread of the headline numbers, and all metrics folded away."""
    about = collection.runs[-1].experiment
    blocks: list[Block] = [Text(str(about["claim"]))] if about.get("claim") else []
    names = headline_metrics(collection)
    rows = []
    for group in collection.groups:
        numbers = {name: group.spread(name) for name in names}
        rows.append({"configuration": group.label, "seeds": group.seeds, **numbers, "minutes": round(group.minutes, 2)})
    title = "Mean ± standard deviation over seeds"
    blocks.append(out.table(collection.prefix("groups"), rows, title))
    return blocks


def headline_metrics(collection: Collection) -> list[str]:
    """Return the metrics that the task puts first, or the first few there are."""
    present = list(
        dict.fromkeys(name for run in collection.runs for name, value in run.metrics.items() if is_number(value))
    )
    try:
        wanted = registry.task(collection.task).HEADLINE
    except Exception:
        wanted = ()
    chosen = [name for name in wanted if name in present]
    return (chosen or present)[:MOST_METRICS]


def sweep_figures(collection: Collection, out: Output) -> list[Block]:
    """The task's own figures of a comparison (its `sweep_figures`), drawn over all groups of the collection."""
    try:
        draw = getattr(registry.task(collection.task), "sweep_figures", None)
    except Exception:
        draw = None
    if draw is None:
        return []
    names = ", ".join(group.label for group in collection.groups)
    given = [
        (g.varied, [{k: v for k, v in r.metrics.items() if v is not None} for r in g.runs]) for g in collection.groups
    ]
    return [
        out.figure(collection.prefix(name), drawing, f"{words(name)} for {names}", f"{words(name)}, all finished runs.")
        for name, drawing in draw(given).items()
    ]


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
    linked = [out.link(group.newest.directory, group.newest.id) for group in collection.groups[:30]]
    blocks.append(Links("Newest run of each configuration:", linked))
    return [Details("All metrics, configuration differences, run directories", blocks)]


def differences(collection: Collection, out: Output) -> Table | None:
    """Only the keys that differ between the runs: a column each, or a row each when they are many."""
    keys = differing_keys(collection.runs)
    if not keys:
        return None
    title = "Configuration differences between these runs"
    if len(keys) <= MOST_KEYS:
        names = short_names(keys)
        rows: list[Row] = []
        for run in collection.runs:
            flat = decisive(run)
            rows.append({"run": run.id, **{names[key]: as_text(flat.get(key)) for key in keys}})
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


def own_figures(
    collection: Collection, out: Output, names: Sequence[str], describe: Callable[[str], str]
) -> list[Block]:
    """Embed figures that the runs drew themselves: those of the newest run of the first few groups.

    `names` are patterns like `attention_*`; the caption names the configuration and the seed.
    """
    blocks: list[Block] = []
    for group in collection.shown(out):
        for name in group.newest.files("figures", ".png"):
            if not any(re.fullmatch(pattern.replace("*", ".*"), name) for pattern in names):
                continue
            said = describe(name)
            where = f"{group.label}, seed {group.newest.seed}"
            figure = out.embed(group.newest, name, f"{said}; {where}", f"{said}. {where}.")
            if isinstance(figure, Figure):
                blocks.append(figure)
    left = len(collection.groups) - len(collection.shown(out))
    if blocks and left > 0:
        rest = collection.groups[len(collection.shown(out)) :]
        blocks.append(Links(f"{left} more configurations have such figures:", [folder_link(g, out) for g in rest[:30]]))
    return blocks


def folder_link(group: Group, out: Output) -> Any:
    """Link to the figures of a group's newest run."""
    return out.link(group.newest.directory / "figures", group.label)


def newest_tables(collection: Collection, out: Output, names: Sequence[str], titles: dict[str, str]) -> list[Block]:
    """Show tables of the newest run of the first few groups; with several, a column names the configuration."""
    blocks: list[Block] = []
    for name in names:
        rows: list[Row] = []
        for group in collection.shown(out):
            first = {"configuration": group.label} if collection.many else {}
            rows += [{**first, **row} for row in group.newest.table(name)]
        if rows:
            left = len(collection.groups) - len(collection.shown(out))
            note = f"The first {len(collection.shown(out))} configurations; {left} more are in their run directories."
            title = titles.get(name, words(name))
            blocks.append(out.table(collection.prefix(name), rows, title, note=note if left > 0 else ""))
    return blocks


def words(name: str) -> str:
    """Turn a file name into words: `recall_by_arm` -> `Recall by arm`."""
    text = name.replace("_", " ").strip()
    return text[:1].upper() + text[1:]
