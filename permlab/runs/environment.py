"""What a run ran on and with: `environment.json`."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from permlab.errors import blotted
from permlab.threads import usable_cores

PACKAGES = (
    *("hydra-core", "omegaconf", "torch", "transformers", "datasets", "peft", "accelerate", "tokenizers"),
    *("safetensors", "wandb", "rich", "numpy", "scipy", "scikit-learn", "matplotlib", "sacrebleu"),
)


def describe_environment(seed: int, threads: int) -> dict[str, Any]:
    """Return git state, package versions, python, processor, threads, GPU, seed and command line."""
    return {
        "git": git_state(),
        "packages": {name: package_version(name) for name in ("permlab", *PACKAGES)},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "threads": threads,
        "gpu": gpu_names(),
        "deterministic": deterministic_settings(),
        "seed": seed,
        "argv": [blotted(argument) for argument in sys.argv],
        "host": platform.node(),
        "pid": os.getpid(),
    }


def git_state() -> dict[str, Any]:
    """Return commit and dirtiness of the checkout that permlab runs from; empty for an installed wheel."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return {}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return {}


def package_version(name: str) -> str | None:
    """Return an installed version, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def cpu_name() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def deterministic_settings() -> dict[str, Any]:
    """Return the switches that decide whether a GPU repeats its numbers, asking torch only when it is loaded."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    return {
        "algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cublas_workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    }


def gpu_names() -> list[str]:
    """Return the names of the GPUs, asking torch only when it is loaded already."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def peak_rss_mb() -> float:
    """Return the peak resident memory of this process so far, in MiB."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024 * 1024 if sys.platform == "darwin" else 1024), 1)
