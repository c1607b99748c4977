"""The loop that every study of `task=merge` shares: one case after the other, kept in checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from permlab.tables import Row

if TYPE_CHECKING:
    from permlab.runs.run import Run

T = TypeVar("T")
Tables = dict[str, list[Row]]
Measured = tuple[Tables, dict[str, float]]


def each_case(run: Run, cases: Sequence[T], measure: Callable[[T], Measured]) -> Tables:
    """Return the rows of all cases, table by table.

    After every case its numbers are logged and the rows so far saved, so that a resumed run goes on with the next one.

    Args:
        run: where to log and save.
        cases: what to measure, pairs of networks for instance.
        measure: case -> (name of a table -> its rows, numbers for metrics.jsonl).

    Raises:
        Interrupted: a stop signal arrived; what is saved stays.
    """
    from permlab.processes import count
    from permlab.runs.helper import Helper
    from permlab.tasks.merge.apart import Ready, measured_apart
    from permlab.tasks.merge.pairs import forget_networks

    if isinstance(run, Helper):
        raise Ready(measure, cases)
    saved = (run.load_checkpoint() if run.resumed else None) or {"tables": {}, "done": 0}
    if run.resumed:
        run.rewind_metrics(saved["done"])
    left = range(saved["done"], len(cases))
    results = measured_apart(run, left) if count() > 1 else (measure(cases[number]) for number in left)
    for number, (tables, numbers) in zip(left, results):
        for name, rows in tables.items():
            saved["tables"].setdefault(name, []).extend(rows)
        saved["done"] = number + 1
        run.log(numbers, step=number + 1)
        run.save_checkpoint(saved)
        run.check_stop()
    forget_networks(run)
    found: Tables = saved["tables"]
    return found
