"""Carry out one checked configuration: directory, signals, tracker, task, result, exit status."""

from __future__ import annotations

import shutil
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from permlab import registry
from permlab.config import Config, TaskSettings, build_config
from permlab.errors import Interrupted, UserError
from permlab.runs import directory
from permlab.runs.console import LOGGER, logging_to
from permlab.runs.environment import describe_environment
from permlab.runs.run import Run
from permlab.runs.signals import listening
from permlab.runs.trackers import open_tracker
from permlab.storage.files import read_json, write_json, write_text


@dataclass
class Outcome:
    """How a run ended. `status`: done, failed, interrupted, refused, or skipped (finished before)."""

    directory: Path | None
    status: str
    exit_code: int
    message: str = ""


def start(config: Config[TaskSettings]) -> Outcome:
    """Run a configuration in a new directory."""
    root = Path(config.run.root)
    if config.run.skip_finished:
        finished = directory.finished_run(root, config.task.name, config.fingerprint(), config.experiment.name)
        if finished:
            return Outcome(finished, "skipped", 0, f"finished before: {finished}")
    if config.run.dir:
        path = directory.claim(Path(config.run.dir))
    else:
        path = directory.create(root / config.task.name)
    write_text(path / "config.yaml", to_yaml(config))
    return carry_out(config, path, resumed=False)


def resume(path: Path) -> Outcome:
    """Continue a run from its directory; its `config.yaml` is all that is needed.

    Raises:
        UserError: when the folder is not a run directory.
    """
    from omegaconf import OmegaConf

    if not (path / "config.yaml").is_file():
        raise UserError(f"{path} is not a run directory: it has no config.yaml")
    result = read_json(path / "result.json") or {}
    if result.get("status") == "done":
        return Outcome(path, "skipped", 0, f"{path} is finished; nothing to resume")
    config = build_config(OmegaConf.load(path / "config.yaml"))
    return carry_out(config, path, resumed=True)


def carry_out(config: Config[TaskSettings], path: Path, resumed: bool) -> Outcome:
    """Run the task; whatever happens, result.json says how it ended and the tracker is closed."""
    with listening() as stop, logging_to(path / "run.log"):
        run = Run(config, path, stop, resumed)
        run.write_result("running")
        exit_code = 1
        try:
            LOGGER.info("%s %s", "resuming" if resumed else "run directory", path)
            run.tracker = open_tracker(config, path)
            prepare_process(config)
            write_json(path / "environment.json", describe_environment(config.seed))
            registry.task(config.task.name).run(config, run)
            run.write_result("done")
            exit_code = 0
            return Outcome(path, "done", 0)
        except Interrupted as stopped:
            exit_code = 128 + stopped.signum
            run.write_result("interrupted")
            LOGGER.warning("interrupted; continue with: permlab resume %s", path)
            return Outcome(path, "interrupted", exit_code)
        except UserError as error:
            exit_code = 2
            run.write_result("failed", str(error))
            return Outcome(path, "refused", 2, str(error))
        except Exception as error:
            message = f"{type(error).__name__}: {error}".strip().splitlines()[0]
            write_traceback(message)
            run.write_result("failed", message)
            return Outcome(path, "failed", 1, message)
        finally:
            run.tracker.finish(exit_code)
            run.close()
            if exit_code == 2 and not resumed and not config.run.sweep:
                # What the user got wrong leaves nothing behind: this directory was made, or found empty, by this run.
                # A job of a sweep keeps its directory, because the sweep's table names it.
                shutil.rmtree(path, ignore_errors=True)


def write_traceback(message: str) -> None:
    """Put the traceback into run.log and one line on the console."""
    LOGGER.error("failed: %s (traceback in run.log)", message)
    for handler in LOGGER.handlers:
        if hasattr(handler, "stream") and handler.stream is not None:
            handler.stream.write(traceback.format_exc())
            handler.flush()


def prepare_process(config: Config[TaskSettings]) -> None:
    """Set threads and every random state, so that a job of a sweep does not depend on the jobs before it."""
    from permlab.hardware import set_threads
    from permlab.seeding import seed_everything

    set_threads(config.hardware)
    seed_everything(config.seed)


def to_yaml(config: Config[TaskSettings]) -> str:
    """Return the resolved configuration as YAML."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(config.to_container()))


def describe_plan(config: Config[TaskSettings]) -> list[tuple[str, str]]:
    """Return the lines of a dry run: what would run, on what, where. Checks files and memory.

    Raises:
        UserError: for everything that would make the run fail and can be known now.
    """
    task = registry.task(config.task.name)
    where = config.run.dir or f"{config.run.root}/{config.task.name}/<UTC stamp>-<id>/"
    lines: dict[str, Any] = {
        "task": config.task.name,
        "model": config.model.name,
        "dataset": config.dataset.name,
        "hardware": f"{config.hardware.name} (device {config.hardware.device}, dtype {config.hardware.dtype})",
        "seed": config.seed,
        **task.plan(config),
        "run directory": where,
        "fingerprint": config.fingerprint(),
    }
    return [(key, str(value)) for key, value in lines.items()]
