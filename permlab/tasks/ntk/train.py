"""`task.mode=train`: real finite networks, chunk by chunk; measured ensemble sizes beside the laws."""

from __future__ import annotations

from typing import Any

from permlab.config import Config
from permlab.errors import Interrupted
from permlab.ntk.cases import CaseTraining, across_widths, cases_of, success_z, widest_against_law
from permlab.ntk.sizes import add_published, headline_rows
from permlab.runs.run import Run
from permlab.tables import Row, is_number
from permlab.tasks.ntk.figures import draw_trained_accuracy, draw_widths
from permlab.tasks.ntk.settings import NtkConfig

SHOWN = (
    *("k", "ones", "width", "ensemble_size", "ensemble_size_error", "ensemble_size_law", "law_this_width"),
    *("stopping_mean", "stopping_law", "stopping_runs", "success", "success_law"),
    *("checked", "training_error", "difference_rms", "difference_max", "difference_over_sd", "seconds_per_network"),
    *("first_n", "published"),
)
SUMMARY = (
    *("ensemble_size", "ensemble_size_error", "ensemble_size_law", "stopping_mean", "stopping_law"),
    *("success", "success_law", "training_error", "difference_max", "difference_rms", "seconds_per_network"),
)


def run_train(config: Config[NtkConfig], run: Run) -> None:
    """Train every case, with checkpoints between chunks."""
    task = config.task
    cases = cases_of(task)
    state = (run.load_checkpoint() if run.resumed else None) or {"finished": [], "case": None}
    rows: list[Row] = list(state["finished"])
    accuracies: list[Row] = list(state.get("accuracies", []))
    total, done = len(cases) * task.members, len(rows) * task.members
    if run.resumed:
        run.rewind_metrics(done)
        run.say(f"continuing with {len(rows)} of {len(cases)} cases finished")
    with run.progress(f"training networks ({task.solver})", total, done) as bar:
        for index in range(len(rows), len(cases)):
            case = CaseTraining(task, cases[index], config.seed, run.device, lambda *_: run.check_stop())
            case.restore(state["case"])
            while not case.finished:
                advance(case, run, checkpoint(rows, accuracies, None))
                step = index * task.members + case.statistics.seen
                bar.update(step, k=cases[index].k, width=cases[index].width)
                if run.stopping or run.checkpoint_due(step):
                    run.save_checkpoint(checkpoint(rows, accuracies, case))
                    run.check_stop()
            rows.append(case.row())
            accuracies += case.accuracy_rows()
            numbers = {key: float(value) for key, value in rows[-1].items() if is_number(value)}
            run.log(numbers, step=(index + 1) * task.members)
            state["case"] = None
            run.save_checkpoint(checkpoint(rows, accuracies, None))
    show(config, run, rows, accuracies)


def advance(case: CaseTraining, run: Run, finished: dict[str, Any]) -> None:
    """Train the next chunk; a stop within it keeps the finished chunks."""
    try:
        case.advance()
    except Interrupted:
        run.save_checkpoint(finished | {"case": case.state()})
        raise


def checkpoint(rows: list[Row], accuracies: list[Row], case: CaseTraining | None) -> dict[str, Any]:
    """Rows and accuracies of the finished cases, and where the current one is."""
    return {"finished": rows, "accuracies": accuracies, "case": case.state() if case else None}


def show(config: Config[NtkConfig], run: Run, rows: list[Row], accuracies: list[Row]) -> None:
    """Tables, headline numbers of the largest k, first `ones` and largest width, figures."""
    task = config.task
    add_published(rows, task)
    columns = [name for name in SHOWN if any(row.get(name) is not None for row in rows)]
    layers = task.trained.name
    title = f"{task.members} networks each: {task.solver}, trained layers: {layers}, {task.parameterization}"
    run.table("ensemble_size", rows, title=title, columns=columns)
    first = headline_rows(rows, task)
    last = max(first, key=lambda row: (row["k"], row["width"]))
    run.summary(**{key: last[key] for key in SUMMARY if last.get(key) is not None})
    if last["success_error"] and last["success_law"] is not None:
        run.summary(success_z=success_z(last))
    run.summary(**widest_against_law([row for row in first if row["width"] == last["width"]]))
    run.summary(**across_widths(first))
    for row in rows:
        if not row["stopping_runs"]:
            where = f"k={row['k']} width={row['width']}"
            run.say(f"{where}: {row['members']} networks never reached the target; raise task.members")
    run.figure("size_against_width", draw_widths(task, rows))
    run.table("accuracy", accuracies, show=False)
    run.figure("accuracy_against_networks", draw_trained_accuracy(task, accuracies))
