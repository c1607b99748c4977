"""Memory and time of `permlab task=spt`, before anything heavy is loaded."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from permlab.config import Config
from permlab.footprint import Footprint, on_cpu
from permlab.hardware import HardwareConfig, cuda_devices
from permlab.models.needs import asking_bytes, shape_of, training_bytes, training_peak
from permlab.tasks.spt.looked_at import corpus_of

if TYPE_CHECKING:
    from permlab.tasks.spt import SptConfig

LIBRARIES = 620e6
"""Resident bytes of Python, torch, transformers and accelerate once a model of no size has been trained."""
PIECES = re.compile(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+|\d|[^\w\s]|_")
SUBWORDS = 1.4
"""Tokens of a word and sign in a vocabulary of parts of words."""


def footprint(config: Config[SptConfig]) -> Footprint | None:
    """Return what a run needs, or None where its model or its texts are not at hand."""
    task, train = config.task, config.task.train
    corpus = corpus_of(config)
    if corpus is None:
        return None
    words = config.model.tokenizer == "word"
    cut = [PIECES.findall(example.text) for example in corpus.examples]
    asked = [PIECES.findall(f"{each.prompt} {each.answer}") for each in corpus.queries]
    scale = 1.0 if words else SUBWORDS
    # A piece that stands inside a word is known with and without the space before it.
    distinct = len({piece for text in (*cut, *asked) for piece in text})
    shape = shape_of(config.model, round(1.1 * distinct) + 4 if words else None)
    if shape is None:
        return None
    lengths = [min(train.max_tokens, scale * len(text) + 2) for text in cut] or [2.0]
    width = 2 if short(config.hardware) else 4
    stored = width if config.model.lora.rank or config.hardware.pure_bfloat16 else 4
    together = config.hardware.processes * config.hardware.nodes
    batch = -(-min(train.batch_size, len(lengths)) // together)
    parts = training_bytes(
        config.model, shape, batch, max(lengths), width=width, stored=stored, heap=on_cpu(config.hardware)
    )
    whole = parts["weights"]  # of one process, before training and after it
    if config.hardware.shard:
        parts |= {name: parts[name] / together for name in ("weights", "gradients", "optimizer")}
    longest = max((scale * len(text) + 2 for text in asked), default=2.0)
    asking = asking_bytes(shape, min(task.evaluation.batch_size, max(1, len(asked))), longest, width)
    peak = max(training_peak(parts, shape), whole + sum(asking.values()))
    pace = train.used(config.model.weights, config.model.lora.rank > 0)
    readings = pace.epochs * len(lengths) / (1 - task.general.ratio)
    macs = (2.0 if config.model.lora.rank else 3.0) * shape.parameters * readings * sum(lengths) / len(lengths)
    steps = readings / (train.batch_size * train.accumulate)
    parts |= {"KV cache": asking["KV cache"]}
    return Footprint(peak, parts, LIBRARIES, macs, steps)


def short(hardware: HardwareConfig) -> bool:
    """Whether numbers of 16 bits are computed with: asked for, or a GPU's own choice."""
    if hardware.dtype != "auto":
        return hardware.dtype != "float32"
    return hardware.device.startswith("cuda") or (hardware.device == "auto" and cuda_devices() not in (0, None))
