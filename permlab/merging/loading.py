"""Networks of the user, ready to be matched: `load_networks(["A", "B"])`.

    loaded = load_networks(["finetuned-a", "finetuned-b"])     # Hugging Face folders
    matching = weight_matching(loaded.spec, *loaded.states)
    moved = [Permuted(loaded.spec, *each) for each in zip(loaded.stored, matching.permutations)]
    merged = average(moved, tied=loaded.spec.tied)
    save_network("merged", merged, loaded, {"method": "weight matching"})

Headers and configurations are compared before a tensor is read; the tensors are views of the memory-mapped files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from permlab.errors import UserError
from permlab.models.checkpoints import Checkpoint, open_checkpoint
from permlab.models.vision import build_vision_model
from permlab.storage.tensors import OpenTensors
from permlab.symmetry import Spec, declare, permute_tensor, verify

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
SHOWN = 4
"""Differing tensors that a refusal names."""


class Widened(Mapping[str, Tensor]):
    """A state dict in float32 or wider: half precision is converted tensor by tensor, as it is asked for."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.state = state

    def __getitem__(self, name: str) -> Tensor:
        value = self.state[name]
        return value.to(torch.promote_types(value.dtype, torch.float32)) if value.is_floating_point() else value

    def __iter__(self) -> Iterator[str]:
        return iter(self.state)

    def __len__(self) -> int:
        return len(self.state)


