"""The run as a process that works on a part of it sees it: `hardware.processes=4` of tasks whose parts are independent.

A helper reads what the run has kept and writes the files of its own part. It says and logs nothing: what its part comes
to, the process that asked for it hears, logs and saves.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from permlab import processes
from permlab.config import Config, TaskSettings
from permlab.runs.console import Progress
from permlab.runs.run import Run
from permlab.runs.signals import StopRequest
from permlab.runs.trackers.mirror import NullTracker


class Silent(Progress):
    """Progress that nobody sees."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, done: int, **fields: float) -> None:
        """Show nothing."""


class HelperStop(StopRequest):
    """Stops when the process that it works for wants to."""

    def __init__(self) -> None:
        super().__init__()

    def __getattribute__(self, name: str) -> Any:
        if name == "signum" and processes.stopping():
            return int(signal.SIGTERM)
        return super().__getattribute__(name)


class Helper(Run):
    """A run that another process carries out, and this one helps with."""

    def __init__(self, config: Config[TaskSettings], directory: Path, resumed: bool) -> None:
        self.config, self.dir, self.resumed, self.seed = config, directory, resumed, config.seed
        self.tracker, self._stop, self._lock = NullTracker(), HelperStop(), None
        self._result = {"artifacts": [], "warnings": [], "metrics": {}}

    def taken(self) -> tuple[list[str], list[str]]:
        """Return the files written and the warnings given since the last call."""
        found = list(self._result["artifacts"]), list(self._result["warnings"])
        self._result["artifacts"], self._result["warnings"] = [], []
        return found

    def log(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Nothing: its part's numbers are returned."""

    def say(self, message: str) -> None:
        """Nothing: the other process says it."""

    def warn(self, message: str) -> None:
        """Keep it for the other process."""
        self._result["warnings"].append(message)

    def progress(self, description: str, total: int, done: int = 0) -> Progress:
        """Return a display that shows nothing."""
        return Silent(description, total, done)
