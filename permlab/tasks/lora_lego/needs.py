"""Memory and time of `permlab task=lora_lego`, from the headers of adapters or the sizes of what is trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from permlab.config import Config
from permlab.footprint import Footprint, on_cpu

if TYPE_CHECKING:
    from permlab.tasks.lora_lego import LoraLegoConfig

MERGING, TRAINING = 430e6, 640e6
"""Resident bytes of Python and its libraries with adapters of no size: torch alone, and with transformers and PEFT."""
COPIES = 1.5
"""Of the adapters, where a merge takes all of their modules in one piece: their factors and what is made of them."""
VOCABULARY, LENGTH = 2048, 16
"""At most, in the questions of the benchmarks."""


def local_base(config: Config[LoraLegoConfig]) -> str | None:
    """Folder of the base, with which DoRA adapters are folded; None where no local model is given."""
    path = getattr(config.model, "path", None)
    return path if path and Path(path).is_dir() else None


def merging_needs(config: Config[LoraLegoConfig]) -> Footprint | None:
    """Return what merging adapters of the user takes, or None where one is on the hub."""
    from permlab.adapters.files import open_adapters
    from permlab.adapters.locate import look_for

    if any(look_for(path) == "on the hub" for path in config.task.adapters):
        return None
    adapters = open_adapters(config.task.adapters, local_base(config))
    stored = float(sum(adapter.n_bytes() for adapter in adapters))
    parts = {"adapters": stored, "merging": (COPIES - 1) * stored}
    if config.task.calibration:
        widths = {name: info.d_in for adapter in adapters for name, info in adapter.modules.items()}
        parts["calibration"] = 8.0 * sum(width**2 for width in widths.values())
    if config.task.data or config.task.calibration:
        from permlab.models.needs import asking_bytes, shape_of

        shape = shape_of(config.model)
        if shape is None:
            return None
        parts |= {"model": 4.0 * shape.parameters, **asking_bytes(shape, 16, 512)}
    return Footprint(sum(parts.values()), parts, TRAINING if "model" in parts else MERGING)


def training_needs(config: Config[LoraLegoConfig]) -> Footprint | None:
    """Return what a base and adapters of the benchmark take."""
    from permlab.adapters.benchmark.settings import schedules
    from permlab.models.needs import shape_of, training_bytes, training_peak
    from permlab.tasks.lora_lego.table import LORA_STUDIES

    task = config.task
    study = LORA_STUDIES[task.study]
    # A study that reads files has a base of its own, of a few megabytes.
    shape = shape_of(config.model, VOCABULARY) if study.trains and not study.needs else None
    if shape is None:
        return None
    base, adapter = schedules(task)
    parts = training_bytes(config.model, shape, base.batch, LENGTH, heap=on_cpu(config.hardware))
    adapters = task.repeats * len(task.regimes) * max(task.counts)
    # Half of an adapter's batch is what the base must not forget.
    examples = task.repeats * base.steps * base.batch * 3.0 + adapters * adapter.steps * 2 * adapter.batch * 2.0
    steps = task.repeats * base.steps + adapters * adapter.steps
    return Footprint(training_peak(parts, shape), parts, TRAINING, shape.parameters * LENGTH * examples, steps)
