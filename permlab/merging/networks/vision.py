"""Networks of `permlab.models.vision` from their files: `load_vision([open_checkpoint("A"), open_checkpoint("B")])`."""

from __future__ import annotations

import math
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
from permlab.models.checkpoints import RECORD, Checkpoint
from permlab.models.table import VISION
from permlab.models.vision import build_vision_model
from permlab.models.vision_config import check_architecture
from permlab.symmetry import declare, verify

MOST_PIXELS = 2**20
"""Values of one image that a recorded network may take: the symmetry is tried out on four."""


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
    for each in checkpoints:
        if each.record and each.record in records:
            _check_record(each)
    with torch.device("meta"):  # shapes only: what the files do not hold is not built
        expected = {name: tuple(value.shape) for name, value in _build(record).state_dict().items()}
    for each in checkpoints:
        _fits(each, expected, record, bool(records))
    module = _build(record)
    for other in checkpoints[1:]:
        if tensor_differences(checkpoints[0], other):
            raise UserError(say_differences(checkpoints[0], other, []))
    stored = [read_tensors(each) for each in checkpoints]
    spec = declare(module)
    images = torch.randn(4, *record["shape"], generator=torch.Generator().manual_seed(0))
    checks = verify(spec, module, (images,))
    loaded = Loaded("vision", unique_names(checkpoints), checkpoints, list(stored), spec, module, record, checks=checks)
    loaded.verified_on = "the network itself"
    return loaded


def _build(record: Mapping[str, Any]) -> torch.nn.Module:
    options = {key: record.get(key) for key in ("depth", "norm")}
    return build_vision_model(
        record["network"], shape=tuple(record["shape"]), classes=record["classes"], width=record["width"], **options
    ).eval()


def _check_record(each: Checkpoint) -> None:
    """Refuse a merge.json whose entries are of the wrong type or size."""
    record = each.record
    shape, classes, width, depth = (record.get(key) for key in ("shape", "classes", "width", "depth"))
    try:
        if not (isinstance(shape, list) and len(shape) == 3 and all(type(n) is int and n > 0 for n in shape)):
            raise UserError("shape must be [channels, height, width]")
        if math.prod(shape) > MOST_PIXELS:
            raise UserError(f"shape stands for more than {MOST_PIXELS:,} values per image")
        if type(classes) is not int or classes < 1:
            raise UserError("classes must be a number above 0")
        if width is None or type(width) not in (int, float) or type(depth) not in (int, type(None)):
            raise UserError("width and depth must be numbers")
        VISION.check("network", str(record["network"]))
        norm = record.get("norm")
        check_architecture(str(record["network"]), width, depth, None if norm is None else str(norm))
    except UserError as error:
        raise UserError(f"{each.folder / RECORD}: {error}") from None


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
