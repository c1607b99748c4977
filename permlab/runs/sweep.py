"""Sweeps: every job leaves a note in the sweep directory, so that any Hydra launcher gives the same closing table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.experimental.callback import Callback

from permlab.errors import UserError, blotted, first_line
from permlab.runs.comparison import Group, headline, number_rows, sweep_figures, word_rows
from permlab.runs.console import console, print_table
from permlab.runs.directory import create
from permlab.runs.execute import Outcome
from permlab.storage.files import read_json, remove_temporaries, save_figure, write_csv, write_json
from permlab.storage.locks import NAME as LOCK
from permlab.storage.locks import hold

FINISHED = ("done", "skipped")


class ForgetJobs(Callback):
    """Has Hydra forget a job's configurations, which its sweeper keeps until the last job."""

    def on_job_end(self, config: Any, job_return: Any, **_: Any) -> None:
        """Drop what nobody reads again; Hydra wants the status only."""
        job_return.cfg = job_return.hydra_cfg = None


@contextmanager
def open_sweep(root: Path) -> Iterator[Path]:
    """Make a sweep directory and hold it while the block runs; first remove what killed sweeps left unfinished."""
    for lock in root.glob(f"sweeps/*/{LOCK}"):
        with suppress(OSError, UserError), hold(lock.parent):  # not one that is going
            remove_temporaries(lock.parent)
    sweep = create(root / "sweeps")
    with hold(sweep):
        yield sweep


def note_job(sweep: Path, number: int, varied: dict[str, str], outcome: Outcome) -> None:
    """Write what became of one job."""
    varied = {key: blotted(value) for key, value in varied.items()}
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
    """Print one table of all jobs, and of means over seeds; write both as CSV, and the figures of the comparison.

    `jobs.csv` names the run directories; `comparison.csv` holds numbers: mean, deviation and count of every metric.

    Returns the exit code: 1 when a job failed or is missing.
    """
    notes = read_jobs(sweep)
    names = headline(task, [note["metrics"] for note in notes])
    rows = [job_row(note, names) for note in notes]
    write_csv(sweep / "jobs.csv", [{**row, "directory": note["directory"]} for row, note in zip(rows, notes)])
    print_table(rows, f"jobs of {sweep}")
    groups = by_configuration(notes)
    write_csv(sweep / "comparison.csv", number_rows(groups, names))
    if len(groups) < len(notes):
        print_table(word_rows(groups, names), "mean ± standard deviation over seeds")
    draw(sweep, task, groups)
    failed = [note for note in notes if note["status"] not in FINISHED]
    for note in failed:
        console().print(f"job {note['job']} {note['status']}: {note['message']} ({note['directory']})", markup=False)
    return 1 if failed or len(notes) < expected else 0


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
