"""SIGINT, SIGTERM and SIGUSR2: first ask the task to checkpoint, then insist.

SIGUSR2 is what Slurm sends before a time limit, for submitit and in any script that says `#SBATCH --signal=USR2@120`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from permlab.errors import Interrupted

GRACE_SECONDS = 10.0
"""A task that has not reached a place to checkpoint after this long is stopped where it is."""


NOTICE = getattr(signal, "SIGUSR2", signal.SIGTERM)
"""The signal with which a launcher says that the time is nearly over; Windows has none of its own."""


class StopRequest:
    """Which stop signal has arrived, if any."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self.insisted = float("-inf")
        """When the task was last stopped where it was: signals in quick succession do so once."""
        self.closing = False
        """Set when the run is being closed: further signals change nothing then."""

    def check(self) -> None:
        """Raise `Interrupted` if a stop signal has arrived."""
        if self.signum is not None:
            raise Interrupted(self.signum)


_grace = {"notice": GRACE_SECONDS}


def expect_notice(seconds: float) -> None:
    """Have a launcher's signal leave a task half of `seconds`, the time until the end, to reach a checkpoint."""
    _grace["notice"] = max(GRACE_SECONDS / 2, seconds / 2)


def notice_seconds() -> float:
    """Return what `expect_notice` was told last."""
    return 2 * _grace["notice"]


def impatient() -> Any:
    """Let the first SIGINT outside a run raise KeyboardInterrupt, and the next end the process at once, in silence.

    Python's own handler raises again and again, also where the first is being dealt with, and prints where it was.
    Returns the handler that was there; a SIGINT that a shell has us ignore stays ignored.
    """

    def at_once(*_: object) -> None:
        with suppress(Exception):  # what was said so far; it may be just being written
            sys.stdout.flush()
        os._exit(128 + signal.SIGINT)

    def on_interrupt(*_: object) -> None:
        signal.signal(signal.SIGINT, at_once)
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT) or signal.SIG_DFL
    if threading.current_thread() is threading.main_thread() and callable(before):
        signal.signal(signal.SIGINT, on_interrupt)
    return before


@contextmanager
def listening() -> Iterator[StopRequest]:
    """Collect stop signals while the body runs; a second one, or the end of the grace time, stops at once."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def on_stop(signum: int, _: FrameType | None) -> None:
        if request.closing:
            return
        if request.signum is None:
            request.signum = signum
            signal.setitimer(signal.ITIMER_REAL, _grace["notice"] if signum == NOTICE else GRACE_SECONDS)
        elif time.monotonic() - request.insisted > GRACE_SECONDS:
            # Once: a third one would break into what the second has begun, saving a checkpoint for instance.
            request.insisted = time.monotonic()
            raise Interrupted(signum)

    def on_alarm(*_: object) -> None:
        if not request.closing and time.monotonic() - request.insisted > GRACE_SECONDS:
            request.insisted = time.monotonic()
            request.check()

    handlers: dict[int, Callable[[int, FrameType | None], None]]
    handlers = {signal.SIGINT: on_stop, signal.SIGTERM: on_stop, NOTICE: on_stop, signal.SIGALRM: on_alarm}
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield request
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in previous.items():
            signal.signal(number, handler)
