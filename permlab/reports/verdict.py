"""Paper against ours: what the acceptance rules of an experiment say about its runs.

judge(runs)[0].verdict     # reproduced | partly | not reproduced | toy scale only | not judged | unfinished
                           # of a claim of our own: holds | partly | does not hold | not judged | unfinished
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from permlab.errors import UserError
from permlab.reports.aggregate import current, inner_seeds, repeated, unfinished
from permlab.reports.collect import RunRecord
from permlab.reports.document import Card, Lines
from permlab.reports.naming import ASIDE, as_text, decisive, differing_keys
from permlab.rules import Outcome, Rule, flatten, look_up, parse_rule, same
from permlab.tables import Row, Spread, counted, plain, spread

PLACES = ("path", "corpus", "folder", "units", "file", "threads", "workers", "device", "hardware.name")
"""Last parts of keys that say where something lies or on what it runs, not what is done."""
SIGNS = {"<=": "≤", ">=": "≥", "==": "=", "!=": "≠"}
MOST_CHANGED = 4
"""Changed keys that the first table names; all are in the section's configuration differences."""
ALWAYS_SHOWN = {
    "paper": ("reproduced", "toy scale only", "partly", "not reproduced"),
    "permlab": ("holds", "partly", "does not hold"),
}
"""Who claims it -> verdicts that a reader asks for."""
OPEN = ("not judged", "unfinished")
Shipped = Callable[[str], Mapping[str, Any] | None]
"""experiment name -> its configuration as shipped today, or None for one that is not."""


@dataclass
class Check:
    """One rule with what was measured. `spread`: of the rule's metric over runs, when it reads a single one.

    `seeds` counts what the task repeats, called `noun`: seeds, or pairs of networks.
    """

    rule: Rule
    outcome: Outcome
    spread: Spread | None
    seeds: int
    noun: str = "seed"

    @property
    def over(self) -> str:
        """How many repetitions stand behind the number, in words; empty when none does."""
        return counted(self.seeds, self.noun) if self.seeds else ""

    @property
    def measured(self) -> str:
        """The measured number in words."""
        if self.outcome.value is None:
            return "not measured"
        if self.spread is not None and self.spread.deviation is not None and self.rule.left.aggregate == "mean":
            return str(self.spread)
        return plain(self.outcome.value)

    @property
    def line(self) -> str:
        """What was checked on which arm, what was measured, what was needed, and over how many repetitions."""
        seeds = f" ({self.over})" if self.seeds else ""
        needed = f"needs {SIGNS.get(self.rule.comparison, self.rule.comparison)} {self.rule.threshold:g}"
        return f"{self.name}: {self.measured}, {needed}{seeds}"

    @property
    def name(self) -> str:
        """The rule's words and the arm that it is about; without words, what it reads."""
        arm = ", ".join(f"{key.rsplit('.', 1)[-1]}={value}" for key, value in self.rule.where)
        what = self.rule.words or self.rule.statement.partition(f" {self.rule.comparison} ")[0]
        return f"{what} [{arm}]" if arm else what


