"""Hardware profiles: `permlab hardware=gpu hardware.device=cuda:1`. torch is imported inside the functions."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from permlab.errors import UserError, check_choice, check_range
from permlab.keys import choice

if TYPE_CHECKING:
    import torch


DTYPES = ("auto", "float32", "bfloat16", "float16")
CUBLAS_WORKSPACES = (":4096:8", ":16:8")
"""Settings with which cuBLAS promises the same bits every time."""
DEVICES = ("auto", "cpu", "cuda", "mps")


@dataclass
class JobKeys:
    """What a job of a sweep asks of its launcher, with hardware=slurm, ray or joblib; nothing here changes a result."""

    partition: str | None = None
    """Slurm's partition; null is the cluster's default."""
    minutes: int = 60
    """Slurm's time limit of one job; a run that needs longer goes on in the same directory, see `requeue`."""
    cpus: int = 1
    """Cores of one job."""
    gpus: int | float | None = None
    """GPUs of one job; Ray shares one between jobs (0.5)."""
    memory: int | None = None
    """Main memory of one job in GB; null is the cluster's default."""
    requeue: int = 10
    """How often a job goes on after its time limit, or on another machine after its own was lost."""
    jobs: int = 256
    """Most jobs at a time."""
    address: str | None = None
    """Of a Ray cluster, or `auto`; null starts one on this machine."""
    processes: int = 1
    """Processes of one run on each machine: a training divides its batches between them (task=spt), other tasks work on
    networks, pairs or seeds side by side."""
    nodes: int = 1
    """Machines of one run, each with so many processes; with hardware=slurm_multi_gpu."""
    shard: bool = False
    """Divide weights, gradients and optimizer between the processes too (FSDP2), for models that do not fit one GPU."""


@dataclass
class HardwareConfig(JobKeys):
    """Device, number type and threads."""

    name: str = "auto"
    device: str = "auto"
    """auto | cpu | cuda | cuda:N | mps; auto takes the first GPU that is there."""
    dtype: str = choice("auto", DTYPES)
    """For computing; auto is bfloat16 on GPUs that have it, else float32. Trained weights stay float32."""
    pure_bfloat16: bool = False
    """Keep trained weights in bfloat16 too: half the memory, and small steps are lost in rounding."""
    threads: int | str | None = "auto"
    """CPU threads: a number, or auto: one for small models, more for large ones, as many as other programs leave."""
    workers: int = 0
    """Data loader processes; the order of the data does not depend on it."""


def threads_given(hardware: HardwareConfig) -> int | None:
    """Return the number of threads that the user asked for, or None for `auto`."""
    return hardware.threads if isinstance(hardware.threads, int) else None


def check_hardware(hardware: HardwareConfig) -> None:
    """Refuse what no machine has; what this one lacks is found by `resolve_device`.

    Raises:
        UserError: naming the key.
    """
    check_choice("hardware.dtype", hardware.dtype, DTYPES)
    check_choice("hardware.device", hardware.device.split(":")[0], DEVICES)
    if hardware.threads not in (None, "auto"):
        if not isinstance(hardware.threads, int):
            raise UserError(f"hardware.threads={hardware.threads} is neither a number nor auto")
        check_range("hardware.threads", hardware.threads, 1)
    check_range("hardware.workers", hardware.workers, 0)
    for key, least in (("minutes", 1), ("cpus", 1), ("requeue", 0), ("jobs", 1)):
        check_range(f"hardware.{key}", getattr(hardware, key), least)
    for key in ("gpus", "memory"):
        if getattr(hardware, key) is not None:
            check_range(f"hardware.{key}", getattr(hardware, key), 0)


def check_device(hardware: HardwareConfig) -> str:
    """Refuse a device that this machine lacks, without loading torch where that can be known without it.

    Returns:
        The device in words.

    Raises:
        UserError: with what there is.
    """
    kind = hardware.device.split(":")[0]
    count = cuda_devices() if kind in ("auto", "cuda") else None
    if kind == "cuda" and count == 0:
        why = "" if torch_build() else ": the installed torch is a CPU build"
        raise UserError(f"hardware.device={hardware.device}: this machine has 0 CUDA GPUs{why}; use hardware=cpu")
    if kind == "mps" and sys.platform != "darwin":
        raise UserError("hardware.device=mps: this machine has no Metal GPU; use hardware=cpu")
    if kind == "cpu" or (count == 0 and sys.platform != "darwin"):
        return "device cpu"
    return f"device {resolve_device(hardware)}"


def torch_build() -> str:
    """Return "cuda" or "rocm" where the installed torch is built for GPUs, else ""; torch is not loaded."""
    spec = importlib.util.find_spec("torch")
    version = Path(spec.origin).with_name("version.py") if spec and spec.origin else None
    text = version.read_text(encoding="utf-8") if version and version.is_file() else ""
    for name, build in (("cuda", "cuda"), ("hip", "rocm")):
        found = re.search(rf"^{name}\b[^=\n]*= *(.+)$", text, re.MULTILINE)
        if found is None or found[1].strip() != "None":
            return build
    return ""


@functools.cache
def cuda_devices() -> int | None:
    """Return the number of CUDA devices by asking the driver, or None where only torch can tell."""
    build = torch_build()
    if build != "cuda":
        return None if build else 0
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0 if sys.platform == "linux" else None
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def resolve_device(hardware: HardwareConfig) -> torch.device:
    """Return the device of a profile.

    Raises:
        UserError: when the profile asks for a device that is not there.
    """
    import torch

    if hardware.device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(hardware.device)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise UserError(f"hardware.device={hardware.device}: this machine has {count} CUDA GPUs; use hardware=cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("hardware.device=mps: this machine has no Metal GPU; use hardware=cpu")
    return device


def resolve_dtype(hardware: HardwareConfig) -> torch.dtype:
    """Return the number type for training: bfloat16 on GPUs that have it, else float32, unless the profile says."""
    import torch

    check_choice("hardware.dtype", hardware.dtype, DTYPES)
    if hardware.dtype != "auto":
        return getattr(torch, hardware.dtype)
    device = resolve_device(hardware)
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Have torch, cuDNN and cuBLAS use reproducible algorithms only; everything is put back at the end.

    An operation that has none raises RuntimeError. cuBLAS reads its workspace setting when it is first used in a
    process: set `CUBLAS_WORKSPACE_CONFIG` yourself where another run used the GPU before.
    """
    if not wanted:
        yield
        return
    import torch

    cudnn, variable = torch.backends.cudnn, "CUBLAS_WORKSPACE_CONFIG"
    enabled, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    before = cudnn.benchmark, cudnn.deterministic, os.environ.get(variable)
    if before[2] not in CUBLAS_WORKSPACES:
        os.environ[variable] = CUBLAS_WORKSPACES[0]
    cudnn.benchmark, cudnn.deterministic = False, True
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        cudnn.benchmark, cudnn.deterministic = before[:2]
        if before[2] is None:
            os.environ.pop(variable, None)
        else:
            os.environ[variable] = before[2]


def available_memory() -> int:
    """Return the bytes this process may still take: free memory where the system says it, else half of all memory."""
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def size_text(count: float) -> str:
    """Return bytes for people: 640 KiB, 12 MiB, 3.1 GiB."""
    for unit, power in (("GiB", 30), ("MiB", 20)):
        if count >= 2**power:
            amount = count / 2**power
            return f"{amount:,.1f} {unit}" if amount < 10 else f"{amount:,.0f} {unit}"
    return f"{count / 2**10:,.0f} KiB"
