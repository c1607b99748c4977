"""Sweeps: every job leaves a note in the sweep directory, so that any Hydra launcher gives the same closing table."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.experimental.callback import Callback

from permlab.errors import UserError, blotted, first_line
from permlab.runs.comparison import Group, headline, number_rows, sweep_figures, word_rows
from permlab.runs.console import console, print_table
from permlab.runs.directory import create
from permlab.runs.outcome import Outcome
from permlab.storage.files import read_json, remove_temporaries, save_figure, write_csv, write_json
from permlab.storage.locks import NAME as LOCK
from permlab.storage.locks import hold, holder
from permlab.tables import number_columns, spread

FINISHED = ("done", "skipped")
PRUNED = "pruned"
"""A job of a search that was ended early because others do better: no failure, and nothing to compare."""
TABLE_SECONDS = 10.0
"""Between two tables of a sweep that is going: each reads the results of all its jobs."""


class ForgetJobs(Callback):
    """Has Hydra forget a job's configurations, which its sweeper keeps until the last job."""

    def on_job_end(self, config: Any, job_return: Any, **_: Any) -> None:
        """Drop what nobody reads again; Hydra wants the status only."""
        job_return.cfg = job_return.hydra_cfg = None


@contextmanager
def open_sweep(root: Path, earlier: Path | None = None) -> Iterator[Path]:
    """Make a sweep directory, or go on in an earlier one, and hold it while the block runs.

    What killed sweeps left unfinished is removed first.
    """
    for lock in root.glob(f"sweeps/*/{LOCK}"):
        with suppress(OSError, UserError), hold(lock.parent):  # not one that is going
            remove_temporaries(lock.parent)
    sweep = earlier or create(root / "sweeps")
    with hold(sweep):
        yield sweep


def begin_job(sweep: Path, number: int, varied: dict[str, str], directory: Path) -> None:
    """Write where the run of a job lies, once it could be resumed: what starts the job again goes on there."""
    note_job(sweep, number, varied, Outcome(directory, "running", 1))


def note_job(sweep: Path, number: int, varied: dict[str, str], outcome: Outcome) -> None:
    """Write what became of one job, and now and then the table of all."""
    varied = {key: blotted(value) for key, value in varied.items()}
    note = {"job": number, "varied": varied, "status": outcome.status, "exit_code": outcome.exit_code}
    note |= {"directory": str(outcome.directory or ""), "message": outcome.message}
    write_json(sweep / "jobs" / f"{number:05d}.json", note)
    table = sweep / "jobs.csv"
    with suppress(OSError):
        if not table.exists() or time.time() - table.stat().st_mtime > TABLE_SECONDS:
            write_table(sweep, read_jobs(sweep))


def noted(sweep: Path, number: int) -> dict[str, Any]:
    """Return the note of a job; empty when it has not begun."""
    note = read_json(sweep / "jobs" / f"{number:05d}.json")
    return note if isinstance(note, dict) else {}


def unfinished(sweep: Path) -> bool:
    """Whether a job has failed."""
    notes = (read_json(path) for path in (sweep / "jobs").glob("*.json"))
    return any(isinstance(note, dict) and note.get("status") in ("failed", "refused") for note in notes)


def read_jobs(sweep: Path) -> list[dict[str, Any]]:
    """Return the notes of all jobs, in order, each with its run's metrics."""
    notes = [note for path in sorted((sweep / "jobs").glob("*.json")) if (note := read_json(path))]
    return [with_result(note) for note in notes]


def read_job(sweep: Path, number: int) -> dict[str, Any]:
    """Return the note of one job with its run's metrics; it has no status when the job has not begun."""
    return with_result({"directory": "", **noted(sweep, number)})


def with_result(note: dict[str, Any]) -> dict[str, Any]:
    """Add metrics and seconds of the run to a note."""
    result = read_json(Path(note["directory"]) / "result.json") if note["directory"] else None
    note["metrics"] = (result or {}).get("metrics", {})
    note["seconds"] = (result or {}).get("seconds")
    return note


def settle(sweep: Path, expected: Sequence[Sequence[str]], varied: Sequence[str]) -> None:
    """Say of every job that has no end what became of it: lost with its process, or never started."""
    for number, overrides in enumerate(expected):
        note = noted(sweep, number)
        if note.get("status") == "running":
            path = Path(note["directory"])
            worker = holder(path)
            if worker:
                said = Outcome(path, "running", 1, f"{worker} works on it")
            else:
                said = Outcome(path, "killed", 1, f"its process is gone; continue with: permlab resume {path}")
            note_job(sweep, number, note["varied"], said)
        elif not note:
            values = dict(each.split("=", 1) for each in overrides if "=" in each)
            here = {key: values[key] for key in varied if key in values}
            logs = sweep / ".submitit"
            why = f"it left no trace; see {logs}" if logs.is_dir() else "a job before it failed or was stopped"
            note_job(sweep, number, here, Outcome(None, "not started", 1, why))


