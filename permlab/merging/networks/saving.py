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

import torch
from torch import Tensor

from permlab.merging.networks.experts import FileState
from permlab.merging.networks.loaded import Loaded
from permlab.merging.streaming import Streamed, pieces_of
from permlab.models.checkpoints import CONFIG, INDEX, RECORD
from permlab.storage.cards import card, made_by, table
from permlab.storage.files import read_object, replacing, write_text
from permlab.storage.folders import replacing_folder
from permlab.storage.tensors import SafetensorsStream
from permlab.version import __version__

GENERATION = "generation_config.json"
COPIED = (
    GENERATION, "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "vocab.txt", "chat_template.jinja", "chat_template.json",
    "preprocessor_config.json", "processor_config.json",
)  # fmt: skip
"""Files of the first network that go with the merged one."""
TOKENIZER = set(COPIED) - {GENERATION, "preprocessor_config.json", "processor_config.json"}
"""Those of them that come from another network where its tokenizer is wanted."""
MADE_OF = "made_of.json"
"""Beside shards that wait for the others: what they were computed from."""


def save_network(
    folder: str | Path,
    state: Mapping[str, Tensor],
    loaded: Loaded,
    record: Mapping[str, Any],
    *,
    shard_size: int | str = "5GB",
    kept: Path | None = None,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Write a merged Hugging Face network.

    Args:
        folder: made; a merged network that is there already (a run that was stopped) is replaced, nothing else is.
        state: the merged tensors under the names of `loaded.stored`, each of the number type it had there; one that
            streams (`permlab.merging.streaming.Streamed`) is computed as it is written.
        loaded: where the networks came from.
        record: plain values for merge.json and the model card; "method" and "weights" are shown in words.
        shard_size: largest file.
        kept: a folder of this file system where finished shards wait for the others: an interrupted merge of the same
            networks in the same way goes on after the last one. It is gone in the end.
        config: keys of config.json that differ from the first network's.

    Raises:
        UserError: the folder holds something else already; nothing is written then.
    """
    out = Path(folder)
    inputs = [{"path": each.path, "sha256": each.sha256()} for each in loaded.checkpoints]
    if loaded.ancestor is not None:
        inputs[-1]["role"] = "ancestor"
    kind = _type_of(state)
    if loaded.experts is not None:
        state = loaded.experts.files(state, loaded.checkpoints[0].tensors)
    with replacing_folder(out, replace=(out / RECORD).is_file()) as temporary:
        _write_weights(temporary, state, loaded, shard_size, kept, [inputs, record])
        source = loaded.checkpoints[0].folder
        frame = loaded.frame
        if changed := dict(config or {}) | (frame.changes if frame is not None else {}) | kind:
            own = read_object(source / CONFIG)
            own.pop("torch_dtype", None)  # the old name of dtype
            (temporary / CONFIG).write_text(
                json.dumps(own | changed, indent=2, sort_keys=True) + "\n", encoding="utf-8"
            )
        else:
            shutil.copyfile(source / CONFIG, temporary / CONFIG)
        for name in COPIED:
            place = (loaded.tokenizer if name in TOKENIZER and loaded.tokenizer is not None else source) / name
            if place.is_file() and not leaves(place):
                shutil.copyfile(place, temporary / name)
        if frame is not None:
            _generation(temporary / GENERATION, frame.changes)
        text = json.dumps({"permlab": __version__, **record, "inputs": inputs}, indent=2, sort_keys=True, default=str)
        (temporary / RECORD).write_text(text + "\n", encoding="utf-8")
        (temporary / "README.md").write_text(_card(loaded, inputs, record), encoding="utf-8")
    if kept is not None:
        shutil.rmtree(kept, ignore_errors=True)
    return out


def _generation(path: Path, changes: Mapping[str, Any]) -> None:
    """Numbers of special tokens in generation_config.json, where they changed."""
    if path.is_file():
        given = read_object(path)
        new = given | {key: value for key, value in changes.items() if key in given}
        path.write_text(json.dumps(new, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _type_of(state: Mapping[str, Tensor]) -> dict[str, str]:
    """The number type in config.json, where another one was asked for than the first network has."""
    wanted = state.dtype if isinstance(state, Streamed) else None
    return {} if wanted is None else {"dtype": str(wanted).removeprefix("torch.")}


def _stated(state: Mapping[str, Tensor], name: str, first: Mapping[str, Tensor]) -> Tensor:
    """Shape and number type of a merged tensor, before anything is computed: no memory is taken."""
    if isinstance(state, FileState):
        found = state.stated(name)
        return found if found is not None else _stated(state.state, name, first)
    stored = first[name]
    kind = state.type_of(name) if isinstance(state, Streamed) else stored.dtype
    return stored if kind == stored.dtype else torch.empty(stored.shape, dtype=kind, device="meta")


def leaves(path: Path) -> bool:
    """Whether a file of a model folder is a link to somewhere else, whose text must not be published with the merge.

    The hub's cache links `snapshots/COMMIT/NAME` to `blobs/HASH`, two folders up; that is no other place.
    """
    real, folder = path.resolve(), path.parent.resolve()
    blobs = folder.parent.parent / "blobs"
    return not (real.is_relative_to(folder) or (folder.parent.name == "snapshots" and real.parent == blobs))


def _write_weights(
    folder: Path, state: Mapping[str, Tensor], loaded: Loaded, shard_size: int | str, kept: Path | None, made_of: Any
) -> None:
    """Shard after shard, each computed as it is written; what an interrupted run left in `kept` is taken over."""
    from huggingface_hub import split_state_dict_into_shards_factory

    first = loaded.stored[0]
    known = set(first) | set(loaded.experts.stored if loaded.experts is not None else ())
    stored = {loaded.file_names.get(name, name): _stated(state, name, first) for name in state if name in known}
    own = {loaded.file_names.get(name, name): name for name in state}
    # Shapes and types of the first network say how large the files become before anything is computed.
    plan = split_state_dict_into_shards_factory(
        stored,
        get_storage_size=lambda value: value.numel() * value.element_size(),
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=shard_size,
    )
    place = kept or folder
    if kept is not None:
        _keep_if_same(kept, json.dumps([made_of, plan.filename_to_tensors], sort_keys=True, default=str))
    for file, names in plan.filename_to_tensors.items():
        if (place / file).is_file():
            continue
        shapes = {name: (tuple(stored[name].shape), stored[name].dtype) for name in names}
        with replacing(place / file) as part, SafetensorsStream(part, shapes) as out:
            for name in names:
                out.put_rows(name, pieces_of(state, own[name]))
    if kept is not None:
        for file in plan.filename_to_tensors:
            (kept / file).rename(folder / file)
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _keep_if_same(folder: Path, made_of: str) -> None:
    """Empty a folder of shards unless they belong to this very merge."""
    note = folder / MADE_OF
    if not note.is_file() or note.read_text(encoding="utf-8") != made_of:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_text(note, made_of)


def _origin(loaded: Loaded) -> str:
    """Where configuration and tokenizer come from, in words."""
    if loaded.frame is None:
        return "Configuration and tokenizer are those of the first network"
    counts = loaded.frame.counts
    return (
        f"Configuration of the first network. Vocabularies differed: of {counts['tokens']} tokens {counts['of_all']} "
        f"are known to all networks, {counts['of_some']} to some (a network that lacks one took the mean of those "
        f"that have it), {counts['appended']} were appended to the first tokenizer as added tokens, and "
        f"{counts['lost']} were lost"
    )


def _card(loaded: Loaded, inputs: list[dict[str, Any]], record: Mapping[str, Any]) -> str:
    """README.md for people and the hub."""
    count = len(loaded.stored)
    shown = [f"{weight:g}" for weight in record.get("weights") or ()] or ["-"] * count
    shown += ["ancestor"] * (len(inputs) - count)
    rows = [(f"`{entry['path']}`", weight, f"`{entry['sha256']}`") for entry, weight in zip(inputs, shown)]
    parts: list[str | list[str]] = [
        made_by(str(record.get("method", "average"))),
        table(("network", "weight", "SHA-256"), rows),
        f"{_origin(loaded)}; `merge.json` has all settings.",
    ]
    bases = [each.path for each in loaded.checkpoints]
    return card(f"Merge of {len(loaded.stored)} networks", parts, library="transformers", tags=["merge"], bases=bases)
