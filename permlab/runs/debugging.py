"""A debug run while it goes: `with debugged(run): task.run(config, run)` says so, profiles it, judges it.

permlab task=ntk debug=profile      # artifacts/trace.json for chrome://tracing or ui.perfetto.dev, tables/profile.csv
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from permlab.debug import judged
from permlab.runs.run import Run
from permlab.storage.files import replacing
from permlab.tables import Row


@contextmanager
def debugged(run: Run) -> Iterator[None]:
    """Run what stands below as `run.config.debug` says; nothing for a real run."""
    debug = run.config.debug
    if not debug.on:
        yield
        return
    run.say(f"debug={debug.name}: no result; reports and run.skip_finished leave it out")
    with profiled(run, debug.operations) if debug.profile else nullcontext():
        yield
    for line, held in judged(debug, run.config.to_container(), run.metrics):
        if held:
            run.say(f"check holds: {line}")
        else:
            run.warn(f"check does not hold: {line}")


@contextmanager
def profiled(run: Run, operations: int) -> Iterator[None]:
    """Record all operations of PyTorch below; write the trace, and the costliest as a table, when it ends well."""
    # The recorder under torch.profiler reads this when it is first used, and prints lines of its own otherwise.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    from torch.profiler import ProfilerActivity, profile

    gpu = run.device.type == "cuda"
    started = time.perf_counter()
    with profile(
        activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])], acc_events=True
    ) as found:
        yield
    seconds = time.perf_counter() - started
    run.say(f"{len(found.events())} operations in {seconds:.1f} s; writing the trace")
    with replacing(run.artifact("trace.json")) as temporary:
        found.export_chrome_trace(str(temporary))
    rows = costliest(found.key_averages(), operations, gpu)
    own = "GPU" if gpu else "CPU"
    if not rows:
        run.warn("no operation of PyTorch ran: there is nothing to profile (task=ntk: task.mode=train has some)")
    run.table("profile", rows, title=f"The {len(rows)} costliest operations, by their own time on the {own}")
    run.say(f"trace: {run.dir / 'artifacts' / 'trace.json'} (open it in ui.perfetto.dev or chrome://tracing)")


def costliest(events: Any, operations: int, gpu: bool = False) -> list[Row]:
    """Return the operations with the most time of their own (without those they call), milliseconds, largest first.

    Args:
        events: `key_averages()` of a profile: times in microseconds.
        operations: how many.
        gpu: sort by the time on the GPU.
    """

    def own(event: Any) -> float:
        return float(event.self_device_time_total if gpu else event.self_cpu_time_total)

    whole = sum(map(own, events)) or 1.0
    return [
        {
            "operation": event.key,
            "calls": event.count,
            "self_ms": own(event) / 1000,
            "share": own(event) / whole,
            "total_ms": float(event.device_time_total if gpu else event.cpu_time_total) / 1000,
        }
        for event in sorted(events, key=own, reverse=True)[:operations]
    ]