def write_table(sweep: Path, notes: list[dict[str, Any]], names: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Write jobs.csv, with all metrics where no names are given, and return its rows without the directories."""
    known = names if names is not None else number_columns([note["metrics"] for note in notes])
    rows = [job_row(note, list(known)) for note in notes]
    write_csv(sweep / "jobs.csv", [{**row, "directory": note["directory"]} for row, note in zip(rows, notes)])
    return rows


def close_sweep(
    sweep: Path,
    expected: Sequence[Sequence[str]],
    task: ModuleType,
    varied: Sequence[str] = (),
    objective: str | None = None,
) -> int:
    """Print one table of all jobs, and of means over seeds; write both as CSV, and the figures of the comparison.

    `jobs.csv` names the run directories; `comparison.csv` holds numbers: mean, deviation and count of every metric.

    Args:
        sweep: its directory.
        expected: the overrides of every job, in order.
        task: the module of the task that all jobs have.
        varied: the keys that differ between jobs.
        objective: names the best job: a metric, with a minus sign the less the better; else the task's own OBJECTIVE.

    Returns the exit code: 1 when a job failed or is missing.
    """
    settle(sweep, expected, varied)
    notes = read_jobs(sweep)
    names = headline(task, [note["metrics"] for note in notes])
    rows = write_table(sweep, notes, names)
    print_table(rows, f"jobs of {sweep}")
    groups = by_configuration(notes)
    write_csv(sweep / "comparison.csv", number_rows(groups, names))
    if len(groups) < len(notes):
        print_table(word_rows(groups, names), "mean ± standard deviation over seeds")
    draw(sweep, task, groups)
    best = best_job(groups, objective or str(getattr(task, "OBJECTIVE", "")))
    if best:
        console().print(best, markup=False)
    failed = [note for note in notes if note["status"] not in (*FINISHED, PRUNED)]
    for note in failed:
        console().print(f"job {note['job']} {note['status']}: {note['message']} ({note['directory']})", markup=False)
    return 1 if failed or len(notes) < len(expected) else 0


def best_job(groups: Sequence[Group], objective: str) -> str:
    """Return in words which configuration has the best mean of a metric; empty for fewer than two that have it."""
    name = objective.removeprefix("-")
    found = [(spread(each.get(name) for each in metrics), varied) for varied, metrics in groups]
    measured = [(mean, varied) for mean, varied in found if mean is not None]
    if len(measured) < 2:
        return ""
    sign = -1 if objective.startswith("-") else 1
    best, varied = max(measured, key=lambda each: sign * each[0].mean)
    over = f" (mean of {best.count})" if best.count > 1 else ""
    return f"best: {' '.join(f'{key}={value}' for key, value in varied.items())}: {name} {best.mean:.4g}{over}"


def draw(sweep: Path, task: ModuleType, groups: list[Group]) -> None:
    """Write the figures; one that cannot be drawn is said and costs the sweep nothing."""
    try:
        for name, figure in sweep_figures(task, groups).items():
            save_figure(sweep / "figures", name, figure)
            console().print(f"figure {sweep / 'figures' / name}.png", markup=False)
    except Exception as error:  # the jobs are done and their tables written
        console().print(f"the figures of this sweep could not be drawn: {first_line(error)}", markup=False)


def job_row(note: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Return one row of the job table."""
    numbers = {name: note["metrics"].get(name) for name in names}
    return {"job": note["job"], **note["varied"], "status": note["status"], **numbers, "seconds": note["seconds"]}


def by_configuration(notes: list[dict[str, Any]]) -> list[Group]:
    """Group the jobs that differ in nothing but their seed; what did not finish has no numbers to compare."""
    groups: dict[tuple[tuple[str, str], ...], list[dict[str, float]]] = {}
    for note in notes:
        key = tuple((k, v) for k, v in note["varied"].items() if k != "seed")
        finished = note["status"] in FINISHED and note["metrics"]
        groups.setdefault(key, []).extend([note["metrics"]] if finished else [])
    return [(dict(key), metrics) for key, metrics in groups.items()]
