"""Checks of the numbers that networks are merged with: densities, lambda, what is dropped, types, Fisher files."""

from __future__ import annotations

from pathlib import Path

from permlab.config import Config
from permlab.errors import UserError, check_range
from permlab.merging.combines import COMBINES
from permlab.merging.networks.vocabularies import BASE, UNION
from permlab.merging.setting import DTYPES
from permlab.tasks.merge.checks import arms_of
from permlab.tasks.merge.settings import MergeConfig

ANCESTRAL = {"densities": [], "scale": 1.0, "scales": [], "gamma": 0.01, "epsilon": 0.1, "trim_tensors": False}
"""Keys about changes since an ancestor, and their values where nobody sets them."""


def check_numbers(config: Config[MergeConfig], count: int) -> None:
    """Ranges, one number per network, and keys that the arms have a use for.

    Raises:
        UserError: naming the key and the remedy.
    """
    task = config.task
    for key in ("density", "densities"):
        given = getattr(task, key)
        for density in given if isinstance(given, list) else [given]:
            check_range(f"task.{key}", density, 0, 1)
            if density == 0:
                raise UserError(f"task.{key}=0 would drop every change: give a share above 0, such as 0.2")
    if task.densities and len(task.densities) != count:
        raise UserError(f"task.densities has {len(task.densities)} values for {count} networks: give one each")
    for key in ("gamma", "epsilon"):
        check_range(f"task.{key}", getattr(task, key), 0, 1)
    rows = [COMBINES[arm.combine] for arm in arms_of(config)]
    if not any("ancestor" in row.needs for row in rows):
        for key, usual in ANCESTRAL.items():
            if getattr(task, key) != usual:
                able = ", ".join(name for name, row in COMBINES.items() if "ancestor" in row.needs)
                raise UserError(f"task.{key} is about changes since an ancestor: set task.combine to one of {able}")
    if task.scales and task.recipe is not None:
        raise UserError("task.scales: a recipe says itself what its changes are multiplied with (lambda): drop one")


def check_files(config: Config[MergeConfig], *, texts: bool) -> None:
    """Number types and Fisher files of networks on disk.

    Args:
        config: of the run.
        texts: there is a data set of texts.

    Raises:
        UserError: naming the key and the remedy.
    """
    task = config.task
    if task.dtype is not None and task.dtype not in DTYPES:
        raise UserError(f"task.dtype={task.dtype} is not known (known: {', '.join(DTYPES)})")
    if task.tokenizer not in (None, BASE, UNION) and not Path(str(task.tokenizer)).expanduser().is_dir():
        raise UserError(f"task.tokenizer={task.tokenizer} is no folder: give one with a tokenizer, or base, or union")
    if task.scales and not texts:
        raise UserError("task.scales are compared on texts: set dataset=jsonl dataset.path=FILE, or give task.scale")
    reading = [row for row in (COMBINES[arm.combine] for arm in arms_of(config)) if row.files]
    if task.fisher:
        if not reading:
            raise UserError("task.fisher belongs to task.combine=fisher: set it, or drop the files")
        if len(task.fisher) != len(task.models):
            raise UserError(f"task.fisher has {len(task.fisher)} files for {len(task.models)} networks: give one each")
        for path in task.fisher:
            if not Path(path).expanduser().is_file():
                raise UserError(f"task.fisher: {path} does not exist: give .safetensors files")
    elif reading and not texts:
        raise UserError(
            "task.combine=fisher weighs entries by their information: give files of it with task.fisher, or texts to "
            "compute it on with dataset=jsonl dataset.path=FILE"
        )
