"""Runs to groups: what differs between them, and mean and spread over seeds.

groups(runs)[0].spread("reverse_accuracy")     # Spread(mean=0.98, deviation=0.01, count=3)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from permlab import registry
from permlab.reports.collect import RunRecord
from permlab.reports.naming import MACHINE, as_text, decisive, differing_keys, short_names, shortened, telling_keys
from permlab.tables import Row, Spread, grouped, is_number, spread

LONGEST_LABEL = 5
"""Keys in a label; where more differ, the user's name, else the fewest keys that tell the groups apart."""


def identity(run: RunRecord) -> str:
    """Return what decides a run's result, seed included, as text: runs with one identity are repetitions."""
    return repr(sorted((key, as_text(value)) for key, value in decisive(run).items() if key not in MACHINE))


def current(runs: Iterable[RunRecord]) -> list[RunRecord]:
    """Return the newest finished run of each identity: a repetition with the same seed is no further evidence."""
    newest: dict[str, RunRecord] = {}
    for run in runs:
        if run.status == "done":
            newest.pop(identity(run), None)
            newest[identity(run)] = run
    return list(newest.values())


def unfinished(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """Return, once per identity, the runs that did not finish and that no other run made up for."""
    done = {identity(run) for run in runs if run.status == "done"}
    left = {identity(r): r for r in runs if r.status not in ("done", "corrupt")}
    return [run for key, run in left.items() if key not in done]


@dataclass
class Group:
    """Finished runs that differ in nothing but their seed, oldest first. `varied`: what tells groups apart."""

    label: str
    varied: dict[str, str]
    runs: list[RunRecord]

    @property
    def newest(self) -> RunRecord:
        """The last run of the group."""
        return self.runs[-1]

    @property
    def seeds(self) -> int:
        """How many seeds stand behind the numbers: runs, times the repetitions inside each."""
        return sum(inner_seeds(run) for run in self.runs)

    @property
    def minutes(self) -> float:
        """Wall-clock minutes of all runs."""
        return sum(run.seconds for run in self.runs) / 60

    def spread(self, metric: str) -> Spread | None:
        """Return mean and spread of a metric; a single run may bring its own spread as `<metric>_sd`."""
        found = spread(run.metrics.get(metric) for run in self.runs)
        if found is not None and found.count == 1 and inner_seeds(self.newest) > 1:
            inner = next((self.newest.metrics.get(f"{metric}{end}") for end in ("_sd", "_std")), None)
            if inner is not None:
                return Spread(found.mean, float(inner), inner_seeds(self.newest))
        return found

    def rows(self, table: str) -> list[Row]:
        """Return the rows of a table of every run, with the run's seed in `run_seed`."""
        return [{"run_seed": run.seed, **row} for run in self.runs for row in run.table(table)]

    def aggregated(self, table: str, keys: Sequence[str], numbers: Sequence[str]) -> list[Row]:
        """Return one row per value of `keys`, with the mean and spread of `numbers` over the runs."""
        return aggregated(self.rows(table), keys, numbers)


def inner_seeds(run: RunRecord) -> int:
    """Return how many seeds stand inside one run, at least 1: what the `repeats` of its task's section says."""
    repeats = getattr(registry.section(run.task), "repeats", None)
    count = repeats(run.config.get("task") or {}) if repeats else 1
    return count if isinstance(count, int) and count > 1 else 1


def repeated(task: str) -> str:
    """Return what is repeated behind the means of a task: seeds, unless its section says otherwise (`REPEATED`)."""
    return str(getattr(registry.section(task), "REPEATED", "seed"))


def groups(runs: Sequence[RunRecord]) -> list[Group]:
    """Group finished runs by everything but the seed, labelled by the keys that differ."""
    chosen = current(runs)
    keys = [key for key in differing_keys(chosen) if key != "seed" and key not in MACHINE]
    telling = keys if len(keys) <= LONGEST_LABEL else telling_keys(chosen, keys)
    names = short_names(telling)
    found: dict[tuple[str, ...], list[RunRecord]] = {}
    for run in chosen:
        flat = decisive(run)
        found.setdefault(tuple(as_text(flat.get(key)) for key in keys), []).append(run)
    made = []
    for members in found.values():
        flat = decisive(members[0])
        varied = {key: as_text(flat.get(key)) for key in telling}
        label = ", ".join(f"{names[key]}={shortened(flat.get(key))}" for key in telling)
        given = members[0].result.get("name")
        if given and len(keys) > LONGEST_LABEL:
            label = str(given)
        elif not label:
            label = str(members[0].experiment.get("name") or given or f"task={members[0].task}")
        made.append(Group(label, varied, members))
    return made


def aggregated(rows: Iterable[Row], keys: Sequence[str], numbers: Sequence[str]) -> list[Row]:
    """Return one row per combination of `keys`, in order of first appearance, with the Spread of each number."""
    return [
        dict(zip(keys, values)) | {name: spread(member.get(name) for member in members) for name in numbers}
        for values, members in grouped(rows, keys).items()
    ]


def series(rows: Iterable[Row], x: str, y: str) -> tuple[list[float], list[float], list[float], list[float]]:
    """Return (xs, means, lows, highs) of y over the rows of equal x, in increasing order of x."""
    usable = [row for row in rows if is_number(row.get(x)) and is_number(row.get(y))]
    points = [(float(found[0][x]), [float(row[y]) for row in found]) for found in grouped(usable, (x,)).values()]
    xs, ys = [at for at, _ in sorted(points)], [values for _, values in sorted(points)]
    means = [found.mean for values in ys if (found := spread(values))]
    return xs, means, [min(values) for values in ys], [max(values) for values in ys]
