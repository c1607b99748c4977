"""Many starts of the command without its imports: a process that has loaded everything is forked for each.

preload(); end = start(["task=ntk", "run.root=out"], enter=lambda: os.umask(0)); end.code, end.out, end.err
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import tiny_runs

SECONDS = 300.0
"""After which a start counts as hanging."""


@dataclass
class End:
    """How a start ended: exit code (minus the signal that killed it; None when it hung), what it printed."""

    code: int | None
    out: str
    err: str


def preload(tasks: Sequence[str] = tuple(tiny_runs.TINY)) -> None:
    """Run every task once: afterwards a fork has nothing to import."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads do not survive a fork
    with tempfile.TemporaryDirectory(prefix="permlab-preload-") as folder, tiny_runs.silent():
        for task in tasks:
            if tiny_runs.permlab(*tiny_runs.overrides(task, f"run.root={folder}")):
                raise SystemExit(f"the tiny run of task={task} does not work")


class Started:
    """One start that runs; `end()` waits for it."""

    def __init__(self, arguments: Sequence[str], enter: Callable[[], object] | None = None) -> None:
        self.out, self.err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        sys.stdout.flush()
        sys.stderr.flush()
        self.began = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            self._be(arguments, enter)

    def _be(self, arguments: Sequence[str], enter: Callable[[], object] | None) -> None:
        code = 99
        try:
            for number, file in ((1, self.out), (2, self.err)):
                os.dup2(file.fileno(), number)
            # Under pytest these two are its own files, and what is printed would never reach ours.
            sys.stdout, sys.stderr = (os.fdopen(n, "w", encoding="utf-8", closefd=False) for n in (1, 2))
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if enter is not None:
                enter()
            code = tiny_runs.permlab(*arguments)
        except BaseException:
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError, AttributeError):
                    stream.flush()
            os._exit(code)

    def end(self) -> End:
        """Wait, and return how it ended."""
        code: int | None = None
        while time.monotonic() - self.began < SECONDS:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                break
            time.sleep(0.01)
        else:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        texts = []
        for file in (self.out, self.err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
            file.close()
        return End(code, *texts)


def start(arguments: Sequence[str], enter: Callable[[], object] | None = None) -> End:
    """Start the command in a fork and wait for it."""
    return Started(arguments, enter).end()


def become_nobody() -> None:
    """Give up root for good, in a child."""
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)


def limit(what: int, value: int) -> None:
    """Lower a limit of the operating system, in a child."""
    resource.setrlimit(what, (value, value))


def contents(folder: Path) -> dict[str, bytes]:
    """Return path -> bytes of every file."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
