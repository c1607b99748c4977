"""SIGINT and SIGTERM: first ask the task to checkpoint, then insist."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from permlab.errors import Interrupted

GRACE_SECONDS = 10.0
"""A task that has not reached a place to checkpoint after this long is stopped where it is."""


class StopRequest:
    """Which stop signal has arrived, if any."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self.closing = False
        """Set when the run is being closed: further signals change nothing then."""

    def check(self) -> None:
        """Raise `Interrupted` if a stop signal has arrived."""
        if self.signum is not None:
            raise Interrupted(self.signum)


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
        if request.signum is not None:
            raise Interrupted(signum)
        request.signum = signum
        signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS)

    def on_alarm(*_: object) -> None:
        if not request.closing:
            request.check()

    handlers: dict[int, Callable[[int, FrameType | None], None]]
    handlers = {signal.SIGINT: on_stop, signal.SIGTERM: on_stop, signal.SIGALRM: on_alarm}
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield request
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in previous.items():
            signal.signal(number, handler)
