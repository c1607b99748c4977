"""The `permlab` command: verbs first, then Hydra; user mistakes are one line and exit code 2.

permlab                       runs task=spt on the embedded default
permlab -m seed=0,1,2         a sweep
permlab resume RUN_DIR        continues a run that was stopped or killed
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from permlab.errors import Interrupted, UserError, as_lines, did_you_mean
from permlab.version import __version__

if TYPE_CHECKING:
    from permlab.compose import Plan
    from permlab.runs.execute import Outcome

USAGE = """permlab {version}: a command-line laboratory for permutations in deep learning

usage: permlab [KEY=VALUE ...]          run one task (task=spt on its embedded default when nothing is given)
       permlab -m KEY=A,B [...]         sweep over values
       permlab resume RUN_DIR           continue a run that was stopped or killed
       permlab ls [{groups}]
       permlab --version | --help | --cfg job | --hydra-help

tasks (task=NAME):
{tasks}

groups: {group_counts}
        (permlab ls GROUP ... prints the options, permlab ls methods what can stand in their keys)
keys:   seed, run.dir, run.name, run.dry_run, run.skip_finished, and task.* model.* dataset.* hardware.* tracker.*
        (permlab --cfg job task=NAME prints every key with its value)

examples:
  permlab task=spt task.order=original
  permlab -m task=spt task.order=original,spt seed=0,1,2 tracker=none
  permlab task=spt model=llama-1b model.lora.rank=16 run.dry_run=true
  permlab task=report report.runs=[outputs]
"""
PASS_THROUGH = ("--cfg", "-c", "--info", "-i", "--hydra-help", "--shell-completion", "-sc")


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit with its code: 0 done, 1 failed, 2 user mistake, 130/143 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Idle OpenMP threads sleep instead of spinning: beside another busy process a run of two threads is otherwise up to
    # 20 times slower. Read by the runtime when torch is loaded, which is later.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        code = dispatch(arguments)
    except UserError as error:
        complain(str(error))
        code = 2
    except KeyboardInterrupt:
        code = 130
    except Interrupted as stopped:
        code = 128 + stopped.signum
    except BrokenPipeError:
        # Someone closed our pipe (`permlab ls | head`): not an error, and python must not complain about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    # Python takes a moment to end; an impatient second Ctrl-C would only print where it was.
    if argv is None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(code)


def complain(message: str) -> None:
    """Print one line about what the user got wrong; whatever the terminal can show, and nothing where there is none."""
    line = as_lines(f"permlab: {message}")
    try:
        print(line, file=sys.stderr)
    except UnicodeEncodeError:
        print(line.encode("ascii", "backslashreplace").decode(), file=sys.stderr)
    except (OSError, ValueError, AttributeError):
        pass


def dispatch(arguments: list[str]) -> int:
    """Handle the verbs; hand everything else to Hydra."""
    try:
        os.getcwd()
    except OSError:
        raise UserError("the working directory does not exist any more; change to another one") from None
    first = arguments[0] if arguments else ""
    if "--version" in arguments:
        print(f"permlab {__version__}")
        return 0
    if first in ("--help", "-h", "help") or "--help" in arguments or "-h" in arguments:
        print(usage(), end="")
        return 0
    verbs: dict[str, Callable[[list[str]], int]] = {"ls": list_options, "resume": resume_run}
    if first in verbs:
        return verbs[first](arguments[1:])
    if first and "=" not in first and first[0] not in "-+~":
        from permlab import registry

        hint = f"; write task={first}" if first in registry.table("tasks") else did_you_mean(first, verbs)
        raise UserError(f"'{first}' is neither a verb ({', '.join(verbs)}) nor KEY=VALUE{hint}")
    return run_hydra(arguments)


def usage() -> str:
    """Return the text of `permlab --help`."""
    from permlab import shipped
    from permlab.listing import GROUPS, METHODS, purpose

    tasks = [(name, purpose(shipped.describe("task", name))) for name in shipped.names("task")]
    return USAGE.format(
        version=__version__,
        groups="|".join([*GROUPS, METHODS]),
        tasks="\n".join(f"  {name:<20} {text}" for name, text in tasks),
        group_counts=", ".join(f"{group} ({len(shipped.names(group))})" for group in shipped.GROUPS[1:]),
    )


def list_options(arguments: list[str]) -> int:
    """`permlab ls [GROUP ...] [plugins=[PACKAGE,...]]`: options of the command line, and `methods`."""
    from permlab.listing import GROUPS, listed
    from permlab.runs.console import print_table

    plugins = [text for text in arguments if text.startswith("plugins=")]
    if plugins:
        from permlab.compose import activate_plugins, parse

        activate_plugins(parse(plugins))
    for title, rows in listed([text for text in arguments if text not in plugins]):
        print_table(rows, title, prose=title not in GROUPS)
    return 0


def resume_run(arguments: list[str]) -> int:
    """`permlab resume RUN_DIR`."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise UserError("usage: permlab resume RUN_DIR")
    from permlab.runs.execute import resume

    return report_outcome(resume(Path(arguments[0])))


