"""Write a merged adapter as a folder that `PeftModel.from_pretrained` loads, complete or not at all.

>>> write_merge("merged", [open_adapter("A"), open_adapter("B")], MergeRule(method="svd", rank=16))

Tensors are written into the safetensors file as the modules finish; the folder gets its name only at the end.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from permlab.adapters.factors import AdapterSource, Factors, ModuleInfo
from permlab.adapters.files import Adapter
from permlab.adapters.locate import CONFIG_NAME, WEIGHTS_NAME
from permlab.adapters.merge import MergedAdapter, merge_adapters, merged_info, plan_ranks
from permlab.adapters.merge_rule import MergeRule
from permlab.adapters.moments import Moments, whitened
from permlab.adapters.settings import LoraSettings, merged_config, targets
from permlab.adapters.table import EXTRA_RULES
from permlab.errors import UserError
from permlab.storage.cards import card, made_by, table
from permlab.storage.files import write_text
from permlab.storage.folders import replacing_folder
from permlab.storage.tensors import SafetensorsStream
from permlab.version import __version__

_TARGET_KEYS = ("target_modules", "layers_to_transform", "layers_pattern", "exclude_modules")


def write_merge(
    out: str | Path,
    adapters: Sequence[Adapter],
    rule: MergeRule,
    *,
    seed: int = 0,
    extra: str = "same",
    device: torch.device | str = "cpu",
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    moments: Mapping[str, Moments] | None = None,
) -> MergedAdapter:
    """Merge adapter folders into the folder `out`: weights, configuration, model card.

    Args:
        out: folder to make; an adapter folder that is there already is replaced at the end.
        adapters: opened inputs.
        rule: method and settings.
        seed: see `merge_adapters`.
        extra: a name of `table.EXTRA_RULES`, for tensors that are not LoRA factors (modules_to_save, biases): "same"
            requires them to be equal, "average" (by weight), "first", "drop".
        device, workers, progress, moments: see `merge_adapters`.

    Raises:
        UserError: as `merge_adapters`; nothing is left at `out` then.
    """
    EXTRA_RULES.check("extra", extra)
    ranks = plan_ranks(whitened(adapters, moments), rule)
    info = merged_info(adapters, ranks)
    weights = rule.weights_of(len(adapters))
    extras = _merge_extra(adapters, weights, extra)
    with _adapter_folder(out) as folder:
        # The headers give all shapes beforehand, so modules stream to disk and never stand in memory together.
        shapes = dict(_shapes(info)) | {key: (tuple(t.shape), t.dtype) for key, t in extras.items()}
        with SafetensorsStream(folder / WEIGHTS_NAME, shapes) as stream:
            for key, tensor in extras.items():
                stream.put(key, tensor)
            merged = merge_adapters(
                adapters,
                rule,
                seed=seed,
                device=device,
                workers=workers,
                progress=progress,
                sink=lambda module, update: _put(stream, module, info[module], update),
                moments=moments,
                ranks=ranks,
            )
        changes = _extra_keys([adapter.settings.raw for adapter in adapters], bool(extras))
        _write_config(folder, adapters[0].settings, ranks, [adapter.settings.raw for adapter in adapters], changes)
        _write_card(folder, adapters, rule, weights, seed)
    return merged


def write_adapter(out: str | Path, adapter: AdapterSource, settings: LoraSettings | None = None) -> None:
    """Write any adapter (its scaling folded in) as a PEFT folder; `settings` gives the other configuration keys."""
    # One lora_alpha cannot express the scalings of several inputs; they are in the factors, and PEFT multiplies by 1.
    info = {name: dataclasses.replace(module, scaling=1.0) for name, module in sorted(adapter.modules.items())}
    first = settings or LoraSettings.from_json({"peft_type": "LORA"})
    with _adapter_folder(out) as folder:
        with SafetensorsStream(folder / WEIGHTS_NAME, dict(_shapes(info))) as stream:
            for module in info:
                _put(stream, module, info[module], adapter.load(module).folded())
        _write_config(folder, first, {name: module.rank for name, module in info.items()}, [first.raw], {})


def _adapter_folder(out: str | Path) -> AbstractContextManager[Path]:
    """A folder that gets its name at the end; only an adapter is replaced."""
    place = Path(out)
    adapter = (place / CONFIG_NAME).is_file()
    if place.exists() and not (place.is_dir() and (adapter or not any(place.iterdir()))):
        raise UserError(f"{out} exists and is no adapter folder; it is not overwritten")
    return replacing_folder(place, replace=adapter)


def _keys(module: str, kind: str) -> tuple[str, str]:
    stem = f"base_model.model.{module}."
    if kind == "embedding":
        return stem + "lora_embedding_A", stem + "lora_embedding_B"
    return stem + "lora_A.weight", stem + "lora_B.weight"


def _shapes(info: Mapping[str, ModuleInfo]) -> list[tuple[str, tuple[tuple[int, ...], torch.dtype]]]:
    found = []
    for module, entry in info.items():
        key_a, key_b = _keys(module, entry.kind)
        # PEFT keeps the B of a convolution as a convolution with a kernel of one.
        ones = (1,) * (len(entry.in_shape) - 1)
        found.append((key_a, ((entry.rank, *entry.in_shape), entry.dtype)))
        found.append((key_b, ((entry.d_out, entry.rank, *ones), entry.dtype)))
    return found


def _put(stream: SafetensorsStream, module: str, info: ModuleInfo, update: Factors) -> None:
    for key, half, (_, (shape, _)) in zip(_keys(module, info.kind), (update.a, update.b), _shapes({module: info})):
        stream.put(key, half.reshape(shape))


def _merge_extra(adapters: Sequence[Adapter], weights: Sequence[float], rule: str) -> dict[str, Tensor]:
    """Tensors beside the LoRA factors, merged by `rule` over the adapters that have them."""
    merged: dict[str, Tensor] = {}
    row = EXTRA_RULES[rule]
    if not row.target:
        return merged
    for key in sorted({key for adapter in adapters for key in adapter.extra}):
        having = [(adapter, weight) for adapter, weight in zip(adapters, weights) if key in adapter.extra]
        tensors = [adapter.extra_tensor(key) for adapter, _ in having]
        if any(tensor.shape != tensors[0].shape for tensor in tensors):
            shapes = " and ".join(str(tuple(tensor.shape)) for tensor in tensors)
            raise UserError(f"{key} has shapes {shapes}; the adapters belong to different base models")
        merged[key] = row.load()(key, tensors, [weight for _, weight in having])
    return merged


def _write_config(
    folder: Path, first: LoraSettings, ranks: Mapping[str, int], raws: Sequence[dict[str, Any]], changes: dict[str, Any]
) -> None:
    # The inputs' own wording is kept when it means the same modules for all; otherwise every path is listed.
    stated = [{key: _unordered(raw.get(key)) for key in _TARGET_KEYS} for raw in raws]
    target = raws[0].get("target_modules")
    same = all(entry == stated[0] for entry in stated) and all(targets(target, module) for module in ranks)
    named = target if same and target is not None else sorted(ranks)
    if named is not target:
        # A list of full paths is complete; an input's layer filter left beside it would thin it out on loading.
        changes = changes | dict.fromkeys(_TARGET_KEYS[1:])
    config = merged_config(first, ranks, named, **changes)
    write_text(folder / CONFIG_NAME, json.dumps(config, indent=2, sort_keys=True) + "\n")


def _unordered(value: Any) -> Any:
    return sorted(value, key=str) if isinstance(value, list) else value


def _extra_keys(raws: Sequence[dict[str, Any]], kept: bool) -> dict[str, Any]:
    """modules_to_save and bias of the merged configuration: what the inputs name, or nothing when it is left out."""
    if not kept:
        return {"modules_to_save": None, "bias": "none"}
    modules = sorted({name for raw in raws for name in raw.get("modules_to_save") or []})
    bias = next((raw["bias"] for raw in raws if raw.get("bias", "none") != "none"), "none")
    return {"modules_to_save": modules or None, "bias": bias}


def _write_card(
    folder: Path, adapters: Sequence[Adapter], rule: MergeRule, weights: Sequence[float], seed: int
) -> None:
    """README.md for people and the hub, merge.json for programs: inputs with hashes, method, settings."""
    base = adapters[0].settings.raw.get("base_model_name_or_path")
    inputs: list[dict[str, Any]] = [
        {
            "name": adapter.name,
            "sha256": adapter.sha256(),
            "weight": weight,
            "ranks": sorted({info.rank for info in adapter.modules.values()}),
            "base_model": adapter.settings.raw.get("base_model_name_or_path"),
        }
        for adapter, weight in zip(adapters, weights)
    ]
    record = {"permlab": __version__, "rule": dataclasses.asdict(rule), "seed": seed, "inputs": inputs}
    write_text(folder / "merge.json", json.dumps(record, indent=2) + "\n")
    settings = {"method": rule.method, "rank": rule.rank, "rank_ratio": rule.rank_ratio, "seed": seed}
    settings |= rule.settings()
    rows = [
        (entry["name"], f"{entry['weight']:g}", ", ".join(map(str, entry["ranks"])), f"`{entry['sha256']}`")
        for entry in inputs
    ]
    parts: list[str | list[str]] = [
        made_by("`task=lora_lego`"),
        table(("input", "weight", "rank", "sha256 of the weights"), rows),
        table(("setting", "value"), [(key, value) for key, value in settings.items() if value is not None]),
        "The scalings of the inputs are folded in: lora_alpha equals the rank, so PEFT scales by 1.",
    ]
    bases = [base] if base else []
    text = card("Merged LoRA adapter", parts, library="peft", tags=["lora", "merge"], bases=bases)
    write_text(folder / "README.md", text)
