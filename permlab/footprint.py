"""Memory and time of a run, known before it starts: `permlab task=spt run.dry_run=true` shows both.

A task says what it needs (`footprint(config)` of its module); what cannot fit is refused unless `run.force=true`. How
far the estimates are from measured peaks: `python scripts/bench_memory.py`.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from permlab.errors import UserError, first_line
from permlab.hardware import HardwareConfig, available_memory, cuda_devices, size_text

STEP_SECONDS = 0.01
"""Of a training step beside its arithmetic: Python, the optimizer's loop, what is logged."""
SHARE = 0.4
"""Of the speed of large matrix products, what training reaches on a CPU."""
TORCH_FULL = ("can't allocate memory", "not enough memory", "out of memory")


@dataclass(frozen=True)
class Footprint:
    """What a run needs.

    Attributes:
        peak: bytes at the fullest moment.
        parts: what takes them, in bytes; not all of it is there at the same moment.
        libraries: bytes of main memory that Python and its libraries take beside that.
        macs: multiply-accumulates of the whole run, or None where arithmetic does not decide its time.
        steps: training steps of the whole run.
    """

    peak: float
    parts: Mapping[str, float]
    libraries: float = 0.0
    macs: float | None = None
    steps: float = 0.0

    def text(self, most: int = 9) -> str:
        """Return the need in words, with the largest of its parts."""
        shown = sorted(self.parts, key=lambda name: -self.parts[name])[:most]
        named = ", ".join(f"{name} {size_text(self.parts[name])}" for name in self.parts if name in shown)
        beside = f", beside {size_text(self.libraries)} of libraries" if self.libraries else ""
        return f"about {size_text(self.peak)}{beside}{f' ({named})' if named else ''}"


def on_cpu(hardware: HardwareConfig) -> bool:
    """Whether a profile computes on the CPU; torch is not loaded."""
    return hardware.device == "cpu" or (hardware.device == "auto" and cuda_devices() == 0)


def of_processes(need: Footprint, hardware: HardwareConfig) -> Footprint:
    """Return what all processes of this machine need: side by side in main memory, or each on a GPU of its own."""
    count = hardware.processes
    if count == 1 or not on_cpu(hardware):
        return need
    parts = {name: count * size for name, size in need.parts.items()}
    return replace(need, peak=count * need.peak, parts=parts, libraries=(count + 1) * need.libraries)


def room(hardware: HardwareConfig) -> tuple[float, str] | None:
    """Return the bytes of the memory that a profile computes in, and whose they are; None where nobody says."""
    if hardware.device == "mps":
        return None
    if on_cpu(hardware):
        return main_memory(), "this machine"
    size = gpu_memory(int(hardware.device.partition(":")[2] or 0))
    return None if size is None else (size, "the GPU")


def main_memory() -> float:
    """Return the bytes of main memory: the machine's, or what a container may take of it."""
    total = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        return min(total, float(limit))
    except (OSError, ValueError):  # no Linux, or no limit ("max")
        return total


def gpu_memory(index: int) -> float | None:
    """Return the bytes of a GPU's memory by asking its driver, or None; torch is not loaded."""
    if not cuda_devices():
        return None
    device, size = ctypes.c_int(0), ctypes.c_size_t(0)
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        failed = driver.cuDeviceGet(ctypes.byref(device), index) or driver.cuDeviceTotalMem_v2(
            ctypes.byref(size), device
        )
    except (OSError, AttributeError):
        return None
    return None if failed else float(size.value)


def check_fits(need: Footprint, hardware: HardwareConfig, remedies: tuple[str, ...], force: bool) -> str:
    """Return the need in words.

    Args:
        need: of the run.
        hardware: where it runs; memory that is not known refuses nothing.
        remedies: what makes it smaller, as it is written on the command line.
        force: start all the same.

    Raises:
        UserError: it cannot fit, with both sizes.
    """
    found = room(hardware)
    if found is None:
        return need.text()
    size, whose = found
    wanted = need.peak + (need.libraries if whose == "this machine" else 0)
    if wanted <= size:
        free = available_memory() if whose == "this machine" else size
        return need.text() + ("" if wanted <= free else f"; {size_text(free)} are free now")
    if force:
        return f"{need.text()}: more than the {size_text(size)} of {whose}, and run.force=true starts it"
    ways = f"try {', '.join(remedies)}" if remedies else "make it smaller"
    said = f"this run needs {need.text(most=3)} and {whose} has {size_text(size)}"
    raise UserError(f"{said}: {ways}; run.force=true starts it all the same")


def duration(need: Footprint, hardware: HardwareConfig) -> str:
    """Return in words how long a run takes, by the speed of this processor at this moment."""
    if need.macs is None:
        return "not estimated"
    if not on_cpu(hardware):
        return "not known for a GPU before it has run there"
    speed = macs_a_second()
    return (
        f"about {seconds_text(seconds_of(need, speed))}, at {2 * speed / 1e9:,.0f} GFLOP/s for large products just now"
    )


def seconds_of(need: Footprint, speed: float) -> float:
    """Return how long a run takes on a CPU that does `speed` multiply-accumulates a second in large products."""
    return (need.macs or 0.0) / (SHARE * speed) + STEP_SECONDS * need.steps


def macs_a_second() -> float:
    """Return multiply-accumulates a second of a float32 product of 512 x 512 matrices, the best of some."""
    import numpy as np

    a = np.ones((512, 512), np.float32)
    times = []
    for _ in range(6):
        began = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - began)
    return float(512**3 / min(times))


def seconds_text(seconds: float) -> str:
    """Return a time for people: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def is_memory(error: BaseException) -> bool:
    """Whether an error says that memory was not enough: Python's, or torch's on a CPU or GPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in TORCH_FULL)


def memory_message(error: BaseException, remedies: tuple[str, ...]) -> str:
    """Return one line about a run that found no memory, with the keys that help."""
    said = first_line(error).partition(". GPU")[0] if str(error).strip() else "MemoryError"
    return f"out of memory ({said[:160]}): try {', '.join(remedies) or 'a smaller run'}"
