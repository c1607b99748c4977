"""Merged Hugging Face networks on disk: `save_network("merged", state, loaded, {"method": "weight matching"})`.

The folder loads with `from_pretrained`: configuration and tokenizer of the first network, safetensors (in shards above
5 GB), a model card and `merge.json`. It gets its name only when everything in it is on disk.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from permlab.merging.networks.loaded import Loaded
from permlab.models.checkpoints import CONFIG, INDEX, RECORD
from permlab.storage.cards import card, made_by, table
from permlab.storage.folders import replacing_folder
from permlab.version import __version__

COPIED = (
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "vocab.txt", "chat_template.jinja", "chat_template.json",
    "preprocessor_config.json", "processor_config.json",
)  # fmt: skip
"""Files of the first network that go with the merged one."""


def save_network(
    folder: str | Path,
    state: Mapping[str, Tensor],
    loaded: Loaded,
    record: Mapping[str, Any],
    *,
    shard_size: int | str = "5GB",
) -> Path:
    """Write a merged Hugging Face network.

    Args:
        folder: made; a merged network that is there already (a run that was stopped) is replaced, nothing else is.
        state: the merged tensors under the names of `loaded.stored`, each of the number type it had there.
        loaded: where the networks came from.
        record: plain values for merge.json and the model card; "method" and "weights" are shown in words.
        shard_size: largest file.

    Raises:
        UserError: the folder holds something else already; nothing is written then.
    """
    out = Path(folder)
    inputs = [{"path": each.path, "sha256": each.sha256()} for each in loaded.checkpoints]
    if loaded.ancestor is not None:
        inputs[-1]["role"] = "ancestor"
    with replacing_folder(out, replace=(out / RECORD).is_file()) as temporary:
        _write_weights(temporary, state, loaded, shard_size)
        source = loaded.checkpoints[0].folder
        shutil.copyfile(source / CONFIG, temporary / CONFIG)
        for name in COPIED:
            if (source / name).is_file() and not leaves(source / name):
                shutil.copyfile(source / name, temporary / name)
        text = json.dumps({"permlab": __version__, **record, "inputs": inputs}, indent=2, sort_keys=True, default=str)
        (temporary / RECORD).write_text(text + "\n", encoding="utf-8")
        (temporary / "README.md").write_text(_card(loaded, inputs, record), encoding="utf-8")
    return out


def leaves(path: Path) -> bool:
    """Whether a file of a model folder is a link to somewhere else, whose text must not be published with the merge.

    The hub's cache links `snapshots/COMMIT/NAME` to `blobs/HASH`, two folders up; that is no other place.
    """
    real, folder = path.resolve(), path.parent.resolve()
    blobs = folder.parent.parent / "blobs"
    return not (real.is_relative_to(folder) or (folder.parent.name == "snapshots" and real.parent == blobs))


def _write_weights(folder: Path, state: Mapping[str, Tensor], loaded: Loaded, shard_size: int | str) -> None:
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file

    tensors = {
        loaded.file_names.get(name, name): value.detach().cpu().to(loaded.stored[0][name].dtype).contiguous()
        for name, value in state.items()
        if name in loaded.stored[0]
    }
    plan = split_torch_state_dict_into_shards(tensors, max_shard_size=shard_size)
    for file, names in plan.filename_to_tensors.items():
        save_file({name: tensors[name] for name in names}, str(folder / file), metadata={"format": "pt"})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _card(loaded: Loaded, inputs: list[dict[str, Any]], record: Mapping[str, Any]) -> str:
    """README.md for people and the hub."""
    count = len(loaded.stored)
    shown = [f"{weight:g}" for weight in record.get("weights") or ()] or ["-"] * count
    shown += ["ancestor"] * (len(inputs) - count)
    rows = [(f"`{entry['path']}`", weight, f"`{entry['sha256']}`") for entry, weight in zip(inputs, shown)]
    parts: list[str | list[str]] = [
        made_by(str(record.get("method", "average"))),
        table(("network", "weight", "SHA-256"), rows),
        "Configuration and tokenizer are those of the first network; `merge.json` has all settings.",
    ]
    bases = [each.path for each in loaded.checkpoints]
    return card(f"Merge of {len(loaded.stored)} networks", parts, library="transformers", tags=["merge"], bases=bases)
