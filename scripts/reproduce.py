"""Run the experiments of a task one after another, then report on them: `python scripts/reproduce.py ntk`.

`make reproduce-ntk | -probe | -merge | -spt | -lego | -all` and `make reproduce-quick` call this. What has a finished
run is not run again, what was stopped is continued, and an experiment that fails does not keep the others from running:
the report is made in any case, and the exit code says whether everything went well. Experiments that read public data
are left out, and named, when the data folder does not hold it.

    python scripts/reproduce.py spt --list                     # experiments, minutes, data
    python scripts/reproduce.py lego --data DIR run.root=DIR   # KEY=VALUE goes to every run
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from permlab.compose import Job, plan_jobs
from permlab.errors import UserError
from permlab.runs.directory import results

COMMAND = (sys.executable, "-m", "permlab")
STOPPED = (130, 143)
"""Exit codes of a run that SIGINT or SIGTERM ended: they end the reproduction too."""


@dataclass(frozen=True)
class Step:
    """One experiment. `{data}` in an override is the data folder, of which `needs` names what must be there."""

    experiment: str
    overrides: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    minutes: float | None = None
    """On 2 cores, where the overrides change what the experiment's file says."""

    def missing(self, data: Path) -> list[str]:
        """Return the data that is not there."""
        return [name for name in self.needs if not (data / name).exists()]

    def keys(self, data: Path, extra: Sequence[str]) -> list[str]:
        """Return the overrides of the command line; keys that the user gives win."""
        given = {text.partition("=")[0] for text in extra}
        ours = ["tracker=none", *(text.format(data=data) for text in self.overrides)]
        kept = [text for text in ours if text.partition("=")[0] not in given]
        return [f"experiment={self.experiment}", *kept, *extra]


TARGETS: dict[str, tuple[Step, ...]] = {
    "ntk": (
        Step("ntk/figure1_left"),
        Step("ntk/figure1_right"),
        Step("ntk/scaling"),
        Step("ntk/width"),
        Step("ntk/parameterization"),
    ),
    "probe": (
        Step("inverse_permutation/construction"),
        Step("inverse_permutation/paper"),
        Step("inverse_permutation/scratch_count"),
        Step("inverse_permutation/scaling"),
        Step("inverse_permutation/architectures"),
    ),
    "merge": (
        Step("merge/rebasin"),
        Step("merge/rebasin", ("dataset=mnist", "dataset.path={data}/mnist"), ("mnist",), minutes=12),
        Step("merge/batchnorm"),
        Step("merge/width"),
        Step("merge/lmc"),
        Step("merge/lmc_three"),
        Step("merge/pleas"),
        Step("merge/pleas_domains"),
        Step("merge/pleas_resnet"),
        Step("merge/llama"),
    ),
    "spt": (
        Step("spt/order_matrix"),
        Step("spt/people"),
        Step("spt/symbolic"),
        Step("spt/berglund", ("dataset.path={data}/reversal_curse",), ("reversal_curse",)),
        Step(
            "spt/berglund",
            (
                "dataset.path={data}/reversal_curse",
                "task.order=spt",
                "task.segmenter.name=presegmented",
                "task.segmenter.units={data}/spt_segmented/person_description.sep.txt",
            ),
            ("reversal_curse", "spt_segmented"),
            minutes=9,
        ),
    ),
    "lego": (
        Step("lora_lego/identities"),
        Step("lora_lego/prune"),
        Step("lora_lego/ranks"),
        Step("lora_lego/default"),
        Step("lora_lego/lists"),
        Step("lora_lego/text", ("task.folder={data}/text_classification",), ("text_classification",)),
    ),
}
QUICK = (
    Step("lora_lego/identities"),
    Step("ntk/figure1_left"),
    Step("ntk/figure1_right"),
    Step("inverse_permutation/paper"),
    Step("inverse_permutation/quick_scratch"),
    Step("spt/quick"),
    Step("spt/quick_order_matrix"),
    Step("lora_lego/quick"),
    Step("merge/quick"),
    Step("merge/quick_lmc"),
    Step("merge/quick_pleas"),
)
"""All five tasks, with every section of the report filled; experiments named quick are reduced ones with own rules."""


def steps_of(target: str) -> tuple[Step, ...]:
    """Return the experiments of a target, in the order in which they run."""
    if target == "all":
        return tuple(step for steps in TARGETS.values() for step in steps)
    return QUICK if target == "quick" else TARGETS[target]


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
    expected = step.minutes or own[0].config.experiment.minutes
    about = f", about {expected:g} min on 2 cores when none is finished" if expected else ""
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
    from permlab.cli import experiment_row

    total = 0.0
    for step in steps:
        missing = step.missing(data)
        expected = step.minutes or float(experiment_row(step.experiment)["minutes"] or 0)
        total += 0.0 if missing else expected
        note = f"  left out: no {' and '.join(missing)} under {data}" if missing else ""
        print(f"{step.experiment:<36}{expected:>6g} min  {' '.join(step.keys(data, [])[2:])}{note}".rstrip())
    print(f"{'together':<36}{total:>6g} min on 2 cores")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=[*TARGETS, "all", "quick"])
    parser.add_argument("extra", nargs="*", metavar="KEY=VALUE", help="overrides for every run")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of public data sets")
    parser.add_argument("--list", action="store_true", help="print the experiments and stop")
    arguments = parser.parse_intermixed_args()
    if wrong := [text for text in arguments.extra if "=" not in text]:
        parser.error(f"'{wrong[0]}' is not KEY=VALUE")
    if arguments.list:
        print_plan(steps_of(arguments.target), arguments.data)
        return
    sys.exit(reproduce(steps_of(arguments.target), arguments.data, arguments.extra))


if __name__ == "__main__":
    main()
