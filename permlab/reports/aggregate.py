"""Runs to groups: what differs between them, and mean and spread over seeds.

groups(runs)[0].spread("reverse_accuracy")     # Spread(mean=0.98, deviation=0.01, count=3)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from permlab import registry
from permlab.reports.collect import RunRecord
from permlab.rules import flatten
from permlab.tables import Row, Spread, grouped, is_number, spread

ASIDE = ("run", "tracker", "experiment", "report", "plugins")
"""Parts of a configuration that do not decide the result."""
MACHINE = ("hardware.name", "hardware.threads", "hardware.workers")
"""Keys that change how fast a run is, not what it computes."""
LONGEST_LABEL = 5
"""Keys in a label; where more differ, the run's name is the label."""


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


def decisive(run: RunRecord) -> dict[str, Any]:
    """Return dotted key -> value of what decides a run's result, seed included."""
    return flatten({key: value for key, value in run.config.items() if key not in ASIDE})


def differing_keys(runs: Sequence[RunRecord]) -> list[str]:
    """Return the keys that do not have the same value in all runs, seed last; a key that is absent differs too."""
    flat = [decisive(run) for run in runs]
    keys = dict.fromkeys(key for one in flat for key in one)
    differ = [key for key in keys if len({as_text(one.get(key)) for one in flat}) > 1]
    return sorted(differ, key=lambda key: key == "seed")


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Return key -> its last part, where that is unambiguous; `model.name` and the like are called by their group."""
    last = {key: key.removesuffix(".name").rsplit(".", 1)[-1] for key in keys}
    counts = list(last.values())
    return {key: name if counts.count(name) == 1 else key for key, name in last.items()}


def as_text(value: Any) -> str:
    """Write a configured value as on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(as_text(v) for v in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


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


def groups(runs: Sequence[RunRecord]) -> list[Group]:
    """Group finished runs by everything but the seed, labelled by the keys that differ."""
    chosen = current(runs)
    keys = [key for key in differing_keys(chosen) if key != "seed" and key not in MACHINE]
    names = short_names(keys)
    found: dict[tuple[str, ...], list[RunRecord]] = {}
    for run in chosen:
        flat = decisive(run)
        found.setdefault(tuple(as_text(flat.get(key)) for key in keys), []).append(run)
    made = []
    for values, members in found.items():
        varied = dict(zip(keys, values))
        if not keys:
            label = members[0].experiment.get("name") or members[0].name
        elif len(keys) > LONGEST_LABEL:
            label = members[0].name
        else:
            label = ", ".join(f"{names[key]}={value}" for key, value in varied.items())
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
