"""Cases of `task=merge` in several processes: `permlab task=merge task.pairs=4 hardware.processes=2`.

A process gets ready as the run itself does, up to the loop over cases (`loop.each_case`), and then measures the cases
that it is asked for. Seeds and data are those of the run, so the numbers are the same.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from permlab import processes, registry
from permlab.config import build_config
from permlab.runs.execute import cautions_of
from permlab.runs.helper import Helper
from permlab.tables import Row

if TYPE_CHECKING:
    from permlab.runs.run import Run

Measured = tuple[dict[str, list[Row]], dict[str, float]]


class Ready(Exception):
    """A helper has come to the loop over cases."""

    def __init__(self, measure: Callable[[Any], Measured], cases: Sequence[Any]) -> None:
        super().__init__("ready")
        self.measure, self.cases = measure, cases


def measured_apart(run: Run, numbers: Sequence[int]) -> Iterator[Measured]:
    """Yield what cases come to, in order; files and warnings of the helpers become the run's."""
    work = functools.partial(measured, run.config.to_container(), str(run.dir), run.resumed)
    with run.progress("cases", len(numbers)) as bar:
        for done, (found, (artifacts, warnings)) in enumerate(processes.apart(work, numbers, lambda: run.stopping), 1):
            for each in artifacts:
                run.record(each)
            for each in warnings:
                run.warn(each)
            yield found
            bar.update(done)


def measured(settings: dict[str, Any], folder: str, resumed: bool, number: int) -> tuple[Measured, Any]:
    """Measure one case in a process of its own; also what it wrote and warned of."""
    if folder not in _readied:  # its first case
        _readied[folder] = get_ready(Helper(build_config(settings), Path(folder), resumed))
    run, ready = _readied[folder]
    with cautions_of(run):
        found = ready.measure(ready.cases[number])
    return found, run.taken()


_readied: dict[str, tuple[Helper, Ready]] = {}


def get_ready(run: Helper) -> tuple[Helper, Ready]:
    """Carry the run out up to the loop over cases."""
    try:
        registry.task(run.config.task.name).run(run.config, run)
    except Ready as ready:
        return run, ready
    raise AssertionError("a study without cases has nothing to share")
