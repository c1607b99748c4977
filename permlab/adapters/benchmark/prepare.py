"""Base model and adapters of a benchmark, trained once: what a killed run has finished is loaded again.

>>> base = prepare_base(folder / "base", benchmark, sizes, schedule, seed=0)
>>> adapter = prepare_adapter(folder / "adapter-1", base, benchmark, 0, schedule, LoraShape(), 0, "independent")
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from permlab.adapters.benchmark.questions import Benchmark
from permlab.adapters.benchmark.table import REGIMES
from permlab.adapters.files import Adapter, open_adapter
from permlab.adapters.locate import CONFIG_NAME
from permlab.adapters.training import (
    LoraShape,
    Progress,
    Schedule,
    build_base,
    fit,
    spread_embeddings,
    train_adapter,
)
from permlab.models.causal_lm_config import ScratchConfig
from permlab.models.checkpoints import CONFIG
from permlab.models.quiet import quiet_transformers
from permlab.seeding import derived_seed
from permlab.storage.folders import replacing_folder


def is_trained(folder: Path) -> bool:
    """Whether a base or an adapter lies there; folders get their names when they are complete."""
    return (folder / CONFIG).is_file() or (folder / CONFIG_NAME).is_file()


def prepare_base(
    folder: Path,
    benchmark: Benchmark,
    sizes: ScratchConfig,
    schedule: Schedule,
    seed: int,
    *,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Any:
    """The base model of a benchmark, trained into `folder` or loaded from there; in evaluation mode on `device`."""
    from transformers import AutoModelForCausalLM

    quiet_transformers()
    if not is_trained(folder):
        fresh = build_base(benchmark, sizes, seed).to(device)
        fit(fresh, fresh.parameters(), schedule, benchmark.base, seed, progress=progress)
        if benchmark.fresh is not None:
            spread_embeddings(fresh, benchmark.fresh, seed)
        with replacing_folder(folder, replace=True) as part:
            fresh.save_pretrained(part)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.to(device).eval()


def prepare_adapter(
    folder: Path,
    base: Any,
    benchmark: Benchmark,
    index: int,
    schedule: Schedule,
    shape: LoraShape,
    seed: int,
    regime: str,
    progress: Progress | None = None,
) -> Adapter:
    """The adapter of group `index`, trained into `folder` or opened there.

    Args:
        folder: PEFT folder to make.
        base: the model it belongs to; left as it was.
        benchmark: its questions.
        index: which group it learns.
        schedule, shape: how it is trained.
        seed: of the benchmark; start and batches derive theirs from it.
        regime: a name of `table.REGIMES`: whether all adapters start from one A.
        progress: see `training.fit`.
    """
    # The start decides the ranking of methods: with one A, the ranks of all adapters start aligned.
    start = ("start of A",) if REGIMES[regime].shared else ("start of A", index)
    if not is_trained(folder):
        group = benchmark.groups[index]
        init_seed, batches = derived_seed(seed, *start), derived_seed(seed, "batches", index)
        train_adapter(base, group, schedule, shape, init_seed, batches, folder, progress)
    return open_adapter(folder)