def run_hydra(arguments: list[str]) -> int:
    """Compose and check all jobs, then let Hydra launch them."""
    from hydra._internal.utils import get_args_parser

    from permlab.compose import activate_plugins, parse, plan_jobs, search_path

    if any(argument.split("=")[0] in PASS_THROUGH for argument in arguments):
        activate_plugins(parse([text for text in arguments if text.startswith("plugins=")]))
        # Beside the other overrides: Hydra's parser takes only one row of them.
        at = next((n for n, text in enumerate(arguments) if "=" in text and text[0] != "-"), len(arguments))
        return launch([*arguments[:at], *search_path(), *arguments[at:]], lambda _: None)
    parser = get_args_parser()
    parser.error = refuse_flags  # type: ignore[method-assign]  # argparse would print its usage and exit
    args = parser.parse_intermixed_args(arguments)
    if args.config_path or args.config_name:
        raise UserError("permlab keeps its own primary config; add options of yours with --config-dir DIR")

    plan = plan_jobs(args.overrides, args.multirun, args.config_dir)
    if plan.jobs[0].config.run.dry_run:
        return dry_run(plan)
    if plan.multirun:
        return run_sweep(plan)
    outcomes: list[Outcome] = []

    def job(composed: Any) -> None:
        from permlab.config import build_config
        from permlab.runs.execute import start

        outcomes.append(start(build_config(composed)))

    launch([*plan.search, *plan.overrides], job)
    return report_outcome(outcomes[0])


def refuse_flags(message: str) -> NoReturn:
    """Turn argparse's error and usage text into one line of ours."""
    raise UserError(f"{message}; see `permlab --help`")


def run_sweep(plan: Plan) -> int:
    """Run every job through Hydra's launcher and close with one table."""
    from permlab import registry
    from permlab.runs.directory import create
    from permlab.runs.sweep import close_sweep

    first = plan.jobs[0].config
    sweep = create(Path(first.run.root) / "sweeps")
    placed = [f"run.sweep={sweep}", f"hydra.sweep.dir={sweep}"]
    launch(["--multirun", *plan.search, *plan.overrides, *placed], SweepJob(str(sweep), plan.varied))
    return close_sweep(sweep, len(plan.jobs), registry.task(first.task.name))


class SweepJob:
    """What Hydra's launcher calls per job; picklable, so that launchers with worker processes can send it."""

    def __init__(self, sweep: str, varied: list[str]) -> None:
        self.sweep, self.varied = sweep, varied
        self.__name__ = self.__qualname__ = "permlab_job"

    def __call__(self, composed: Any) -> None:
        """Run one job and leave its note in the sweep directory; only an interruption ends the sweep."""
        from hydra.core.hydra_config import HydraConfig

        from permlab.config import build_config
        from permlab.runs.console import console
        from permlab.runs.execute import start
        from permlab.runs.sweep import note_job

        overrides = dict(o.split("=", 1) for o in HydraConfig.get().overrides.task if "=" in o)
        varied = {key: overrides[key] for key in self.varied if key in overrides}
        number = int(HydraConfig.get().job.num)
        console().print(f"job {number}: {' '.join(f'{k}={v}' for k, v in varied.items())}", markup=False)
        outcome = start(build_config(composed))
        note_job(Path(self.sweep), number, varied, outcome)
        if outcome.status == "interrupted":
            raise SystemExit(outcome.exit_code)


def launch(arguments: list[str], job: Callable[[Any], None]) -> int:
    """Call Hydra's main with our conf folder; its errors come back as exceptions, not as its own exit."""
    import hydra
    from hydra.errors import HydraException

    from permlab import shipped
    from permlab.compose import VERSION_BASE, explain
    from permlab.config import register_schemas

    register_schemas()
    before = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = ["permlab", *arguments]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        hydra.main(version_base=VERSION_BASE, config_path=str(shipped.conf_dir()), config_name="config")(job)()
    except HydraException as error:
        raise UserError(explain(error, [a for a in arguments if "=" in a])) from error
    finally:
        sys.argv = before[0]
        if before[1] is None:
            del os.environ["HYDRA_FULL_ERROR"]
    return 0


def dry_run(plan: Plan) -> int:
    """Print what would run; write nothing."""
    from permlab.runs.console import console
    from permlab.runs.execute import describe_plan

    for number, job in enumerate(plan.jobs):
        lines = describe_plan(job.config)
        if number == 0:
            width = max(len(key) for key, _ in lines)
            for key, value in lines:
                console().print(f"{key:<{width}}  {value}", markup=False)
    if len(plan.jobs) > 1:
        console().print(f"{len(plan.jobs)} jobs over {', '.join(plan.varied)}; every one is valid", markup=False)
    return 0


def report_outcome(outcome: Outcome) -> int:
    """Say how a single run ended and return its exit code."""
    from permlab.runs.console import console

    if outcome.status == "refused":
        raise UserError(outcome.message)
    if outcome.status == "skipped":
        console().print(outcome.message, markup=False)
    elif outcome.status == "done":
        console().print(f"results in {outcome.directory}", markup=False)
    return outcome.exit_code
