"""Many processes in one folder: 50 starts at once, sweeps side by side, two that resume one run, reports in between.

python scripts/torture_concurrency.py [--starts 50] [--tries 5] [--seed 0]

Survived is: no two share a directory, every run's metrics, logged lines and tables are those of the same run alone,
its log speaks of its own directory only, exactly one of two that resume a run continues it, and a report of runs that
are written and deleted meanwhile is made.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked
import tiny_runs
import torture_numbers
from tally import Tally

TASK = "ntk"
TWINS = 5
"""Seeds among which the starts are shared out; each is also run alone."""


def arguments_of(seed: int, root: Path, *more: str) -> list[str]:
    return tiny_runs.overrides(TASK, f"seed={seed}", f"run.root={root}", *more)


def alone(folder: Path, seeds: range) -> dict[int, dict[str, Any]]:
    """Return seed -> numbers of a run that had the machine to itself."""
    twins = {}
    for seed in seeds:
        forked.start(arguments_of(seed, folder / f"alone-{seed}"))
        twins[seed] = torture_numbers.numbers(folder / f"alone-{seed}")
    return twins


def run_directories(root: Path) -> list[Path]:
    return sorted(path.parent for path in root.glob(f"{TASK}/*/config.yaml"))


def compared(path: Path, twins: dict[int, dict[str, Any]]) -> str:
    """Return how a run differs from its lone twin; empty when it does not."""
    result = json.loads((path / "result.json").read_text())
    found = torture_numbers.numbers_of(path)
    if found != twins[result["seed"]]:
        return f"{path.name}: {torture_numbers.difference(twins[result['seed']], found)}"
    log = (path / "run.log").read_text()
    if log.count("run directory ") != 1 or f"run directory {path}" not in log:
        return f"{path.name}: run.log is not that of one run"
    left = [each.name for each in path.rglob(".*")] + [each.name for each in path.glob("run.lock")]
    return f"{path.name} keeps {left}" if left else ""


def many_starts(tally: Tally, count: int, root: Path, twins: dict[int, dict[str, Any]]) -> None:
    """Start `count` runs at once."""
    starts = [forked.Started(arguments_of(number % TWINS, root)) for number in range(count)]
    ends = [each.end() for each in starts]
    failed = [end.err[-200:] or end.out[-200:] for end in ends if end.code]
    tally.add(f"{count} starts at once: all done", not failed, str(failed[:2]))
    runs = run_directories(root)
    tally.add(f"{count} starts at once: a directory each", len(runs) == count, f"{len(runs)} directories")
    for path in runs:
        wrong = compared(path, twins)
        tally.add("started among others, equal to the run alone", not wrong, wrong)


def two_sweeps(tally: Tally, root: Path, twins: dict[int, dict[str, Any]]) -> None:
    """Two sweeps over the same seeds into one folder."""
    seeds = ",".join(map(str, twins))
    sweep = ["-m", *tiny_runs.overrides(TASK, f"seed={seeds}", f"run.root={root}")]
    ends = [each.end() for each in [forked.Started(sweep) for _ in range(2)]]
    tally.add(
        "two sweeps at once: both done", all(end.code == 0 for end in ends), str([end.err[-200:] for end in ends])
    )
    for path in sorted((root / "sweeps").iterdir()):
        notes = [json.loads(note.read_text()) for note in sorted((path / "jobs").glob("*.json"))]
        seen = sorted(int(note["varied"]["seed"]) for note in notes)
        mixed = [note["directory"] for note in notes if sweep_of(Path(note["directory"])) != str(path)]
        right = seen == sorted(twins) and not mixed
        tally.add("two sweeps at once: each has its own jobs", right, f"{path.name}: seeds {seen}, mixed {mixed}")
    for path in run_directories(root):
        result = json.loads((path / "result.json").read_text())
        wrong = "" if torture_numbers.numbers_of(path) == twins[result["seed"]] else path.name
        tally.add("job of a sweep among others, equal to the run alone", not wrong, wrong)


def sweep_of(path: Path) -> str:
    return str(json.loads((path / "result.json").read_text())["sweep"])


def die_at_checkpoint(number: int) -> Callable[[], None]:
    """Make a child end at once after its so-many-th checkpoint, as if killed."""

    def enter() -> None:
        from permlab.runs.run import Run

        save, count = Run.save_checkpoint, 0

        def saved(run: Run, state: dict[str, Any]) -> None:
            nonlocal count
            save(run, state)
            count += 1
            if count == number:
                os._exit(137)

        Run.save_checkpoint = saved  # type: ignore[method-assign]

    return enter


def two_resume(tally: Tally, root: Path, seed: int, twin: dict[str, Any]) -> None:
    """Two processes resume a run that was killed."""
    ended = forked.start(arguments_of(seed, root, "task.k=[4,5]", "run.checkpoint_steps=1"), die_at_checkpoint(1))
    (path,) = run_directories(root)
    ends = [each.end() for each in [forked.Started(["resume", str(path)]) for _ in range(2)]]
    trained = [end for end in ends if end.code == 0 and "results in" in end.out]
    others = [end for end in ends if end not in trained]
    told = all(
        (end.code == 2 and "is in use by" in end.err) or (end.code == 0 and "nothing to resume" in end.out)
        for end in others
    )
    heard = f"killed with {ended.code}, then {[(end.code, end.out[-150:], end.err[-150:]) for end in ends]}"
    tally.add("two resume one run: exactly one continues it", len(trained) == 1 and told, heard)
    found = torture_numbers.numbers_of(path)
    equal = found == twin
    tally.add("two resume one run: equal to the run alone", equal, torture_numbers.difference(twin, found))


def reports_meanwhile(tally: Tally, root: Path, tries: int, draws: random.Random) -> None:
    """Reports of a folder in which runs are written and deleted."""
    starts = [forked.Started(arguments_of(number, root)) for number in range(4)]
    for number in range(tries):
        report = forked.Started(
            ["task=report", f"report.runs=[{root}/{TASK}]", f"run.root={root}-reports", *tiny_runs.QUIET]
        )
        runs = run_directories(root)
        if runs and number % 2:
            shutil.rmtree(draws.choice(runs), ignore_errors=True)
        end = report.end()
        pages = list(Path(f"{root}-reports").glob("report/*/index.html"))
        empty = end.code == 2 and not runs and "no run" in end.err.lower()
        fine = ((end.code == 0 and len(pages) > 0) or empty) and "Traceback" not in end.out + end.err
        tally.add(
            "report while runs are written and deleted", fine, f"exit {end.code}: {end.out[-200:]} {end.err[-200:]}"
        )
    for each in starts:
        each.end()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--starts", type=int, default=50)
    parser.add_argument("--tries", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draws, started, tally = random.Random(arguments.seed), time.monotonic(), Tally("concurrency")
    forked.preload([TASK])
    with tempfile.TemporaryDirectory(prefix="permlab-many-") as folder:
        everything(tally, Path(folder), arguments.starts, arguments.tries, draws)
    code = tally.report()
    print(f"seed {arguments.seed}, {time.monotonic() - started:.0f} s")
    return code


def everything(tally: Tally, folder: Path, starts: int, tries: int, draws: random.Random) -> None:
    twins = alone(folder, range(TWINS))
    many_starts(tally, starts, folder / "many", twins)
    two_sweeps(tally, folder / "sweeps", {seed: twins[seed] for seed in range(min(3, TWINS))})
    for number in range(tries):
        seed = draws.randrange(1000)
        forked.start(arguments_of(seed, folder / f"twin-{number}", "task.k=[4,5]", "run.checkpoint_steps=1"))
        two_resume(tally, folder / f"resumed-{number}", seed, torture_numbers.numbers(folder / f"twin-{number}"))
    reports_meanwhile(tally, folder / "reported", tries, draws)


if __name__ == "__main__":
    sys.exit(main())
