"""One training on several processes: `permlab task=spt hardware.processes=2`, started and watched from here.

The configuration has been composed and checked, and the run's directory holds it: the processes, of
`torch.distributed.run`'s agent, read config.yaml (`runs.rank`). The first of them carries the run out as a run of one
process would, and it alone writes, prints and tracks. This process holds the directory meanwhile, hands on the signals
that it gets, and says how the run ended when a process was lost.

Under Slurm with `hardware.nodes=N` every machine has such a process; the processes meet at the first machine.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from permlab import ranks
from permlab.config import Config, TaskSettings
from permlab.errors import UserError, as_lines, first_line
from permlab.runs import directory, signals
from permlab.runs.console import LOGGER, logging_to
from permlab.runs.outcome import Outcome
from permlab.runs.run import Run, RunLostError
from permlab.storage.files import read_json, write_json
from permlab.storage.locks import hold

MEETING_SECONDS = 900
"""How long machines wait for each other."""
FIRST_PORT, PORTS = 20_000, 20_000
"""Where the processes of several machines meet: a port by the number of Slurm's job."""
WATCHED = (signal.SIGINT, signal.SIGTERM, signals.NOTICE)


def node() -> int:
    """Return the number of this machine among those of a Slurm job, from 0."""
    return int(os.environ.get("SLURM_NODEID", "0") or 0)


def check_nodes(config: Config[TaskSettings]) -> None:
    """Refuse several machines where Slurm has not started this process on each of them.

    Raises:
        UserError: with how to start it.
    """
    nodes = config.hardware.nodes
    if nodes > 1 and os.environ.get("SLURM_NNODES", "1") != str(nodes):
        raise UserError(
            f"hardware.nodes={nodes} is for a Slurm job on {nodes} machines: "
            f"permlab -m KEY=VALUE ... hardware=slurm_multi_gpu hardware.nodes={nodes}"
        )