@dataclass
class Claim:
    """One experiment (or one variant of it, run with other keys) and its verdict.

    `unfinished` counts jobs, `unread` recorded rules that cannot be read: neither leaves a claim reproduced.
    """

    experiment: str
    about: Mapping[str, Any]
    runs: list[RunRecord]
    unfinished: int
    checks: list[Check]
    notes: list[str]
    changed: bool = False
    unread: int = 0

    @property
    def by(self) -> str:
        """Who claims it: paper | permlab."""
        return "permlab" if self.about.get("claim_by") == "permlab" else "paper"

    @property
    def verdict(self) -> str:
        """All rules hold, some, or none.

        What holds of a paper's claim on a toy, or with other keys than shipped, is toy scale only. A claim of our own
        is about the setting that it names, so that it has no toy scale.
        """
        held = [check.outcome.held for check in self.checks]
        if not self.runs:
            return "unfinished"
        if not held or all(h is None for h in held):
            return "not judged"
        if all(held) and not self.unfinished and not self.unread:
            if self.by == "permlab":
                return "holds"
            return "toy scale only" if self.about.get("scale") == "toy" or self.changed else "reproduced"
        return "partly" if any(held) else ALWAYS_SHOWN[self.by][-1]

    @property
    def minutes(self) -> float:
        """Wall-clock minutes of the runs that count."""
        return sum(run.seconds for run in self.runs) / 60

    def ours(self) -> Lines:
        """What was measured, a line per check; without checks, every metric's mean and spread (at most six)."""
        if self.checks:
            return Lines(tuple((check.line, bool(check.outcome.held)) for check in self.checks))
        names = list(dict.fromkeys(name for run in self.runs for name in run.metrics))[:6]
        found = {name: spread(run.metrics.get(name) for run in self.runs) for name in names}
        return Lines(tuple((f"{name}: {value}", None) for name, value in found.items() if value))

    def row(self) -> Row:
        """Return the row of the first table."""
        said = [self.about.get("claim"), self.about.get("source"), *self.notes]
        verdict, ours = self.verdict, self.by == "permlab"
        if verdict in ("partly", ALWAYS_SHOWN[self.by][-1]) or verdict == "holds":
            toy = self.about.get("scale") == "toy" and not ours
            verdict += " (on a toy)" if toy else " (with other keys)" if self.changed else ""
        return {
            "experiment": self.experiment,
            "claim": Lines(tuple((str(line), None) for line in said if line)),
            "published": self.about.get("published"),
            "ours": self.ours(),
            "verdict": verdict,
            "minutes": round(self.minutes, 2),
        }

    def check_rows(self) -> list[Row]:
        """Return one row per rule."""
        return [
            {
                "experiment": self.experiment,
                "claim_by": self.by,
                "check": check.name,
                "rule": check.rule.statement,
                "measured": check.outcome.value,
                "deviation": check.spread.deviation if check.spread else None,
                "needed": f"{check.rule.comparison} {check.rule.threshold:g}",
                "held": "not measured" if check.outcome.held is None else check.outcome.held,
                "runs": check.outcome.runs,
                "repeats": check.seeds,
                "of": f"{check.noun}s",
            }
            for check in self.checks
        ]


def cards(claims: Sequence[Claim], by: str) -> list[Card]:
    """Return how many claims have each verdict: those a reader asks for always, the others where there are any."""
    counts = {name: sum(claim.verdict == name for claim in claims) for name in (*ALWAYS_SHOWN[by], *OPEN)}
    return [Card(count, name) for name, count in counts.items() if count or name in ALWAYS_SHOWN[by]]


def judge(runs: Sequence[RunRecord], shipped: Shipped = lambda name: None) -> list[Claim]:
    """Judge every experiment that has runs, in alphabetical order.

    Runs of one experiment that differ in more than what it sweeps over were started with other keys; they are judged
    apart, and the row says what was changed.
    """
    by_name: dict[str, list[RunRecord]] = {}
    for run in runs:
        if run.experiment:
            by_name.setdefault(run.experiment["name"], []).append(run)
    claims = []
    for name in sorted(by_name):
        original = shipped(name)
        variants = split(by_name[name])
        told_apart = [key for key in differing_keys(by_name[name]) if key not in swept(by_name[name][-1])]
        claims += [judge_one(name, members, original, told_apart) for members in variants]
    return claims


def swept(run: RunRecord) -> set[str]:
    """Return the keys that an experiment varies, its seed, and where it runs."""
    sweep = run.experiment.get("sweep")
    keys = set(sweep) if isinstance(sweep, dict) else set()
    places = {key for key in flatten(run.config) if is_place(key)}
    return keys | places | {"seed"}


def is_place(key: str) -> bool:
    """Return whether a key says where something lies or on what it runs."""
    return key.startswith("hardware.") or key.rsplit(".", 1)[-1] in PLACES


def split(runs: Sequence[RunRecord]) -> list[list[RunRecord]]:
    """Split the runs of one experiment by everything that it does not vary itself.

    Only keys that all of them have are compared: one that a later version added stood at its default before.
    """
    variants: dict[str, list[RunRecord]] = {}
    shared = set.intersection(*(set(decisive(run)) for run in runs))
    for run in runs:
        ours = swept(run)
        # A swept group (model=a,b) varies all of its keys.
        kept = {k: v for k, v in decisive(run).items() if k in shared and not {k, k.split(".")[0]} & ours}
        variants.setdefault(repr(sorted((k, as_text(v)) for k, v in kept.items())), []).append(run)
    return list(variants.values())


