"""Run experiments one after another, then report on them: `python scripts/reproduce.py ntk`.

`make reproduce-TASK`, `make reproduce-quick | -all` and `make reproduce EXPERIMENT=TASK/NAME` call this. Which there
are, in which order and with which keys says `experiment.reproduce` of each file in conf/experiment/. What has a
finished run is not run again, what was stopped is continued, and an experiment that fails does not keep the others from
running: the report is made in any case, and the exit code says whether everything went well. Runs that read public data
are left out, and named, when the data folder does not hold it.

    python scripts/reproduce.py spt --list                              # experiments, minutes, data
    python scripts/reproduce.py lora_lego --data DIR run.root=DIR       # KEY=VALUE goes to every run
    python scripts/reproduce.py 'merge/pleas*'                          # one experiment, or a pattern
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from permlab import registry, shipped
from permlab.compose import Job, plan_jobs
from permlab.config import shipped_experiment
from permlab.errors import UserError, did_you_mean
from permlab.experiment import ExperimentConfig
from permlab.runs.directory import results

COMMAND = (sys.executable, "-m", "permlab")
STOPPED = (130, 143)
"""Exit codes of a run that SIGINT or SIGTERM ended: they end the reproduction too."""
SHORT = {"probe": "inverse_permutation", "lego": "lora_lego"}
"""Short names of tasks, for `make reproduce-lego`."""


@dataclass(frozen=True)
class Step:
    """One run of an experiment. `{data}` in an override is the data folder; `needs` is what must lie there."""

    experiment: str
    overrides: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    minutes: float = 0
    """On 2 cores."""

    def missing(self, data: Path) -> list[str]:
        """Return the data that is not there."""
        return [name for name in self.needs if not (data / name).exists()]

    def keys(self, data: Path, extra: Sequence[str]) -> list[str]:
        """Return the overrides of the command line; keys that the user gives win."""
        given = {text.partition("=")[0] for text in extra}
        ours = ["tracker=none", *(text.format(data=data) for text in self.overrides)]
        kept = [text for text in ours if text.partition("=")[0] not in given]
        return [f"experiment={self.experiment}", *kept, *extra]


def steps_of(target: str) -> list[Step]:
    """Return what a target runs, in order: `all`, `quick`, a task, an experiment or a pattern of experiments.

    Raises:
        UserError: for a target that is none of them.
    """
    every = all_experiments()
    task = SHORT.get(target, target)
    if target in ("all", "quick"):
        chosen = [name for name, about in every.items() if {"all": "full"}.get(target, target) in about.reproduce.sets]
    elif task in {name.partition("/")[0] for name in every}:
        chosen = [n for n, about in every.items() if n.startswith(f"{task}/") and "full" in about.reproduce.sets]
    else:
        chosen = fnmatch.filter(every, target) or [name for name in every if target in spellings(name)]
    if not chosen:
        targets = ["quick", "all", *dict.fromkeys(name.partition("/")[0] for name in every), *every]
        raise UserError(f"'{target}' is no task or experiment{did_you_mean(target, targets)}; permlab ls experiments")
    return [step for name in chosen for step in steps_for(name, every[name])]


@functools.cache
def all_experiments() -> dict[str, ExperimentConfig]:
    """Return every experiment by name: tasks in the order of their table, then as `experiment.reproduce.order` says."""
    tasks = list(registry.table("tasks"))
    every = {name: shipped_experiment(name) for name in shipped.names("experiment")}
    places = {name: (tasks.index(name.partition("/")[0]), about.reproduce.order) for name, about in every.items()}
    return {name: every[name] for name in sorted(every, key=places.__getitem__)}


def spellings(name: str) -> list[str]:
    """Return how `make reproduce-...` may spell an experiment: `lego-default` for `lora_lego/default`."""
    task, _, rest = name.partition("/")
    return [f"{each}-{rest}".replace("_", "-") for each in (task, *(s for s, full in SHORT.items() if full == task))]


def steps_for(name: str, about: ExperimentConfig) -> list[Step]:
    """Return the runs that an experiment asks for."""
    return [
        Step(
            name,
            tuple(f"{key}={value}" for key, value in run.keys.items()),
            tuple(run.data),
            run.minutes or about.minutes or 0,
        )
        for run in about.reproduce.runs
    ]


def reproduce(steps: Sequence[Step], data: Path, extra: Sequence[str] = ()) -> int:
    """Run every step and report; return 0 when all went well, 1 when something failed, 130 or 143 when stopped."""
    started, failed, jobs = time.monotonic(), [], []
    for number, step in enumerate(steps, start=1):
        head = f"[{number}/{len(steps)}] {step.experiment}"
        missing = step.missing(data)
        if missing:
            say(f"{head}: left out; it needs {' and '.join(missing)} under {data} (DATA=DIR of make, --data DIR)")
            continue
        before = time.monotonic()
        code = run_step(step, step.keys(data, extra), head, jobs)
        if code in STOPPED:
            say(f"{head}: stopped; the same command goes on from here")
            return code
        if code:
            failed.append(step.experiment)
        say(f"{head}: {'FAILED' if code else 'done'} after {minutes(before)}")
    code = report([str(path) for path in directories(jobs)], extra)
    if failed:
        say(f"failed: {', '.join(failed)}")
    say(f"{len(steps)} experiments in {minutes(started)}")
    return 1 if failed or code else 0


def run_step(step: Step, keys: list[str], head: str, jobs: list[Job]) -> int:
    """Run one experiment in a process of its own, after continuing those of its jobs that were stopped."""
    try:
        own = plan_jobs(keys, multirun=False).jobs
    except UserError as error:
        print(f"permlab: {error}", file=sys.stderr, flush=True)
        return 2
    jobs += own
    about = f", about {step.minutes:g} min on 2 cores when none is finished" if step.minutes else ""
    say(f"{head}: {len(own)} job{'s' if len(own) > 1 else ''}{about}")
    for job in own:
        path, status = newest(job) or (None, "")
        if path and status == "interrupted" and (code := permlab("resume", str(path))) in STOPPED:
            return code
    return permlab(*keys, "run.skip_finished=true")


def newest(job: Job) -> tuple[Path, str] | None:
    """Return the directory and status of the newest finished run of a job, else of its newest run."""
    config, found = job.config, None
    for path, result in results(Path(config.run.root), config.task.name):
        same = result.get("fingerprint") == config.fingerprint() and result.get("experiment") == config.experiment.name
        if same and (result.get("status") == "done" or not found or found[1] != "done"):
            found = (path, str(result.get("status")))
    return found


def directories(jobs: Sequence[Job]) -> list[Path]:
    """Return one run directory per job, for the jobs that have one."""
    return list(dict.fromkeys(found[0] for job in jobs if (found := newest(job))))


def report(paths: Sequence[str], extra: Sequence[str]) -> int:
    """Make the report of these runs."""
    if not paths:
        say("nothing has run, so there is nothing to report")
        return 1
    listed = ",".join("'" + path.replace("\\", "\\\\").replace("'", "\\'") + "'" for path in paths)
    return permlab("task=report", f"report.runs=[{listed}]", *(text for text in extra if text.startswith("run.root=")))


def permlab(*arguments: str) -> int:
    """Run the command and return its exit code; an interrupt from the keyboard reaches both processes."""
    process = subprocess.Popen([*COMMAND, *arguments])
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


def say(line: str) -> None:
    """Print at once, between the lines of the runs."""
    print(line, flush=True)


def minutes(since: float) -> str:
    """Return the time since then in minutes."""
    return f"{(time.monotonic() - since) / 60:.1f} min"


def print_plan(steps: Sequence[Step], data: Path) -> None:
    """Print the experiments of a target with their minutes and what they need."""
    total = 0.0
    for step in steps:
        missing = step.missing(data)
        total += 0.0 if missing else step.minutes
        note = f"  left out: no {' and '.join(missing)} under {data}" if missing else ""
        print(f"{step.experiment:<36}{step.minutes:>6g} min  {' '.join(step.keys(data, [])[2:])}{note}".rstrip())
    print(f"{'together':<36}{total:>6g} min on 2 cores")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", help="quick, all, a task, an experiment or a pattern of experiments")
    parser.add_argument("extra", nargs="*", metavar="KEY=VALUE", help="overrides for every run")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of public data sets")
    parser.add_argument("--list", action="store_true", help="print the experiments and stop")
    arguments = parser.parse_intermixed_args()
    if wrong := [text for text in arguments.extra if "=" not in text]:
        parser.error(f"'{wrong[0]}' is not KEY=VALUE")
    try:
        steps = steps_of(arguments.target)
    except UserError as error:
        parser.error(str(error))
    if arguments.list:
        print_plan(steps, arguments.data)
        return
    sys.exit(reproduce(steps, arguments.data, arguments.extra))


if __name__ == "__main__":
    main()
