"""What a process sets before it works on a run: random states, threads, and how many processes share the work."""

from __future__ import annotations

import multiprocessing
import os
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from permlab import ranks, registry
from permlab.config import Config, TaskSettings
from permlab.division import shares, together
from permlab.hardware import deterministic, resolve_device, threads_given
from permlab.storage.files import read_json

_until_the_end = ExitStack()


def prepare_process(config: Config[TaskSettings], threads: int | None = None) -> int:
    """Set threads and every random state, so that a job of a sweep does not depend on the jobs before it.

    `threads` of a run that is resumed are those it began with: their number decides how sums are rounded.
    """
    from permlab.seeding import seed_everything
    from permlab.threads import idle_cores, set_threads

    seed_everything(config.seed)
    given, many = threads_given(config.hardware), config.hardware.processes
    if ranks.count() > 1:
        # A number, and in the environment: accelerate would choose another.
        each = set_threads(given or threads or max(1, idle_cores() // many))
        os.environ["OMP_NUM_THREADS"] = str(each)
        return each
    if works_side_by_side(config):
        from permlab import processes

        processes.divide(many, partial(prepare_part, config, given or threads or max(1, idle_cores() // many)))
    return set_threads(given, begun_with=threads)


def prepare_part(config: Config[TaskSettings], threads: int) -> None:
    """Set up a process that works on parts of a run; of several GPUs each takes the next one."""
    from permlab.seeding import seed_everything
    from permlab.threads import set_threads

    registry.activate(config.plugins)
    seed_everything(config.seed)
    set_threads(threads)
    _until_the_end.enter_context(deterministic(config.run.deterministic))
    if resolve_device(config.hardware).type == "cuda":
        import torch

        number = int(multiprocessing.current_process().name.rpartition("-")[2])
        torch.cuda.set_device(number % torch.cuda.device_count())


def end_processes(config: Config[TaskSettings]) -> None:
    """End the processes that worked on parts of a run."""
    if works_side_by_side(config):
        from permlab import processes

        processes.end()


def trains_together(config: Config[TaskSettings]) -> bool:
    """Whether several processes take part in the training of a run."""
    shared = shares(config)
    return together(config.hardware) > 1 and shared is not None and shared.training


def works_side_by_side(config: Config[TaskSettings]) -> bool:
    """Whether several processes work on parts of a run."""
    shared = shares(config)
    return together(config.hardware) > 1 and shared is not None and not shared.training


def threads_of(path: Path) -> int | None:
    """Return the threads that a run began with, or None where its environment.json does not say."""
    environment = read_json(path / "environment.json")
    threads = environment.get("threads") if isinstance(environment, dict) else None
    return threads if isinstance(threads, int) and 0 < threads < 10_000 else None
