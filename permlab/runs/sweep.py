"""Sweeps: every job leaves a note in the sweep directory, so that any Hydra launcher gives the same closing table."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from permlab.runs.console import console, print_table
from permlab.runs.execute import Outcome
from permlab.runs.files import read_json, write_csv, write_json


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


def close_sweep(sweep: Path, expected: int, headline: tuple[str, ...]) -> int:
    """Print one table of all jobs, and of means over seeds; write both as CSV. Returns the exit code."""
    notes = read_jobs(sweep)
    rows = [job_row(note, headline) for note in notes]
    write_csv(sweep / "jobs.csv", rows)
    print_table(rows, f"jobs of {sweep}")
    means = means_over_seeds(notes, headline)
    if means:
        write_csv(sweep / "comparison.csv", means)
        print_table(means, "mean ± standard deviation over seeds")
    failed = [note for note in notes if note["status"] not in ("done", "skipped")]
    for note in failed:
        console().print(f"job {note['job']} {note['status']}: {note['message']} ({note['directory']})", markup=False)
    return 1 if failed or len(notes) < expected else 0


def job_row(note: dict[str, Any], headline: tuple[str, ...]) -> dict[str, Any]:
    """Return one row of the job table."""
    numbers = {name: note["metrics"].get(name) for name in headline}
    return {"job": note["job"], **note["varied"], "status": note["status"], **numbers, "seconds": note["seconds"]}


def means_over_seeds(notes: list[dict[str, Any]], headline: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return one row per configuration with mean ± sd over its seeds; empty when the seed was not swept."""
    if not any("seed" in note["varied"] for note in notes):
        return []
    groups: dict[tuple[tuple[str, str], ...], list[dict[str, Any]]] = {}
    for note in notes:
        key = tuple((k, v) for k, v in note["varied"].items() if k != "seed")
        groups.setdefault(key, []).append(note["metrics"])
    rows = []
    for key, metrics in groups.items():
        row: dict[str, Any] = {**dict(key), "seeds": sum(1 for m in metrics if m)}
        for name in headline:
            values = [m[name] for m in metrics if isinstance(m.get(name), (int, float))]
            row[name] = mean_and_spread(values)
        rows.append(row)
    return rows


def mean_and_spread(values: list[float]) -> str:
    """Return `mean ± sd` (sample standard deviation), or `-`."""
    if not values:
        return "-"
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{mean:.3f}"
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
    return f"{mean:.3f} ± {spread:.3f}"
