"""Assemble a report from run directories: `report = build(collect(["outputs"]), Output(folder))`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from permlab import registry
from permlab.errors import blotted
from permlab.reports.collect import Collected, RunRecord
from permlab.reports.document import Block, Cards, Details, Items, Report, Section, Text
from permlab.reports.naming import as_text, run_names
from permlab.reports.task_section import task_section
from permlab.reports.verdict import Claim, Shipped, cards, judge
from permlab.reports.writer import Output
from permlab.tables import Row, counted, is_number, plain
from permlab.version import __version__

CLAIM_COLUMNS = {
    "experiment": "experiment",
    "claim": "claim, source",
    "published": "published",
    "ours": "ours (mean ± sd, repeats)",
    "verdict": "verdict",
    "minutes": "minutes used",
}
CHECK_COLUMNS = {
    "experiment": "experiment",
    "claim_by": "claimed by",
    "check": "check",
    "rule": "rule",
    "measured": "measured",
    "deviation": "sd",
    "needed": "needed",
    "held": "held",
    "repeats": "n",
    "of": "of",
}
CLAIMED = {
    "paper": (
        "paper_against_ours",
        "Claims of the papers",
        "The rules stand in the experiment's file. All hold: reproduced, or toy scale only where the experiment is a "
        "toy or was run with other keys than it ships with; some hold, or a job did not finish: partly; none: not "
        "reproduced. A rule without a measurement does not hold.",
    ),
    "permlab": (
        "own_claims",
        "Claims of our own",
        "No paper says these; they are about the setting that they name, and judged by the same kind of rules: holds, "
        "partly, does not hold.",
    ),
}
"""Who claims it -> name and title of the table, and how its verdicts come about."""
MOST_ENVIRONMENTS = 20


@dataclass
class Built:
    """The report and the claims of its first table."""

    report: Report
    claims: list[Claim]


def build(
    collected: Collected,
    out: Output,
    title: str = "permlab report",
    shipped: Shipped = lambda name: None,
    experiments: Sequence[str] = (),
) -> Built:
    """Make every section; tables and figures are written by `out` on the way.

    `shipped` gives an experiment's configuration as it ships; `experiments` are the names of all shipped ones.
    """
    runs = collected.runs
    claims = judge(runs, shipped)
    report = Report(title, subtitle(collected))
    report.sections.append(verdict_section(claims, experiments, out))
    readable = [run for run in runs if run.status != "corrupt"]
    present = {run.task for run in readable}
    known = [task for task in registry.table("tasks") if task in present]
    for task in [*known, *sorted(present - set(known))]:
        report.sections.append(task_section(task, [run for run in readable if run.task == task], out))
    report.sections.append(problem_section(runs, out))
    report.sections.append(run_section(runs, out))
    report.sections.append(environment_section(runs, out))
    return Built(report, claims)


def subtitle(collected: Collected) -> str:
    """Say when the report was made and what it read."""
    runs = collected.runs
    counts = {status: len(collected.with_status(status)) for status in dict.fromkeys(run.status for run in runs)}
    said = ", ".join(f"{count} {status}" for status, count in counts.items())
    made = f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC"
    aside = f", {counted(collected.debug, 'debug run')} left out" if collected.debug else ""
    return f"{counted(len(runs), 'run')} ({said or 'none'}){aside}, made {made} with permlab {__version__}"


def verdict_section(claims: Sequence[Claim], experiments: Sequence[str], out: Output) -> Section:
    """The papers' claims and our own, each with claim, published, ours, verdict, minutes; then every rule's number."""
    section = Section("paper-against-ours", "Paper against ours")
    if claims:
        for by, (name, title, judged) in CLAIMED.items():
            of_these = [claim for claim in claims if claim.by == by]
            if of_these:
                table = out.table(name, [claim.row() for claim in of_these], title, CLAIM_COLUMNS)
                table.whole = True
                section.blocks += [Cards(cards(of_these, by)), table, Text(judged)]
        rows = [row for claim in claims for row in claim.check_rows()]
        if rows:
            every = out.table("checks", rows, "Every rule with its measured number", CHECK_COLUMNS)
            every.whole = True
            section.blocks.append(every)
    else:
        section.blocks.append(Text("None of these runs belongs to an experiment (permlab ls experiments)."))
    missing = sorted(set(experiments) - {claim.experiment for claim in claims})
    if missing:
        said = f"{counted(len(missing), 'shipped experiment')} without runs here"
        section.blocks.append(Details(said, [Items(missing)]))
    return section


def problem_section(runs: Sequence[RunRecord], out: Output) -> Section:
    """Failed, interrupted, unfinished and corrupt runs with their error line, and files that could not be read."""
    section = Section("problems", "Runs that did not finish, and unreadable files")
    names = run_names(runs)
    rows: list[Row] = [
        {
            "run": out.link(run.directory, names[run.directory]),
            "task": run.task,
            "experiment": run.experiment.get("name"),
            "status": run.status,
            "what happened": happened(run),
            "directory": run.id,
        }
        for run in runs
        if run.status != "done"
    ]
    if rows:
        section.blocks.append(out.table("problems", rows, "Not counted in any mean"))
    notes: list[Row] = [
        {"run": out.link(run.directory, names[run.directory]), "task": run.task, "note": note, "directory": run.id}
        for run in runs
        for note in run.notes
    ]
    if notes:
        section.blocks.append(out.table("notes", notes, "Files left out"))
    cautions: list[Row] = [
        {"run": out.link(run.directory, run.id), "task": run.task, "caution": text}
        for run in runs
        for text in run.cautions
    ]
    if cautions:
        section.blocks.append(out.table("cautions", cautions, "What runs warn about"))
    if not section.blocks:
        section.blocks.append(Text("Every run finished and every file could be read."))
    return section


def happened(run: RunRecord) -> str:
    """Say what became of a run that is not done; of one that is going, also what it logged last."""
    logged = run.logged()[-1:] if run.status == "running" else []
    numbers = (
        ", ".join(f"{key} {plain(value)}" for key, value in logged[0].items() if is_number(value)) if logged else ""
    )
    return f"{run.problem}; last logged: {numbers}" if numbers else run.problem


def run_section(runs: Sequence[RunRecord], out: Output) -> Section:
    """One row per run directory."""
    names = run_names(runs)
    rows: list[Row] = [
        {
            "run": out.link(run.directory, names[run.directory]),
            "task": run.task,
            "experiment": run.experiment.get("name"),
            "status": run.status,
            "seed": run.seed,
            "minutes": round(run.seconds / 60, 2) if run.status != "corrupt" else None,
            "peak memory (MiB)": run.result.get("peak_rss_mb"),
            "log": out.link(run.directory / "run.log", "run.log") if (run.directory / "run.log").is_file() else None,
            "directory": run.id,
        }
        for run in runs
    ]
    blocks: list[Block] = [out.table("runs", rows, "Every run directory")] if rows else [Text("There are no runs.")]
    return Section("runs", "All runs", blocks)


def environment_section(runs: Sequence[RunRecord], out: Output) -> Section:
    """Distinct environments once, and which run had which."""
    section = Section("environments", "Environments")
    found: dict[str, tuple[dict[str, Any], list[RunRecord]]] = {}
    rows: list[Row] = []
    names = run_names(runs)
    for run in runs:
        environment = run.environment()
        aside = ("seed", "argv", "pid")
        lasting = {key: value for key, value in environment.items() if key not in aside}
        key = json.dumps(lasting, sort_keys=True, default=str)
        found.setdefault(key, (lasting, []))[1].append(run)
        argv = environment.get("argv")
        command = blotted(" ".join(map(str, argv))) if isinstance(argv, list) else ""
        number = list(found).index(key) + 1
        known = number if environment else "unknown"
        rows.append({"run": names[run.directory], "task": run.task, "environment": known, "command": command})
    for number, (lasting, members) in enumerate(list(found.values())[:MOST_ENVIRONMENTS], start=1):
        if not lasting:
            continue
        table = out.table(f"environment_{number}", environment_rows(lasting), f"Environment {number}")
        section.blocks.append(
            Details(f"Environment {number}: {said(lasting)}; {counted(len(members), 'run')}", [table])
        )
    if rows:
        section.blocks.append(
            Details("Environment and command of every run", [out.table("commands", rows, "Commands")])
        )
    else:
        section.blocks.append(Text("There are no runs."))
    return section


def environment_rows(environment: dict[str, Any]) -> list[Row]:
    """Return one row per entry; packages and git state are spread out."""
    rows: list[Row] = []
    for key, value in environment.items():
        if isinstance(value, dict):
            rows += [{"what": f"{key} {inner}", "value": as_text(item)} for inner, item in value.items()]
        else:
            rows.append({"what": key, "value": as_text(value)})
    return rows


def said(environment: dict[str, Any]) -> str:
    """Name an environment in a few words."""
    git = as_mapping(environment.get("git"))
    commit = str(git.get("commit", ""))[:9] + (" with changes" if git.get("dirty") else "")
    packages = as_mapping(environment.get("packages"))
    gpu = environment.get("gpu")
    parts = [
        f"python {environment.get('python', '?')}",
        f"torch {packages.get('torch', '?')}",
        str(environment.get("cpu", "?")),
        counted(cores if isinstance(cores := environment.get("cores"), int) else 0, "core"),
        ", ".join(map(str, gpu)) if isinstance(gpu, list) and gpu else "no GPU",
    ]
    return ", ".join(parts) + (f", commit {commit}" if commit else "")


def as_mapping(value: Any) -> dict[str, Any]:
    """Return a value that is a mapping, else an empty one: files of other versions may hold anything."""
    return value if isinstance(value, dict) else {}