def judge_one(
    name: str, runs: Sequence[RunRecord], original: Mapping[str, Any] | None, told_apart: Sequence[str] = ()
) -> Claim:
    """Judge runs that belong together."""
    chosen, open_ones = current(runs), unfinished(runs)
    about = dict(runs[-1].experiment)
    notes = []
    recorded = about.get("checks")
    texts = recorded if isinstance(recorded, list) else []
    shipped_about = (original or {}).get("experiment") or {}
    if "claim_by" not in about and shipped_about.get("claim_by"):
        about["claim_by"] = shipped_about["claim_by"]  # the run is older than the distinction
    if not texts and shipped_about.get("checks"):
        texts = shipped_about["checks"]
        about |= {key: shipped_about.get(key) for key in ("scale", "published")}
        notes.append("(rules written after these runs)")
    changed = changed_keys(runs[-1], original, told_apart)
    if changed:
        more = f" and {counted(len(changed) - MOST_CHANGED, 'more key')}" if len(changed) > MOST_CHANGED else ""
        notes.append("run with " + ", ".join(changed[:MOST_CHANGED]) + more)
    if open_ones:
        notes.append(f"{len(open_ones)} of {counted(len(open_ones) + len(chosen), 'job')} did not finish")
    short = missing_jobs(chosen, about)
    if short:
        notes.append(short)
    checks, unread = [], 0
    for text in texts:
        try:
            rule = parse_rule(str(text))
        except UserError as error:
            notes.append(str(error))
            unread += 1
            continue
        if not about_others(rule, chosen, original):
            checks.append(check_one(rule, chosen))
    return Claim(name, about, chosen, len(open_ones), checks, notes, bool(changed), unread)


def about_others(rule: Rule, runs: Sequence[RunRecord], original: Mapping[str, Any] | None) -> bool:
    """Return whether a rule is about a shipped value that these runs changed, such as another data set."""
    if not runs or original is None:
        return False
    told = [(key, value) for key, value in rule.where if key not in swept(runs[-1])]
    return any(
        same(look_up(original, key), value) and not any(same(look_up(r.config, key), value) for r in runs)
        for key, value in told
    )


def check_one(rule: Rule, runs: Sequence[RunRecord]) -> Check:
    """Evaluate one rule on finished runs."""
    outcome = rule.evaluate((run.config, run.metrics) for run in runs)
    fitting = [r for r in runs if rule.matches(r.config) and all(r.metrics.get(m) is not None for m in rule.metrics)]
    found = spread(run.metrics[rule.left.metric] for run in fitting) if rule.right is None else None
    if found is not None and found.count == 1 and inner_seeds(fitting[0]) > 1:
        inner = fitting[0].metrics.get(f"{rule.left.metric}_sd", fitting[0].metrics.get(f"{rule.left.metric}_std"))
        found = Spread(found.mean, inner, inner_seeds(fitting[0]))
    # Arms of a sweep share their seeds: three orders with seeds 0, 1, 2 are three seeds, not nine.
    seeds = len({run.seed for run in fitting}) * max([inner_seeds(run) for run in fitting], default=0)
    return Check(rule, outcome, found, seeds, repeated(runs[0].task) if runs else "seed")


def changed_keys(run: RunRecord, original: Mapping[str, Any] | None, told_apart: Sequence[str]) -> list[str]:
    """Return `key=value (shipped: value)` for what was run otherwise than the experiment says."""
    flat, ours = decisive(run), swept(run)
    if original is None:
        return [f"{key}={as_text(flat.get(key))}" for key in told_apart]
    shipped = flatten({key: value for key, value in original.items() if key not in ASIDE})
    keys = [key for key in flat if key in shipped and key not in ours and key.split(".")[0] not in ours]
    differ = [key for key in keys if as_text(flat[key]) != as_text(shipped[key])]
    return [f"{key}={as_text(flat[key])} (shipped: {as_text(shipped[key])})" for key in differ]


def missing_jobs(runs: Sequence[RunRecord], about: Mapping[str, Any]) -> str:
    """Say how many points of the experiment's sweep have a finished run, when some have none."""
    sweep = about.get("sweep")
    if not isinstance(sweep, dict) or not sweep or any("(" in str(v) or "[" in str(v) for v in sweep.values()):
        return ""
    expected = 1
    for values in sweep.values():
        expected *= len(str(values).split(","))
    return f"{len(runs)} of {expected} jobs of its sweep" if len(runs) < expected else ""
