"""What every tracker answers, and the thread of its own that keeps it from failing a run or holding it up.

run.tracker = open_trackers(config, run_dir)      # permlab.runs.trackers.opening
run.tracker.log({"loss": 0.1}, step=10)           # returns at once
run.tracker.finish(0)                             # waits for what is under way, for tracker.patience at most
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from permlab.config import Config, TaskSettings
from permlab.errors import first_line
from permlab.runs.console import LOGGER

WAITING = 100_000
"""Most calls that wait for a tracker which does not answer; later ones are dropped."""


class Tracker(Protocol):
    """The calls that a tracker answers; it may raise whatever it likes."""

    def log(self, metrics: dict[str, float], step: int | None) -> None:
        """Record metrics of one step."""

    def rewind(self, step: int) -> None:
        """Forget what was logged after `step`: a resumed run logs it again, the same."""

    def table(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Record a table, which is `tables/<name>.csv` of the run directory too."""

    def figure(self, name: str, png: Path) -> None:
        """Record a figure."""

    def summary(self, metrics: dict[str, float]) -> None:
        """Record final numbers."""

    def artifact(self, name: str, files: Sequence[Path], kind: str) -> None:
        """Keep files and folders as one artifact; `kind` is model, tables or files."""

    def finish(self, exit_code: int) -> None:
        """Close the run; called exactly once, whatever happened."""


class TrackerClass(Protocol):
    """What `target` of a tracker's row is: the class, which knows how to start."""

    @staticmethod
    def wanted(config: Config[TaskSettings]) -> bool:
        """Whether it is to run at all."""

    @staticmethod
    def prepare(config: Config[TaskSettings]) -> None:
        """Import its library. The main thread does it: two threads that import the same modules can deadlock."""

    @staticmethod
    def open(config: Config[TaskSettings], run_dir: Path) -> Tracker:
        """Start it, or continue the one that an earlier part of a resumed run started."""


class NullTracker:
    """Records nothing."""

    def log(self, metrics: dict[str, float], step: int | None) -> None:
        """Do nothing."""

    def rewind(self, step: int) -> None:
        """Do nothing."""

    def table(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Do nothing."""

    def figure(self, name: str, png: Path) -> None:
        """Do nothing."""

    def summary(self, metrics: dict[str, float]) -> None:
        """Do nothing."""

    def artifact(self, name: str, files: Sequence[Path], kind: str) -> None:
        """Do nothing."""

    def finish(self, exit_code: int) -> None:
        """Do nothing."""


class Mirror:
    """One tracker in a thread of its own: its calls are carried out in order, its first failure is a warning."""

    def __init__(self, label: str, start: Callable[[], Tracker], at_exit: float = 0.0) -> None:
        self.label, self.at_exit, self._start = label, at_exit, start
        self._calls: queue.SimpleQueue[Callable[[Tracker], None] | None] = queue.SimpleQueue()
        self._failed = self._left = False
        self.opened, self.closed = threading.Event(), threading.Event()
        threading.Thread(target=self._work, name=f"tracker {label}", daemon=True).start()

    def send(self, call: Callable[[Tracker], None]) -> None:
        """Have a call carried out, after those before it."""
        if self._calls.qsize() < WAITING:
            self._calls.put(call)

    def last(self, exit_code: int) -> None:
        """Have the tracker closed after what waits."""
        self._calls.put(lambda tracker: tracker.finish(exit_code))
        self._calls.put(None)

    def leave(self) -> None:
        """Say that the run no longer waits; from now on the tracker is not heard."""
        self._left = True

    def _work(self) -> None:
        tracker: Tracker | None = None
        try:
            tracker = self._start()
        except BaseException as error:
            self._warn(f"{self.label} could not start ({first_line(error)}); metrics.jsonl goes on")
        self.opened.set()
        while (call := self._calls.get()) is not None:
            try:
                if tracker is not None:
                    call(tracker)
            except BaseException as error:
                self._warn(f"{self.label}: {first_line(error)}; metrics.jsonl has everything")
        self.closed.set()

    def _warn(self, message: str) -> None:
        if not self._failed and not self._left:
            self._failed = True
            LOGGER.warning("%s", message)


class Mirrors:
    """All trackers of a run; the run waits `patience` seconds for them in all, together.

    Args:
        mirrors: already started.
        patience: seconds; the share that a library takes when the process ends is kept back from them.
    """

    def __init__(self, mirrors: Sequence[Mirror], patience: float) -> None:
        self.mirrors, self._all = mirrors, patience
        self._patience = patience * (1.0 - max((mirror.at_exit for mirror in mirrors), default=0.0))
        self._wait([mirror.opened for mirror in mirrors])

    def log(self, metrics: dict[str, float], step: int | None) -> None:
        """Have every tracker record metrics of one step."""
        kept = dict(metrics)
        self._send(lambda tracker: tracker.log(kept, step))

    def rewind(self, step: int) -> None:
        """Have every tracker forget what was logged after `step`."""
        self._send(lambda tracker: tracker.rewind(step))

    def table(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Have every tracker record a table, as it is now."""
        kept = [dict(row) for row in rows]
        self._send(lambda tracker: tracker.table(name, kept))

    def figure(self, name: str, png: Path) -> None:
        """Have every tracker record a figure."""
        self._send(lambda tracker: tracker.figure(name, png))

    def summary(self, metrics: dict[str, float]) -> None:
        """Have every tracker record final numbers."""
        kept = dict(metrics)
        self._send(lambda tracker: tracker.summary(kept))

    def artifact(self, name: str, files: Sequence[Path], kind: str) -> None:
        """Have every tracker keep files."""
        self._send(lambda tracker: tracker.artifact(name, files, kind))

    def finish(self, exit_code: int) -> None:
        """Close all of them; what is not done in time is left behind, with a warning."""
        for mirror in self.mirrors:
            mirror.last(exit_code)
        self._wait([mirror.closed for mirror in self.mirrors])
        for mirror in self.mirrors:
            if not mirror.closed.is_set():
                mirror.leave()
                LOGGER.warning(
                    "%s did not finish within the %g s of tracker.patience; metrics.jsonl has everything",
                    mirror.label,
                    self._all,
                )

    def _send(self, call: Callable[[Tracker], None]) -> None:
        for mirror in self.mirrors:
            mirror.send(call)

    def _wait(self, events: Sequence[threading.Event]) -> None:
        began = time.monotonic()
        for event in events:
            event.wait(max(0.0, began + self._patience - time.monotonic()))
        self._patience = max(0.0, self._patience - (time.monotonic() - began))
