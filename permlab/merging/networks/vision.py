"""Networks of `permlab.models.vision` from their files: `load_vision([open_checkpoint("A"), open_checkpoint("B")])`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from permlab.errors import UserError
from permlab.merging.networks.loaded import (
    SHOWN,
    Loaded,
    read_tensors,
    say_differences,
    tensor_differences,
    unique_names,
)
from permlab.models.checkpoints import Checkpoint
from permlab.models.vision import build_vision_model
from permlab.symmetry import declare, verify


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


def load_vision(checkpoints: list[Checkpoint], model: Any, data: Any) -> Loaded:
    """Compare, read and verify checkpoints of one architecture; `model` and `data` as in `load_networks`.

    Raises:
        UserError: as `load_networks`.
    """
    records = [each.record for each in checkpoints if "network" in each.record and "shape" in each.record]
    if not records and (model is None or data is None or getattr(model, "kind", "vision") != "vision"):
        raise UserError(
            f"{checkpoints[0].path} is a file of tensors without a configuration: say which network it is with model= "
            "and model.width=, or give the folder with its config.json"
        )
    record = records[0] if records else vision_record(model, data)
    module = build_vision_model(
        record["network"],
        shape=tuple(record["shape"]),
        classes=record["classes"],
        width=record["width"],
        depth=record.get("depth"),
        norm=record.get("norm"),
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
