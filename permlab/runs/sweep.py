"""Sweeps: every job leaves a note in the sweep directory, so that any Hydra launcher gives the same closing table."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from permlab.runs.console import console, print_table
from permlab.runs.execute import Outcome
from permlab.storage.files import read_json, save_figure, write_csv, write_json
from permlab.tables import words


def note_job(sweep: Path, number: int, varied: dict[str, str], outcome: Outcome) -> None:
    """Write what became of one job."""
    note = {"job": number, "varied": varied, "status": outcome.status, "exit_code": outcome.exit_code}
    note |= {"directory": str(outcome.directory or ""), "message": outcome.message}
    write_json(sweep / "jobs" / f"{number:05d}.json", note)


def read_jobs(sweep: Path) -> list[dict[str, Any]]:
    """Return the notes of all jobs, in order, each with its run's metrics."""
    notes = [note for path in sorted((sweep / "jobs").glob("*.json")) if (note := read_json(path))]
    for note in notes:
        result = read_json(Path(note["directory"]) / "result.json") if note["directory"] else None
        note["metrics"] = (result or {}).get("metrics", {})
        note["seconds"] = (result or {}).get("seconds")
    return notes


def close_sweep(sweep: Path, expected: int, task: ModuleType) -> int:
    """Print one table of all jobs, and of means over seeds; write both as CSV, and the task's figures of a sweep.

    Returns the exit code: 1 when a job failed or is missing.
    """
    notes = read_jobs(sweep)
    headline = tuple(name for name in task.HEADLINE if any(name in note["metrics"] for note in notes))
    write_csv(sweep / "jobs.csv", rows := [job_row(note, headline) for note in notes])
    print_table(rows, f"jobs of {sweep}")
    groups = by_configuration(notes)
    if len(groups) < len(notes):
        write_csv(sweep / "comparison.csv", means := [mean_row(*group, headline) for group in groups])
        print_table(means, "mean ± standard deviation over seeds")
    draw = getattr(task, "sweep_figures", None)
    for name, figure in (draw(groups) if draw else {}).items():
        save_figure(sweep / "figures", name, figure)
        console().print(f"figure {sweep / 'figures' / name}.png", markup=False)
    failed = [note for note in notes if note["status"] not in ("done", "skipped")]
    for note in failed:
        console().print(f"job {note['job']} {note['status']}: {note['message']} ({note['directory']})", markup=False)
    return 1 if failed or len(notes) < expected else 0


def job_row(note: dict[str, Any], headline: tuple[str, ...]) -> dict[str, Any]:
    """Return one row of the job table."""
    numbers = {name: note["metrics"].get(name) for name in headline}
    return {"job": note["job"], **note["varied"], "status": note["status"], **numbers, "seconds": note["seconds"]}


Group = tuple[dict[str, str], list[dict[str, float]]]
"""What was varied besides the seed, and the metrics of every finished job of it."""


def by_configuration(notes: list[dict[str, Any]]) -> list[Group]:
    """Group the jobs that differ in nothing but their seed."""
    groups: dict[tuple[tuple[str, str], ...], list[dict[str, float]]] = {}
    for note in notes:
        key = tuple((k, v) for k, v in note["varied"].items() if k != "seed")
        groups.setdefault(key, []).extend([note["metrics"]] if note["metrics"] else [])
    return [(dict(key), metrics) for key, metrics in groups.items()]


def mean_row(varied: dict[str, str], metrics: list[dict[str, float]], headline: tuple[str, ...]) -> dict[str, Any]:
    """Return one row: what was varied, how many seeds, and mean ± sd of the headline numbers."""
    numbers = {name: [m[name] for m in metrics if isinstance(m.get(name), (int, float))] for name in headline}
    return {**varied, "seeds": len(metrics), **{name: words(values) for name, values in numbers.items()}}
