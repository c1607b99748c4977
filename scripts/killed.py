"""Processes that are forked from one that has imported everything, and that end or are signalled where one wants it.

    preload()
    process(["task=ntk", "run.dir=run"], folder, "event:17")      # SIGKILL at the 17th event, in `folder`

Events lie before and after every fsync, rename, unlink and mkdir of the process.
"""

from __future__ import annotations

import gc
import importlib
import os
import pkgutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COUNTED = ("fsync", "replace", "rename", "unlink", "mkdir")
PATIENCE = 120.0
"""Seconds for one process."""


@dataclass
class Ended:
    """How a process ended: its exit code (negative: the signal), what it printed, its events, its seconds."""

    code: int
    said: str
    events: list[str]
    seconds: float


def preload() -> None:
    """Import what runs import, and what Hydra finds out once, so that a forked process starts at once."""
    import accelerate  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import peft  # noqa: F401
    import transformers.trainer  # noqa: F401
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: F401

    import permlab
    from permlab.compose import plan_jobs

    for module in pkgutil.walk_packages(permlab.__path__, "permlab."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    plan_jobs(["task=ntk", "tracker=none"], False)
    gc.freeze()  # a child that collects garbage would copy every page of this process


def process(arguments: list[str], folder: Path, fault: str = "") -> Ended:
    """Run one command line in a child in `folder`, with a fault: see `forked`."""
    return forked(lambda: command(arguments), folder, fault)


def forked(work: Callable[[], int], folder: Path, fault: str = "") -> Ended:
    """Call `work` in a child in `folder`; what it returns is the exit code.

    Args:
        work: what to do.
        folder: the child's working directory.
        fault: `event:17` kills it at its 17th event, `time:0.4` after 0.4 s; `SIGTERM:0.4` and `SIGINT:0.4` are sent
            then, the latter five times in quick succession; nothing leaves it alone.
    """
    kind, _, value = fault.partition(":")
    said, events = folder / "said.txt", folder / "events.txt"
    began = time.monotonic()
    child = os.fork()
    if not child:
        try:
            _in_child(work, folder, said, events, int(value) if kind == "event" else 0)
        finally:
            os._exit(99)
    if kind not in ("", "event"):
        time.sleep(float(value))
        for _ in range(5 if kind == "SIGINT" else 1):
            if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                break
            os.kill(child, signal.SIGKILL if kind == "time" else signal.Signals[kind])
            time.sleep(0.01)
    while not (found := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() - began > PATIENCE:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.005)
    seconds = time.monotonic() - began
    listed = events.read_text().splitlines() if events.exists() else []
    return Ended(os.waitstatus_to_exitcode(found[1]), said.read_text(errors="replace"), listed, seconds)


def _in_child(work: Callable[[], int], folder: Path, said: Path, events: Path, at: int) -> None:
    os.chdir(folder)
    descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = open(1, "w", buffering=1, closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _count_events(events, at)
    code = work()
    sys.stdout.flush()
    os._exit(code)


def command(arguments: list[str]) -> int:
    """What the installed command does with these arguments; figures are written but not drawn. Only for a child."""
    from matplotlib.figure import Figure

    from permlab.cli import main

    Figure.savefig = lambda self, path, **_: Path(path).write_text("a figure")  # type: ignore[method-assign,misc,assignment]
    sys.argv = ["permlab", *arguments]
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def _count_events(events: Path, at: int) -> None:
    """Write down every event before it counts, and kill this process at one of them."""
    listed = open(events, "w", buffering=1)  # noqa: SIM115  it is open until the process ends
    count = 0

    def event(what: str) -> None:
        nonlocal count
        count += 1
        listed.write(what + "\n")
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            where = " ".join(Path(str(each)).name for each in arguments)
            event(f"before {name} {where}")
            answer = original(*arguments, **options)
            event(f"after {name} {where}")
            return answer

        return call

    for name in COUNTED:
        setattr(os, name, counted(name, getattr(os, name)))
