"""One sweep of 2,000 tiny jobs in one process: handles, threads, memory and time per job stay where they are.

python scripts/torture_soak.py [--jobs 2000] [--figures 10]

The jobs go through Hydra's launcher as those of `permlab -m` do; only the check of all of them before the first, which
composes each once more, is left out. Every job draws its figure and every tenth writes it: drawing to a file would
be most of the time.

Measured after every job: open file descriptors, threads, open figures, handlers of the log, resident memory, and the
processor seconds since the job before. Other programs slow the processor itself down, through its caches and shared
cores, so the time of a job is told in multiples of a fixed piece of work that is timed right after it. From the settled
part (jobs 50 to 250) to the last 200 jobs, medians: counts must be equal, memory may grow by `MEMORY_MIB`, the time of
a job by `SLOWER`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import itertools
import logging
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from tally import Tally

MEMORY_MIB = 16.0
SLOWER = 0.10
JOB = (
    *("task=ntk", "task.k=[4]", "task.ones=[2]", "task.replicates=10", "task.tests=50"),
    *("tracker=none", "hardware=cpu", "hardware.threads=1"),
)


@dataclass
class Reading:
    """What a process holds after a job."""

    descriptors: int
    threads: int
    figures: int
    handlers: int
    memory_mib: float
    seconds: float
    work: float
    """The seconds in multiples of those of `piece_of_work`."""


def piece_of_work() -> float:
    """Do what a job does, in small, always the same; return its processor seconds."""
    began = time.process_time()
    found = {str(number): [number] * 8 for number in range(4000)}
    sum(len(value) for _, value in sorted(found.items(), key=lambda item: item[0][::-1]))
    return time.process_time() - began


def reading(since: float) -> Reading:
    """Measure this process; `since`: its processor seconds at the end of the job before."""
    import matplotlib.pyplot as plt

    seconds = time.process_time() - since

    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Reading(
        len(os.listdir("/proc/self/fd")),
        threading.active_count(),
        len(plt.get_fignums()),
        sum(len(logging.getLogger(name).handlers) for name in (None, "permlab")),
        pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        seconds,
        seconds / statistics.median(piece_of_work() for _ in range(5)),
    )


@contextlib.contextmanager
def written_figures(every: int) -> Iterator[None]:
    """Write the figures of every so many runs; those of the others are drawn and closed."""
    import matplotlib.pyplot as plt

    from permlab.runs import run

    saved, count = run.save_figure, itertools.count()

    def save_figure(folder: Path, name: str, figure: Any) -> list[Path]:
        if next(count) % every == 0:
            return saved(folder, name, figure)
        plt.close(figure)
        return []

    with mock.patch.object(run, "save_figure", save_figure):
        yield


@contextlib.contextmanager
def measured() -> Iterator[list[Reading]]:
    """Yield a list that gets a reading after every job of a sweep in this process."""
    from permlab.runs import sweep

    readings: list[Reading] = []
    noted, last = sweep.note_job, time.process_time()

    def note_job(*arguments: object) -> None:
        nonlocal last
        noted(*arguments)  # type: ignore[arg-type]
        readings.append(reading(last))
        last = time.process_time()

    with mock.patch.object(sweep, "note_job", note_job):
        yield readings


def soak(jobs: int, root: Path, figures: int) -> tuple[int, list[Reading]]:
    """Run one sweep over seeds; return its exit code and the reading after each job."""
    from permlab.cli import run_sweep
    from permlab.compose import plan_jobs

    where, seeds = [*JOB, f"run.root={root}"], f"seed=range(0,{jobs})"
    two = plan_jobs([*where, "seed=0,1"], multirun=True)
    plan = dataclasses.replace(two, jobs=two.jobs[:1] * jobs, overrides=[*where, seeds])
    with measured() as readings, written_figures(figures), contextlib.redirect_stdout(Silence()):
        return run_sweep(plan), readings


class Silence(io.TextIOBase):
    """Standard output that keeps nothing."""

    def write(self, text: str) -> int:
        return len(text)


def median(readings: list[Reading], name: str) -> float:
    return statistics.median(getattr(each, name) for each in readings)


def judge(tally: Tally, jobs: int, code: int, readings: list[Reading]) -> dict[str, tuple[float, float]]:
    """Add a row for each thing that must not grow; return name -> (settled, last)."""
    tally.add("every job done", code == 0 and len(readings) == jobs, f"exit {code}, {len(readings)} of {jobs} jobs")
    settled = min(50, jobs // 3)
    part = min(200, (len(readings) - settled) // 2)
    first, last = readings[settled : settled + part], readings[-part:]
    seen = {}
    for name in ("descriptors", "threads", "figures", "handlers"):
        seen[name] = median(first, name), median(last, name)
        tally.add(f"{name} flat", seen[name][0] == seen[name][1], f"{seen[name][0]:g} -> {seen[name][1]:g}")
    seen["memory_mib"] = was, now = median(first, "memory_mib"), median(last, "memory_mib")
    tally.add(f"memory within {MEMORY_MIB:g} MiB", now - was <= MEMORY_MIB, f"{was:.1f} -> {now:.1f} MiB")
    seen["seconds"] = median(first, "seconds"), median(last, "seconds")
    seen["work"] = was, now = median(first, "work"), median(last, "work")
    tally.add(f"time per job within {SLOWER:.0%}", now <= was * (1 + SLOWER), f"{was:.1f} -> {now:.1f} pieces of work")
    return seen


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--figures", type=int, default=10, help="write the figures of every so many jobs")
    arguments = parser.parse_args()
    started, tally = time.monotonic(), Tally(f"soak: one process, {arguments.jobs} jobs")
    with tempfile.TemporaryDirectory(prefix="permlab-soak-") as folder:
        code, readings = soak(arguments.jobs, Path(folder) / "outputs", arguments.figures)
    seen = judge(tally, arguments.jobs, code, readings)
    code = tally.report()
    print("\n| | settled | last |\n|---|---|---|")
    for name, (was, now) in seen.items():
        print(f"| {name} | {was:.4g} | {now:.4g} |")
    tenths = max(1, len(readings) // 10)
    for name in ("memory_mib", "seconds", "work"):
        parts = [readings[at : at + tenths] for at in range(0, len(readings), tenths)]
        print(f"{name} by tenth of the jobs: {' '.join(f'{median(part, name):.4g}' for part in parts)}")
    print(f"{time.monotonic() - started:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main())
