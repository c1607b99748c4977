"""Carry out one checked configuration: directory, signals, tracker, task, result, exit status."""

from __future__ import annotations

import os
import shutil
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from permlab import ranks, registry
from permlab.config import Config, TaskSettings, build_config, validate
from permlab.errors import Caution, DivergedError, Interrupted, UserError, as_lines, first_line
from permlab.footprint import is_memory, memory_message
from permlab.hardware import deterministic
from permlab.runs import directory
from permlab.runs.console import LOGGER, logging_to
from permlab.runs.debugging import debugged
from permlab.runs.environment import describe_environment
from permlab.runs.intact import check_intact
from permlab.runs.outcome import Outcome
from permlab.runs.preparation import end_processes, prepare_process, threads_of, trains_together
from permlab.runs.pruning import Pruned
from permlab.runs.readiness import refuse
from permlab.runs.run import RESERVE, Run, RunLostError
from permlab.runs.signals import listening
from permlab.runs.supervisor import check_nodes, supervise
from permlab.runs.trackers.opening import keep_artifacts, open_trackers
from permlab.storage.files import read_json, remove_temporaries, write_json, write_text
from permlab.storage.locks import Lock, hold
from permlab.storage.plain import UnreadableError, read_yaml

Began = Callable[[Path], None]
"""Is told the directory of a run as soon as it can be resumed."""


def start(config: Config[TaskSettings], ready: bool = False, began: Began | None = None) -> Outcome:
    """Run a configuration; a refusal is an outcome, because Hydra would print lines of its own.

    Args:
        config: checked for itself.
        ready: `readiness.refuse` has been asked whether it can start.
        began: is told the directory.
    """
    try:
        return start_checked(config, ready, began)
    except UserError as error:
        return Outcome(None, "refused", 2, str(error))


def start_checked(config: Config[TaskSettings], ready: bool, began: Began | None = None) -> Outcome:
    """Run a configuration in a new directory, or take up the one that `run.resume` and `run.skip_finished` find.

    Raises:
        UserError: it cannot start; the directory cannot be made or written.
    """
    root = Path(config.run.root)
    found = taken_up(config)
    if isinstance(found, Outcome):
        return found
    if found is not None:
        if began:
            began(found)
        return resume(found, config.hardware.processes)
    if not ready:
        refuse(config)
        check_nodes(config)
    made = [place for place in (root / config.task.name, root) if not os.path.exists(place)]  # a name may be too long
    with directory.writable(Path(config.run.dir) if config.run.dir else root / config.task.name):
        if config.run.dir:
            path = directory.claim(Path(config.run.dir))
        else:
            path = directory.create(root / config.task.name)
        write_text(path / "config.yaml", to_yaml(config))
    if began:
        began(path)
    outcome = carry_out(config, path, resumed=False)
    if outcome.status == "refused":
        for place in made:
            with suppress(OSError):  # it holds other runs by now
                place.rmdir()
    return outcome


def taken_up(config: Config[TaskSettings]) -> Outcome | Path | None:
    """Return what a finished run of the same settings comes to, the directory of one to go on with, or None.

    Raises:
        UserError: run.dir holds a run of other settings.
    """
    root, name, print_ = Path(config.run.root), config.task.name, config.fingerprint()
    if config.run.dir:
        place = Path(config.run.dir)
        if not (config.resumes and (place / "config.yaml").is_file()):
            return None
        known = read_json(place / "result.json")
        if isinstance(known, dict) and known.get("fingerprint", print_) != print_:
            raise UserError(f"run.dir={place} holds a run of other settings; choose another")
        return place
    if not (config.resumes or config.run.skip_finished):
        return None
    finished = directory.finished_run(root, name, print_, config.experiment.name)
    if finished:
        return Outcome(finished, "skipped", 0, f"finished before: {finished}")
    return directory.unfinished_run(root, name, print_, config.experiment.name) if config.resumes else None


def resume(path: Path, processes: int | None = None) -> Outcome:
    """Continue a run from its directory; its `config.yaml` is all that is needed.

    Args:
        path: the directory.
        processes: go on with so many, where that is not what the run began with.

    Raises:
        UserError: when the folder is not a run directory, another process works in it, its settings were changed, or
            it cannot start here.
    """
    try:
        plain = read_yaml(path / "config.yaml")
    except (FileNotFoundError, NotADirectoryError):
        died = any(path.glob(".config.yaml.*.tmp"))
        why = " (a run that was killed before it began; remove it and start it again)" if died else ""
        raise UserError(f"{path} is not a run directory: it has no config.yaml{why}") from None
    except UnreadableError as error:
        raise UserError(f"{path} cannot be resumed: {error}") from None
    check_intact(path)
    result = read_json(path / "result.json")
    result = result if isinstance(result, dict) else {}
    if result.get("status") == "done":
        with suppress(OSError, UserError), hold(path):  # killed when all was done: only what a run holds is left
            sweep_up(path)
        return Outcome(path, "skipped", 0, f"{path} is finished; nothing to resume")
    try:
        config = build_config(plain)
    except UserError as error:
        raise UserError(f"{path / 'config.yaml'}: {error}") from None
    before = result.get("fingerprint", config.fingerprint())
    if before != config.fingerprint():
        raise UserError(
            f"{path}/config.yaml was changed since the run began, or the run is of another version of permlab "
            f"({str(result.get('version'))[:20]}): its checkpoints do not belong to these settings; start a new run"
        )
    if processes is not None:
        config.hardware.processes = processes
        validate(config)
    refuse(config)
    return carry_out(config, path, resumed=True)


