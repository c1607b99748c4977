"""How many CPU threads: `permlab hardware.threads=auto`, or around a loop of your own `with for_work(macs): ...`.

Tiny models gain nothing from a second thread and lose much of what they have when another program holds a core: every
operation then waits for the slowest thread. So a loop gets as many threads as its steps have work for, of the cores
that are idle. Measured with `python scripts/bench_threads.py`.
"""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

MACS_A_THREAD = 1e9
"""Multiply-accumulates of a training step (forward and backward) from which on a further thread pays in the command,
whose idle threads sleep (OMP_WAIT_POLICY): the default of task=spt makes 13 steps a second with one and 9 with two."""
VALID = 30.0
"""Seconds for which a look at the other programs holds: jobs of a sweep follow each other faster."""

LOGGER = logging.getLogger(__name__)


@dataclass
class _Choice:
    """Who decides: `given` threads for everything, `limit` for the whole process, or neither, as in a library."""

    given: int | None = None
    limit: int | None = None
    said: int | None = None


_choice = _Choice()


def usable_cores() -> int:
    """Return the number of cores this process may use: affinity and, in a container, its quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = file.read().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no Linux, no quota ("max"), or an older kind of cgroup
        return cores


def idle_cores() -> int:
    """Return how many usable cores other programs leave, at least 1; looks for a tenth of a second now and then."""
    return _idle_cores(int(time.monotonic() / VALID))


@functools.lru_cache(maxsize=1)
def _idle_cores(_: int) -> int:
    import psutil

    cores, installed = usable_cores(), int(psutil.cpu_count() or 1)
    if cores == 1:
        return 1
    free = installed * (1 - float(psutil.cpu_percent(interval=0.1)) / 100)
    # A core that is half busy is none: every operation would wait for the thread on it.
    return max(1, min(cores, int(free + 0.25)))


def set_threads(count: int | None, begun_with: int | None = None) -> int:
    """Give torch `count` threads whatever the work, or, with None, leave the choice to `for_work`; return the count.

    `begun_with` takes the place of the idle cores: a run that goes on rounds its sums as it did before.

    The variable OMP_NUM_THREADS counts as a choice of the user's. Without any, what is not divided by `for_work` (the
    maps over networks and rows) gets the idle cores.
    """
    import torch

    _choice.given = count if count is not None else _from_environment()
    limit = _choice.given or begun_with or idle_cores()
    _choice.limit = limit
    _choice.said = None
    torch.set_num_threads(limit)
    return limit


def _from_environment() -> int | None:
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return int(limit) if limit.isdigit() and int(limit) else None


@contextmanager
def for_work(macs: float) -> Iterator[int]:
    """Run a training loop with the threads that its steps have work for; yields their number.

    Only lowers the count, and puts it back afterwards. Where the user has chosen (`set_threads`, `hardware.threads`, or
    OMP_NUM_THREADS), that is what is taken.

    Args:
        macs: multiply-accumulates of one step, forward and backward.
    """
    import torch

    before = torch.get_num_threads()
    if (_choice.given or _from_environment()) is not None or before == 1:
        yield before
        return
    count = max(1, min(before, int(macs / MACS_A_THREAD), _choice.limit or idle_cores()))
    if count != _choice.said:
        LOGGER.info("%d of %d threads for steps of this size; hardware.threads=N fixes their number", count, before)
        _choice.said = count
    torch.set_num_threads(count)
    try:
        yield count
    finally:
        torch.set_num_threads(before)


def macs_of(model: nn.Module, *inputs: Any) -> float:
    """Return the multiply-accumulates of a training step of `model` on `inputs`, by one forward pass without gradients.

    Layers with weights are counted (Linear, convolutions); a backward pass costs about twice the forward one.
    """
    import torch

    total = 0.0

    def count(module: nn.Module, _: Any, output: Any) -> None:
        nonlocal total
        if isinstance(module, torch.nn.Linear | torch.nn.modules.conv._ConvNd):
            total += module.weight[0].numel() * output.numel()

    hooks = [module.register_forward_hook(count) for module in model.modules()]
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(*inputs)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return 3 * total