def meeting(config: Config[TaskSettings]) -> dict[str, Any]:
    """Return where and how processes meet, as keywords of `LaunchConfig`."""
    count, each = config.hardware.nodes, config.hardware.processes
    shared: dict[str, Any] = {"min_nodes": count, "max_nodes": count, "nproc_per_node": each, "max_restarts": 0}
    if count == 1:
        return shared | {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": uuid.uuid4().hex}
    job = os.environ.get("SLURM_JOB_ID", "0")
    head = os.environ.get("MASTER_ADDR") or os.environ.get("SLURM_LAUNCH_NODE_IPADDR", "localhost")
    port = os.environ.get("MASTER_PORT") or FIRST_PORT + int(job.partition("_")[0]) % PORTS
    configs = {"rank": node(), "timeout": MEETING_SECONDS}
    return shared | {
        "rdzv_backend": "static", "rdzv_endpoint": f"{head}:{port}", "rdzv_configs": configs, "run_id": job,
    }  # fmt: skip


def supervise(config: Config[TaskSettings], path: Path, resumed: bool) -> Outcome:
    """Carry out a run on several processes.

    Raises:
        UserError: the directory cannot be written, or another process works in it.
    """
    check_nodes(config)
    with ExitStack() as opened:
        with directory.writable(path):
            lock = opened.enter_context(hold(path))
        with processes(config, path, resumed) as (ended, told, failures, stop):
            while not ended(0.2):
                pass
            said = read_json(told)
        if isinstance(said, dict) and not (failures and taken_along(said, stop)):
            return Outcome(path, said["status"], said["exit_code"], said["message"])
        opened.enter_context(logging_to(path / "run.log"))
        run = Run(config, path, signals.StopRequest(), resumed=True, lock=lock)
        opened.callback(run.close)
        signum = stop.signum
        if signum is not None:
            message = f"continue with: permlab resume {path}"
            LOGGER.warning("interrupted; %s", message)
            return concluded(run, Outcome(path, "interrupted", 128 + signum, message))
        message = f"{failures[0] if failures else 'the processes ended'}; continue with: permlab resume {path}"
        LOGGER.error("failed: %s", message)
        return concluded(run, Outcome(path, "failed", 1, message))


def taken_along(said: dict[str, Any], stop: signals.StopRequest) -> bool:
    """Whether the first process ended only because another had: it lost the connection, or its agent stopped it."""
    if said["status"] == "interrupted":
        return stop.signum is None
    return said["status"] == "failed" and ranks.has_left(said["message"])


def join(config: Config[TaskSettings], path: Path) -> bool:
    """Have this machine, not the first of a run, take part in it; whether all went well."""
    with processes(config, path, True) as (ended, _, failures, _stop):
        while not ended(0.2):
            pass
    return not failures


def concluded(run: Run, outcome: Outcome) -> Outcome:
    """Write how a run ended whose first process could not."""
    try:
        run.write_result(outcome.status, outcome.message if outcome.status == "failed" else None)
    except (OSError, RunLostError) as problem:
        LOGGER.error("result.json could not be written: %s", first_line(problem))
    return outcome


Watch = tuple[Callable[[float], bool], Path, list[str], signals.StopRequest]


@contextmanager
def processes(config: Config[TaskSettings], path: Path, resumed: bool) -> Iterator[Watch]:
    """Start the processes of this machine.

    Yields:
        whether they have ended, waiting for so many seconds; the file in which the first says how; what is said of
        those that were lost; the signal that was handed on.
    """
    # Not loaded before: whoever starts a run of one process does not wait for it.
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    failures: list[str] = []
    with tempfile.TemporaryDirectory(prefix="permlab-") as folder:
        told, order = Path(folder) / "outcome.json", Path(folder) / "order.json"
        write_json(
            order,
            {"directory": str(path), "resumed": resumed, "outcome": str(told), "argv": sys.argv,
             "processes": [config.hardware.processes, config.hardware.nodes], "notice": signals.notice_seconds()},
        )  # fmt: skip
        launch = LaunchConfig(**meeting(config), monitor_interval=0.1)

        def work() -> None:
            try:
                elastic_launch(launch, sys.executable)("-m", "permlab.runs.rank", str(order))
            except ChildFailedError as error:
                failures.extend(lost(error, config))
            except Exception as error:
                failures.append(f"the processes could not work together ({first_line(error)})")

        thread = threading.Thread(target=work, name="processes", daemon=True)
        with handed_on(node() == 0) as stop:
            thread.start()

            def ended(seconds: float) -> bool:
                thread.join(seconds)
                return not thread.is_alive()

            yield ended, told, failures, stop


def lost(error: Any, config: Config[TaskSettings]) -> list[str]:
    """Say which processes were lost, first the one that took the others with it."""
    found = sorted(error.failures.items(), key=lambda each: (each[1].exitcode == -signal.SIGTERM, each[1].timestamp))
    total, said = config.hardware.processes * config.hardware.nodes, []
    for number, failure in found:
        if failure.exitcode < 0:
            with suppress(ValueError):
                said.append(f"process {number} of {total} was killed by {signal.Signals(-failure.exitcode).name}")
                continue
        known = failure.message.get("message") if isinstance(failure.message, dict) else failure.message
        said.append(as_lines(f"process {number} of {total} ended: {known}", lines=1))
    return said


@contextmanager
def handed_on(first: bool) -> Iterator[signals.StopRequest]:
    """Hand stop signals on to the first process of this run; the others hear of them from it.

    Processes on other machines than the first do nothing: their supervisor waits for the run to end.
    """
    request = signals.StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def hand_on(signum: int, *_: object) -> None:
        request.signum = request.signum or signum
        if first:
            for each in started():
                with suppress(OSError):
                    os.kill(each, signum)

    previous = {number: signal.signal(number, hand_on) for number in WATCHED}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def started() -> list[int]:
    """Return the process identifiers of the first of the processes that this one has started."""
    import psutil

    found = []
    for each in psutil.Process().children():
        with suppress(psutil.Error):
            if "permlab.runs.rank" in each.cmdline() and each.environ().get("RANK") == "0":
                found.append(each.pid)
    return found
