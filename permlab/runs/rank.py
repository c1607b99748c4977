"""One of the processes of a training: `python -m permlab.runs.rank ORDER.json`, started by `runs.supervisor`.

The first carries the run out; the others build the same network and take part in its training (`follow` of the task).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from permlab import registry
from permlab.config import Config, TaskSettings, build_config
from permlab.errors import UserError
from permlab.runs import signals
from permlab.runs.execute import carry_out
from permlab.runs.outcome import Outcome
from permlab.runs.preparation import prepare_process, threads_of
from permlab.runs.streams import prepare_standard_streams
from permlab.storage.files import read_json, write_json
from permlab.storage.locks import Lent
from permlab.storage.plain import read_yaml

PATIENCE = timedelta(days=2)
"""The others wait while the first reads data, asks its questions and writes."""


def main() -> None:
    """Take part in a run."""
    order = read_json(Path(sys.argv[1]))
    threading.Thread(target=leave_with, args=(os.getppid(),), name="parent", daemon=True).start()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    first = os.environ["RANK"] == "0"
    if not first:
        # Stops are the first's to hear: it tells the others between two steps. What they would print, it prints.
        for number in (signal.SIGINT, signal.SIGTERM, signals.NOTICE):
            signal.signal(number, signal.SIG_IGN)
        silence = os.open(os.devnull, os.O_RDWR)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
    prepare_standard_streams()
    signals.expect_notice(order["notice"])
    sys.argv = order["argv"]
    path = Path(order["directory"])
    config = build_config(read_yaml(path / "config.yaml"))
    # Those of this start: a run may go on with another number of processes than it began with.
    config.hardware.processes, config.hardware.nodes = order["processes"]
    meet(config)
    if first:
        write_json(Path(order["outcome"]), vars(carried_out(config, path, order["resumed"])) | {"directory": str(path)})
    else:
        prepare_process(config, threads_of(path) if order["resumed"] else None)
        task: Any = registry.task(config.task.name)
        task.follow(config, path)
    # The agent is the one who ends the processes; leaving at once keeps libraries from waiting for those who have left.
    sys.stdout.flush()
    os._exit(0)


def carried_out(config: Config[TaskSettings], path: Path, resumed: bool) -> Outcome:
    """Carry the run out as a run of one process is."""
    try:
        return carry_out(config, path, resumed, Lent(path))
    except UserError as error:
        return Outcome(path, "refused", 2, str(error))


def meet(config: Config[TaskSettings]) -> None:
    """Meet the other processes: over gloo, and NCCL for what is on GPUs."""
    import torch
    from torch import distributed

    from permlab.hardware import resolve_device

    if resolve_device(config.hardware).type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        distributed.init_process_group("cpu:gloo,cuda:nccl", timeout=PATIENCE)
    else:
        distributed.init_process_group("gloo", timeout=PATIENCE)


def leave_with(parent: int) -> None:
    """End this process when the one that started it is gone: nobody else would."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    from torch.distributed.elastic.multiprocessing.errors import record

    record(main)()