def sweep_up(path: Path) -> None:
    """Remove what a killed process left in a run directory that is held now."""
    remove_temporaries(path)
    (path / RESERVE).unlink(missing_ok=True)


def carry_out(config: Config[TaskSettings], path: Path, resumed: bool, lent: Lock | None = None) -> Outcome:
    """Run the task; whatever happens, result.json says how it ended and the tracker is closed.

    Args:
        config: checked, and found ready.
        path: the run directory.
        resumed: go on where the directory says.
        lent: this is the first process of a training on several; another one holds the directory for it.

    Raises:
        UserError: the directory cannot be written, or another process works in it.
    """
    if lent is None and trains_together(config):
        return supervise(config, path, resumed)
    with ExitStack() as opened:
        with directory.writable(path):
            lock = lent or opened.enter_context(hold(path))
            stop = opened.enter_context(listening())
            sweep_up(path)
            opened.enter_context(logging_to(path / "run.log"))
            run = Run(config, path, stop, resumed, lock)
            run.write_result("running")
        exit_code = 1
        try:
            LOGGER.info("%s %s", "resuming" if resumed else "run directory", path)
            run.tracker = open_trackers(config, path)
            threads = prepare_process(config, threads_of(path) if resumed else None)
            opened.enter_context(deterministic(config.run.deterministic))
            write_json(path / "environment.json", describe_environment(config.seed, threads))
            with cautions_of(run), debugged(run):
                registry.task(config.task.name).run(config, run)
            run.write_result("done")
            keep_artifacts(config, path, run.tracker)
            exit_code = 0
            return Outcome(path, "done", 0)
        except Interrupted as stopped:
            stop.closing = True
            exit_code = 128 + stopped.signum
            conclude(run, "interrupted")
            LOGGER.warning("interrupted; continue with: permlab resume %s", path)
            return Outcome(path, "interrupted", exit_code, f"continue with: permlab resume {path}")
        except UserError as error:
            exit_code = 2
            conclude(run, "failed", str(error))
            return Outcome(path, "refused", 2, str(error))
        except Pruned as error:
            exit_code = 0
            conclude(run, "pruned", str(error))
            LOGGER.info("%s", error)
            return Outcome(path, "pruned", 0, str(error))
        except DivergedError as error:
            kept = run.last_kept
            good = f"the last good checkpoint is {kept}" if kept else "there is no checkpoint from before"
            message = f"{error.found}; {good}; {error.remedy}"
            LOGGER.error("failed: %s", message)
            conclude(run, "failed", message)
            return Outcome(path, "failed", 1, message)
        except RunLostError as error:
            LOGGER.error("failed: %s", error)
            return Outcome(path, "failed", 1, str(error))
        except Exception as error:
            if is_memory(error):
                message = memory_message(error, getattr(registry.task(config.task.name), "LESS_MEMORY", ()))
                LOGGER.error("failed: %s", message)
                conclude(run, "failed", message)
                return Outcome(path, "failed", 1, message)
            message = as_lines(f"{type(error).__name__}: {first_line(error)}".removesuffix(f": {type(error).__name__}"))
            if lent is None or not ranks.has_left(message):  # else whoever watches the processes says which was lost
                write_traceback(message)
            conclude(run, "failed", message)
            return Outcome(path, "failed", 1, message)
        finally:
            stop.closing = True
            end_processes(config)
            run.tracker.finish(exit_code)
            run.close()
            if exit_code == 2 and not resumed and not config.run.sweep:
                # What the user got wrong leaves nothing behind: this directory was made, or found empty, by this run.
                # A job of a sweep keeps its directory, because the sweep's table names it.
                shutil.rmtree(path, ignore_errors=True)


@contextmanager
def cautions_of(run: Run) -> Iterator[None]:
    """List what the library warns about in this run's result; other warnings go where they went."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", Caution)
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, Caution):
                run.warn(str(message))
            else:
                others(message, category, *where, **more)

        warnings.showwarning = show
        yield


def conclude(run: Run, status: str, message: str | None = None) -> None:
    """Write how a run ended that did not end well; where that cannot be written, say so instead of failing again."""
    try:
        run.write_result(status, message)
    except (OSError, RunLostError) as problem:
        LOGGER.error("result.json could not be written: %s", first_line(problem))


def write_traceback(message: str) -> None:
    """Put the traceback into run.log and one line on the console."""
    LOGGER.error("failed: %s (traceback in run.log)", message)
    # Its last lines repeat the message, which may be of any length and hold anything.
    lines = as_lines(traceback.format_exc(), most=1000, lines=200)
    for handler in LOGGER.handlers:
        if hasattr(handler, "stream") and handler.stream is not None:
            with suppress(OSError):  # a full disk is what may have ended the run
                handler.stream.write(lines + "\n")
                handler.flush()


def to_yaml(config: Config[TaskSettings]) -> str:
    """Return the resolved configuration as YAML."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(config.to_container()))
