"""Networks that were read from files (`Loaded`), and how files differ: `say_differences(first, other, keys)`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from permlab.errors import UserError
from permlab.merging.networks.experts import ExpertFiles
from permlab.merging.networks.frames import Frame
from permlab.merging.networks.rows import KnownRows
from permlab.merging.networks.states import State, Widened
from permlab.models.checkpoints import Checkpoint
from permlab.storage.tensors import OpenTensors
from permlab.symmetry import Spec, is_finite

SHOWN = 1
"""Differing tensors that a refusal names."""


@dataclass
class Loaded:
    """Two or more networks of one architecture.

    Attributes:
        kind: "vision" (ours), "causal_lm", "image_huggingface" (classifiers) or "huggingface".
        names: one per network, for tables.
        checkpoints: their files.
        stored: state dicts as on disk, views of the mapped files.
        spec: the verified symmetry.
        module: an architecture to `call` with any of the states; None where it names its tensors differently.
        config: the `PretrainedConfig`, or the record of a network of ours.
        ancestor: what they were fine-tuned from, as on disk.
        file_names: name in `stored` -> name in the files, where they differ.
        checks: what `verify` found, and on what (`verified_on`).
        notes: lines worth telling the user.
        tokenizer: the folder whose tokenizer goes with the merged network; None is the first network's.
        frame: the common vocabulary that their embeddings were brought to, where they had others.
        experts: how the files hold experts, which are matrices in `stored`.
    """

    kind: str
    names: list[str]
    checkpoints: list[Checkpoint]
    stored: list[State]
    spec: Spec
    module: nn.Module | None
    config: Any
    ancestor: State | None = None
    file_names: dict[str, str] = field(default_factory=dict)
    checks: dict[str, float] = field(default_factory=dict)
    verified_on: str = ""
    notes: list[str] = field(default_factory=list)
    tokenizer: Path | None = None
    frame: Frame | None = None
    experts: ExpertFiles | None = None

    @property
    def known(self) -> KnownRows | None:
        """Which network has which row of a common vocabulary; None where all have all."""
        return None if self.frame is None else self.frame.known

    @property
    def states(self) -> list[Mapping[str, Tensor]]:
        """The networks in float32 or wider: what matching and scoring compute with."""
        wide = all(value.dtype not in (torch.float16, torch.bfloat16) for value in self.stored[0].values())
        return list(self.stored) if wide else [Widened(state) for state in self.stored]


def unique_names(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """The last part of every path; equal ones are told apart by their place."""
    names = [each.name for each in checkpoints]
    return [f"{name} ({at})" if names.count(name) > 1 else name for at, name in enumerate(names, start=1)]


def tensor_differences(first: Checkpoint, other: Checkpoint, sizes: tuple[int, int] | None = None) -> list[str]:
    """One entry per tensor that has another shape, or that only one has; `sizes`: rows of mapped vocabularies."""
    common = [(name, info, other.tensors[name]) for name, info in first.tensors.items() if name in other.tensors]
    lines = [
        f"{name} {list(a.shape)} | {list(b.shape)}"
        for name, a, b in common
        if a.shape != b.shape and not (sizes == (a.shape[:1] + b.shape[:1]) and a.shape[1:] == b.shape[1:])
    ]
    lines += [f"{name} only in {first.name}" for name in first.tensors if name not in other.tensors]
    return lines + [f"{name} only in {other.name}" for name in other.tensors if name not in first.tensors]


def say_differences(
    first: Checkpoint, other: Checkpoint, keys: Sequence[str], sizes: tuple[int, int] | None = None
) -> str:
    """One line: the keys of the configurations and the tensors that differ, as `value in A | value in B`."""
    tensors = tensor_differences(first, other, sizes)
    parts = [f"{first.name} and {other.name} have different architectures, so their units do not correspond"]
    if keys:
        parts.append(f"configuration ({first.name} | {other.name}): " + ", ".join(keys))
    if tensors:
        more = f" and {len(tensors) - SHOWN} more" if len(tensors) > SHOWN else ""
        parts.append(f"{len(tensors)} tensors differ: " + ", ".join(tensors[:SHOWN]) + more)
    return "; ".join(parts)


def read_tensors(checkpoint: Checkpoint, names: Mapping[str, str] | None = None) -> dict[str, Tensor]:
    """The tensors, memory-mapped, and refused when one holds NaN or infinity.

    Args:
        checkpoint: what to read.
        names: wanted name -> name in the file; default all, under their own names.

    Raises:
        UserError: naming the tensor.
    """
    tensors = OpenTensors(checkpoint.tensors)
    state: dict[str, Tensor] = {}
    for name, stored in (names or {each: each for each in checkpoint.tensors}).items():
        value = tensors[stored]
        if not is_finite(value):
            raise UserError(f"{checkpoint.path}: {stored} holds NaN or infinite values, so it cannot be merged")
        state[name] = value
    return state
