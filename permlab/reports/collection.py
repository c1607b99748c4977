"""Runs of one task that belong together, and what the task's section may show of them.

    for collection in collections("spt", runs):
        blocks = own_figures(collection, out, ["attention_*"], words)

`permlab/tasks/<task>/section.py` uses it; a section shows groups of runs, their own figures and their tables.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from permlab.reports.aggregate import Group, groups
from permlab.reports.collect import RunRecord
from permlab.reports.document import Block, Figure, Link, Links
from permlab.reports.naming import ALONE, part_of, short_names, telling_keys
from permlab.reports.writer import Output
from permlab.tables import Row, counted


@dataclass
class Collection:
    """Runs of one task that belong together: one experiment, one sweep, or the runs outside of both."""

    task: str
    name: str
    title: str
    runs: list[RunRecord]
    groups: list[Group]

    @property
    def short(self) -> str:
        """What the index says: the experiment's name, or what a sweep varied."""
        return self.title.partition(" (")[0] if self.name.startswith("sweep ") else self.name

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
        found.setdefault(part_of(run), []).append(run)
    return [
        Collection(task, name, title_of(name, found[name]), found[name], groups(found[name]))
        for name in sorted(found, key=lambda n: ("/" not in n, n == ALONE, n))
    ]


def title_of(name: str, runs: Sequence[RunRecord]) -> str:
    """Return the heading of a collection; a sweep is called by what it varied, and its stamp comes after."""
    if name == ALONE:
        return name[0].upper() + name[1:]
    if not name.startswith("sweep "):
        return f"Experiment {name}"
    varied = ", ".join(short_names(telling_keys(runs)).values()) or "nothing"
    return f"Sweep over {varied} ({name.removeprefix('sweep ')})"


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
        said = f"Such figures of {counted(left, 'more configuration')}:"
        blocks.append(Links(said, [folder_link(g, out) for g in rest[:30]]))
    return blocks


def folder_link(group: Group, out: Output) -> Link:
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
            note = (
                f"The first {counted(len(collection.shown(out)), 'configuration')}; {left} more in the run directories."
            )
            title = titles.get(name, words(name))
            blocks.append(out.table(collection.prefix(name), rows, title, note=note if left > 0 else ""))
    return blocks


def words(name: str) -> str:
    """Turn a file name into words: `recall_by_arm` -> `Recall by arm`."""
    text = name.replace("_", " ").strip()
    return text[:1].upper() + text[1:]