class Permuted(Mapping[str, Tensor]):
    """A permuted state dict, tensor by tensor as it is asked for: a merge then holds no permuted copy of a network."""

    def __init__(self, spec: Spec, state: Mapping[str, Tensor], permutation: Mapping[str, Tensor]) -> None:
        self.spec, self.state, self.permutation = spec, state, permutation

    def __getitem__(self, name: str) -> Tensor:
        return permute_tensor(self.spec, name, self.state[name], self.permutation)

    def __iter__(self) -> Iterator[str]:
        return iter(self.state)

    def __len__(self) -> int:
        return len(self.state)


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
    """

    kind: str
    names: list[str]
    checkpoints: list[Checkpoint]
    stored: list[dict[str, Tensor]]
    spec: Spec
    module: nn.Module | None
    config: Any
    ancestor: dict[str, Tensor] | None = None
    file_names: dict[str, str] = field(default_factory=dict)
    checks: dict[str, float] = field(default_factory=dict)
    verified_on: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def states(self) -> list[Mapping[str, Tensor]]:
        """The networks in float32 or wider: what matching and scoring compute with."""
        wide = all(value.dtype not in (torch.float16, torch.bfloat16) for value in self.stored[0].values())
        return list(self.stored) if wide else [Widened(state) for state in self.stored]


def load_networks(paths: Sequence[str], model: Any = None, data: Any = None, *, ancestor: str | None = None) -> Loaded:
    """Open, compare, check and verify networks that are to be merged.

    Args:
        paths: Hugging Face folders or hub ids (Llama family, GPT-2, BERT, ViT), folders written by `save_merged`, run
            directories, or .safetensors files of a network of `permlab.models.vision`.
        model: for bare .safetensors files: name, width, depth and norm (a `VisionConfig`).
        data: for those too: anything with `shape` (channels, height, width) and `classes`.
        ancestor: the network that all were fine-tuned from.

    Raises:
        UserError: fewer than two; a missing, torn, foreign or pickled file; different architectures (with the keys that
            differ); NaN or infinite weights; an architecture without declared symmetry.
    """
    if len(paths) < 2:
        raise UserError(f"task.models has {len(paths)} network: merging needs two or more")
    checkpoints = [open_checkpoint(path) for path in [*paths, *([ancestor] if ancestor else [])]]
    if any(each.kind == "huggingface" for each in checkpoints):
        from permlab.merging.loading_huggingface import load_huggingface

        loaded = load_huggingface(checkpoints)
    else:
        loaded = _load_vision(checkpoints, model, data)
    if ancestor:
        loaded.ancestor = loaded.stored.pop()
        loaded.names.pop()
    return loaded


def unique_names(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """The last part of every path; equal ones are told apart by their place."""
    names = [each.name for each in checkpoints]
    return [f"{name} ({at})" if names.count(name) > 1 else name for at, name in enumerate(names, start=1)]


def tensor_differences(first: Checkpoint, other: Checkpoint) -> list[str]:
    """One entry per tensor that has another shape, or that only one has."""
    common = [(name, info, other.tensors[name]) for name, info in first.tensors.items() if name in other.tensors]
    lines = [f"{name} {list(a.shape)} | {list(b.shape)}" for name, a, b in common if a.shape != b.shape]
    lines += [f"{name} only in {first.name}" for name in first.tensors if name not in other.tensors]
    return lines + [f"{name} only in {other.name}" for name in other.tensors if name not in first.tensors]


def say_differences(first: Checkpoint, other: Checkpoint, keys: Sequence[str]) -> str:
    """One line: the keys of the configurations and the tensors that differ, as `value in A | value in B`."""
    tensors = tensor_differences(first, other)
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
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise UserError(f"{checkpoint.path}: {stored} holds NaN or infinite values, so it cannot be merged")
        state[name] = value
    return state


# ---- networks of permlab.models.vision -------------------------------------------------------------------------------


def vision_record(model: Any, data: Any) -> dict[str, Any]:
    """What `save_merged` has to record of a network of ours, so that `load_networks` can build it again."""
    return {
        "network": model.name,
        "width": model.width,
        "depth": model.depth,
        "norm": model.norm,
        "shape": list(data.shape),
        "classes": data.classes,
    }


def _load_vision(checkpoints: list[Checkpoint], model: Any, data: Any) -> Loaded:
    records = [each.record for each in checkpoints if "network" in each.record and "shape" in each.record]
    if not records and (model is None or data is None or getattr(model, "kind", "vision") != "vision"):
        raise UserError(
            f"{checkpoints[0].path} is a file of tensors without a configuration: say which network it is with model= "
            "and model.width=, or give the folder with its config.json"
        )
    record = records[0] if records else vision_record(model, data)
    keys = ("width", "depth", "norm")
    module = build_vision_model(
        record["network"],
        shape=tuple(record["shape"]),
        classes=record["classes"],
        **{key: record.get(key) for key in keys},
    ).eval()
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    for each in checkpoints:
        _fits(each, expected, record, bool(records))
    for other in checkpoints[1:]:
        if tensor_differences(checkpoints[0], other):
            raise UserError(say_differences(checkpoints[0], other, []))
    stored = [read_tensors(each) for each in checkpoints]
    spec = declare(module)
    images = torch.randn(4, *record["shape"], generator=torch.Generator().manual_seed(0))
    checks = verify(spec, module, (images,))
    loaded = Loaded("vision", unique_names(checkpoints), checkpoints, stored, spec, module, record, checks=checks)
    loaded.verified_on = "the network itself"
    return loaded


def _fits(each: Checkpoint, expected: Mapping[str, tuple[int, ...]], record: Mapping[str, Any], known: bool) -> None:
    """Refuse files whose tensors are not those of the network."""
    wrong = [f"{name} is missing" for name in expected if name not in each.tensors]
    wrong += [f"{name} is not part of it" for name in each.tensors if name not in expected]
    for name, shape in expected.items():
        if name in each.tensors and each.tensors[name].shape != shape:
            wrong.append(f"{name} has shape {list(each.tensors[name].shape)}, not {list(shape)}")
    if wrong:
        more = f" (and {len(wrong) - SHOWN} more)" if len(wrong) > SHOWN else ""
        remedy = (
            "networks that were merged with units kept apart (task.budget above 1) cannot be merged again"
            if known
            else "set model=, model.width, model.depth, model.norm and dataset to what it was trained with"
        )
        named = f"{each.path} is no {record['network']} of width {record['width']:g}"
        raise UserError(f"{named}: {'; '.join(wrong[:SHOWN])}{more}; {remedy}")
