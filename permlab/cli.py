"""The `permlab` command: verbs first, then Hydra; user mistakes are one line and exit code 2.

permlab                       runs task=spt on the embedded default
permlab -m seed=0,1,2         a sweep
permlab resume RUN_DIR        continues a run that was stopped or killed
permlab report                every run under outputs/ on one page
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from permlab import registry, shipped
from permlab.errors import Interrupted, UserError, as_lines, did_you_mean, first_line
from permlab.runs.signals import impatient
from permlab.runs.streams import prepare_standard_streams
from permlab.user_options import without_config_dir
from permlab.version import __version__

if TYPE_CHECKING:
    from permlab.compose import Plan
    from permlab.runs.outcome import Outcome

PASS_THROUGH = ("--cfg", "-c", "--info", "-i", "--hydra-help", "--shell-completion", "-sc")


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit with its code: 0 done, 1 failed, 2 user mistake, 130/143 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    prepare_standard_streams()
    # Idle OpenMP threads sleep instead of spinning: beside another busy process a run of two threads is otherwise up to
    # 20 times slower. Read by the runtime when torch is loaded, which is later.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    before = impatient()
    try:
        code = exit_code(arguments)
    except KeyboardInterrupt:
        code = 130
    finally:
        if threading.current_thread() is threading.main_thread():
            # Python takes a moment to end; an impatient second Ctrl-C would only print where it was.
            signal.signal(signal.SIGINT, signal.SIG_IGN if argv is None else before)
    sys.exit(code)


def exit_code(arguments: list[str]) -> int:
    """Carry out a command line; every way to end has its code."""
    try:
        return dispatch(arguments)
    except UserError as error:
        complain(str(error))
        return 2
    except Interrupted as stopped:
        return 128 + stopped.signum
    except BrokenPipeError:
        # Someone closed our pipe (`permlab ls | head`): not an error, and python must not complain about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


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
    folder, words = without_config_dir(arguments)
    shipped.look_in([folder] if folder else [])
    if folder:
        from permlab.compose import check_own_options

        check_own_options([], folder)
    if "--version" in arguments:
        print(f"permlab {__version__}")
        return 0
    if words[:1] == ["help"] or {"--help", "-h"} & set(words):
        return print_help([word for word in words if word not in ("help", "--help", "-h")])
    verbs: dict[str, Callable[[list[str]], int]] = {
        "ls": list_options,
        "show": lambda words: show_configuration(words, folder),
        "cp": copy_option,
        "fetch": lambda words: int(registry.load("permlab.verbs.fetch:fetch")(words, folder)),
        "push": lambda words: int(registry.load("permlab.verbs.push:push")(words)),
        "resume": resume_run,
        "report": lambda words: make_report(words, folder),
    }
    first = words[0] if words else ""
    if first in verbs:
        return verbs[first](words[1:])
    if first and "=" not in first and first[0] not in "-+~":
        raise UserError(f"'{first}' is neither a verb ({', '.join(verbs)}) nor KEY=VALUE{meant(words, verbs)}")
    return run_hydra(arguments)


def meant(words: list[str], verbs: Iterable[str]) -> str:
    """Return what someone may have meant with a first word that is neither a verb nor KEY=VALUE."""
    first, second = words[0], words[1] if len(words) > 1 else ""
    if first in shipped.names("task"):
        return f"; write task={first}"
    if first in shipped.GROUPS and "=" not in second:
        options = shipped.names(first)
        return f"; write {first}={second if second in options else 'NAME'} (options: {', '.join(options)})"
    return did_you_mean(first, verbs)


def print_help(words: list[str]) -> int:
    """`permlab --help`, `permlab task=NAME --help`, `permlab ls --help`."""
    from permlab.runs.console import console, reading_width
    from permlab.verbs.help import topics, usage

    plugins = [text for text in words if text.startswith("plugins=")]
    if plugins:
        from permlab.compose import activate_plugins, parse

        activate_plugins(parse(plugins))
    named = [text for text in words if text not in plugins]
    for line in topics(named) if named else usage():
        for text in line.folded(reading_width()):
            console().print(text, markup=False, style="bold" if line.key else None)
    return 0


def list_options(arguments: list[str]) -> int:
    """`permlab ls [GROUP ...] [plugins=[PACKAGE,...]]`: options of the command line, and `methods`."""
    from permlab.listing import GROUPS, listed
    from permlab.runs.console import print_table

    plugins = [text for text in arguments if text.startswith("plugins=")]
    if plugins:
        from permlab.compose import activate_plugins, parse

        activate_plugins(parse(plugins))
    for title, rows in listed([text for text in arguments if text not in plugins]):
        print_table(rows, title, prose=title.partition(":")[0] not in GROUPS)
    return 0


def show_configuration(words: list[str], folder: str | None) -> int:
    """`permlab show KEY=VALUE ...`."""
    from permlab.verbs.show import printed, tree

    printed(" ".join(["permlab", *words]), tree(words, folder))
    return 0


def copy_option(words: list[str]) -> int:
    """`permlab cp GROUP NAME FILE`."""
    from permlab.runs.console import console
    from permlab.verbs.copying import copied

    for line in copied(words):
        console().print(line, markup=False)
    return 0


def resume_run(arguments: list[str]) -> int:
    """`permlab resume RUN_DIR [hardware.processes=N]`."""
    key, _, number = arguments[1].partition("=") if len(arguments) == 2 else ("", "", "")
    if len(arguments) not in (1, 2) or arguments[0].startswith("-") or (key and not number.isdecimal()):
        raise UserError("usage: permlab resume RUN_DIR [hardware.processes=N]")
    if key not in ("", "hardware.processes"):
        raise UserError(f"a run goes on with the settings it began with, and {key} is one; start a new run")
    from permlab.runs.execute import resume

    return report_outcome(resume(Path(arguments[0]), int(number) if number else None))


def make_report(words: list[str], folder: str | None) -> int:
    """`permlab report [KEY=VALUE ...]`: task=report."""
    wrong = next((word for word in words if "=" not in word and word[0:1] not in "-~"), None)
    if wrong is not None:
        raise UserError(f"'{wrong}' is not KEY=VALUE; name folders with 'report.runs=[{wrong}]'")
    return run_hydra([*(["--config-dir", folder] if folder else []), "task=report", *words])


def run_hydra(arguments: list[str]) -> int:
    """Compose and check all jobs, then let Hydra launch them."""
    from hydra._internal.utils import get_args_parser

    from permlab.compose import activate_plugins, check_own_options, parse, plan_jobs, search_path

    parser = get_args_parser()
    parser.error = refuse_flags  # type: ignore[method-assign]  # argparse would print its usage and exit
    args = parser.parse_intermixed_args(arguments)
    if any(argument.split("=")[0] in PASS_THROUGH for argument in arguments):
        parsed = parse([text for text in arguments if text.startswith(("plugins=", "hydra.searchpath="))])
        activate_plugins(parsed)
        check_own_options(parsed)
        # Beside the other overrides: Hydra's parser takes only one row of them.
        at = next((n for n, text in enumerate(arguments) if "=" in text and text[0] != "-"), len(arguments))
        try:
            return launch([*arguments[:at], *search_path(), *arguments[at:]], lambda _: None)
        except ValueError as error:  # Hydra's own about --shell-completion
            raise UserError(f"{first_line(error)}; see `permlab --hydra-help`") from None
    if args.config_path or args.config_name:
        raise UserError("permlab keeps its own primary config; add options of yours with --config-dir DIR")

    plan = plan_jobs(args.overrides, args.multirun, args.config_dir)
    if plan.jobs[0].config.run.dry_run:
        from permlab.verbs.dry_run import dry_run

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
    from permlab.runs.launchers import AWAY, cluster_defaults, patient
    from permlab.runs.readiness import refuse_any
    from permlab.runs.sweep import close_sweep, open_sweep, read_jobs
    from permlab.runs.sweep_job import SweepJob
    from permlab.storage.files import write_json

    first = plan.jobs[0].config
    # Jobs of a cluster run on another machine, with other devices and files: there each of them is checked.
    here = plan.launcher.name not in AWAY
    if here:
        refuse_any([job.config for job in plan.jobs])
    known = None
    if plan.searched:
        from permlab.runs.search import ASKED, close_search, earlier

        known = earlier(Path(first.run.root), plan.overrides) if first.resumes else None
    with open_sweep(Path(first.run.root), known) as sweep, patient(plan.launcher):
        if plan.searched:
            write_json(sweep / ASKED, plan.overrides)
        placed = [f"run.sweep={sweep}", f"hydra.sweep.dir={sweep}", *cluster_defaults(plan.launcher, plan.overrides)]
        placed.append("+hydra.callbacks.permlab._target_=permlab.runs.sweep.ForgetJobs")
        launch(["--multirun", *plan.search, *plan.overrides, *placed], SweepJob(str(sweep), plan.varied, here))
        points, task = [job.overrides for job in plan.jobs], registry.task(first.task.name)
        if plan.searched:
            close_search(sweep, plan.searched)
            points = [[] for _ in read_jobs(sweep)]
        return close_sweep(sweep, points, task, plan.varied, plan.searched or first.run.objective)


def launch(arguments: list[str], job: Callable[[Any], None]) -> int:
    """Call Hydra's main with our conf folder; its errors come back as exceptions, not as its own exit."""
    import hydra
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.errors import HydraException

    from permlab.compose import VERSION_BASE, explain
    from permlab.config import register_schemas

    register_schemas()
    if "hydra/sweeper=optuna" in arguments:
        registry.load("permlab.runs.search:register")()
    before = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = ["permlab", *arguments]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # Every job has been composed and checked; Hydra's sweeper would compose all of them again before the first starts.
    composing_again = BasicSweeper.validate_batch_is_legal
    BasicSweeper.validate_batch_is_legal = lambda *_: None  # type: ignore[method-assign]
    try:
        hydra.main(version_base=VERSION_BASE, config_path=str(shipped.conf_dir()), config_name="config")(job)()
    except HydraException as error:
        raise UserError(explain(error, [a for a in arguments if "=" in a])) from error
    except Exception as error:
        # The job's own errors are outcomes; what is left is Hydra, set up by keys such as hydra.job_logging.
        ours = ("hydra.searchpath", "hydra.sweep.dir", "hydra/launcher", "hydra.launcher")
        given = [argument.lstrip("+~") for argument in arguments]
        if not any(each.startswith(("hydra.", "hydra/")) and not each.startswith(ours) for each in given):
            raise
        raise UserError(f"Hydra cannot be set up so ({first_line(error)}); see the hydra.* keys given") from error
    finally:
        BasicSweeper.validate_batch_is_legal = composing_again  # type: ignore[method-assign]
        sys.argv = before[0]
        if before[1] is None:
            del os.environ["HYDRA_FULL_ERROR"]
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
