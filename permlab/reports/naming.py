"""Names for runs: what differs between them, never a time stamp alone.

run_names(runs)[run.directory]                 # order=spt, seed=1
told_apart([{"a": "1"}, {"a": "2"}])           # the same: what differs
telling_keys(runs)                             # the fewest keys that tell these runs apart
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from permlab.reports.collect import RunRecord
from permlab.rules import flatten

ASIDE = ("run", "tracker", "experiment", "report", "plugins")
"""Parts of a configuration that do not decide the result."""
MACHINE = ("hardware.name", "hardware.threads", "hardware.workers")
"""Keys that change how fast a run is, not what it computes."""
LONGEST_VALUE = 40
ALONE = "runs on their own"


def decisive(run: RunRecord) -> dict[str, Any]:
    """Return dotted key -> value of what decides a run's result, seed included."""
    return flatten({key: value for key, value in run.config.items() if key not in ASIDE})


def differing_keys(runs: Sequence[RunRecord]) -> list[str]:
    """Return the keys that do not have the same value in all runs, seed last; a key that is absent differs too."""
    flat = [decisive(run) for run in runs]
    keys = dict.fromkeys(key for one in flat for key in one)
    differ = [key for key in keys if len({as_text(one.get(key)) for one in flat}) > 1]
    return sorted(differ, key=lambda key: key == "seed")


def telling_keys(runs: Sequence[RunRecord], keys: Sequence[str] | None = None) -> list[str]:
    """Return the fewest of the keys that tell the runs apart as well as all of them do, found greedily.

    A swept group (model=a,b) changes a dozen keys; one of them, if possible its name, is enough. What the experiment
    says it varies comes first.
    """
    keys = [k for k in differing_keys(runs) if k not in MACHINE] if keys is None else list(keys)
    flat = [decisive(run) for run in runs]
    values = {key: [as_text(one.get(key)) for one in flat] for key in keys}
    swept = {key for run in runs for key in (run.experiment.get("sweep") or ())}

    def apart(some: Sequence[str]) -> int:
        return len(set(zip(*(values[key] for key in some)))) if some else 1

    chosen: list[str] = []
    while apart(chosen) < apart(keys):
        left = [key for key in keys if key not in chosen]
        worth = {k: (apart([*chosen, k]), k in swept, k.endswith(".name"), -max(map(len, values[k]))) for k in left}
        chosen.append(max(left, key=worth.__getitem__))
    return [key for key in keys if key in chosen]


def run_names(runs: Sequence[RunRecord]) -> dict[Path, str]:
    """Return a name per run directory: what tells it from the others of its experiment, sweep or task.

    A name that the user gave comes first; repetitions of one configuration are numbered, oldest first.
    """
    parts: dict[tuple[str, str], list[RunRecord]] = {}
    for run in runs:
        parts.setdefault((run.task, part_of(run)), []).append(run)
    names: dict[Path, str] = {}
    for members in parts.values():
        readable = [run for run in members if run.status != "corrupt"]
        keys = telling_keys(readable) if readable else []
        short = short_names(keys)
        plain = {run.directory: one_name(run, keys, short) for run in members}
        counts, seen = Counter(plain.values()), Counter[str]()
        for path, name in plain.items():
            seen[name] += 1
            names[path] = f"{name} ({seen[name]} of {counts[name]})" if counts[name] > 1 else name
    return names


def one_name(run: RunRecord, keys: Sequence[str], short: dict[str, str]) -> str:
    """Return the name of one run by these keys."""
    if run.status == "corrupt":
        return f"unreadable ({run.id})"
    flat = decisive(run)
    told = ", ".join(f"{short[key]}={shortened(flat.get(key))}" for key in keys)
    given = run.result.get("name")
    parts = [str(given)] if given else []
    if told or not given:
        parts.append(told or (f"seed={run.seed}" if run.seed is not None else f"task={run.task}"))
    return ": ".join(parts)


def part_of(run: RunRecord) -> str:
    """Return the part of its task's section that a run belongs to: its experiment, its sweep, or `ALONE`."""
    settings = run.config.get("run")
    sweep = settings.get("sweep") if isinstance(settings, dict) else None
    return str(run.experiment.get("name") or (f"sweep {str(sweep).rsplit('/', 1)[-1]}" if sweep else ALONE))


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Return key -> its last part, where that is unambiguous; `model.name` and the like are called by their group."""
    last = {key: key.removesuffix(".name").rsplit(".", 1)[-1] for key in keys}
    counts = list(last.values())
    return {key: name if counts.count(name) == 1 else key for key, name in last.items()}


def told_apart(varied: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Return short key -> value of what differs among them; what all but one share is named in that one alone."""
    keys = [key for key in dict.fromkeys(key for one in varied for key in one) if len({v.get(key) for v in varied}) > 1]
    usual = {key: Counter(one.get(key) for one in varied).most_common(1)[0] for key in keys}
    odd = [[key for key in keys if usual[key] != (one.get(key), len(varied) - 1)] or keys for one in varied]
    short = short_names(keys)
    return [{short[key]: str(one.get(key)) for key in some} for one, some in zip(varied, odd)]


def arm_names(
    varied: Sequence[Mapping[str, str]], aside: Sequence[str], write: Callable[[Mapping[str, str]], str]
) -> list[str]:
    """Name arms of which some stand aside, a control beside what it controls: by what differs within each kind.

    Args:
        varied: key -> value of each arm.
        aside: what an arm is called that is none of the others, "" for these; without any, all that varies is written.
        write: from what tells an arm apart to words.
    """
    told: dict[int, Mapping[str, str]] = dict(enumerate(varied))
    short = short_names(list(dict.fromkeys(key for one in varied for key in one)))
    for kind in set(aside) if any(aside) else ():
        places = [place for place, each in enumerate(aside) if each == kind]
        for place, found in zip(places, told_apart([varied[each] for each in places])):
            told[place] = found if found or kind else {short[key]: value for key, value in varied[place].items()}
    return [", ".join(filter(None, (name, write(told[place])))) for place, name in enumerate(aside)]


def shortened(value: Any) -> str:
    """Return a value as on the command line, cut where it is long."""
    text = as_text(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"


def as_text(value: Any) -> str:
    """Write a configured value as on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(as_text(v) for v in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)
