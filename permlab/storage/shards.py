"""Weights in one safetensors file or in the shards that an index names: `read_weights(folder, "model.safetensors")`."""

from __future__ import annotations

from pathlib import Path

from permlab.errors import UserError
from permlab.storage.files import read_object
from permlab.storage.tensors import TensorInfo, read_header


class ForeignShard(UserError):
    """An index that names something which is no safetensors file of its own folder."""

    def __init__(self, index: Path, shard: object) -> None:
        super().__init__(f"{index} points to {shard}, which is no .safetensors file of its own folder")
        self.shard = shard


def read_weights(folder: Path, weights: str) -> dict[str, TensorInfo] | None:
    """Return the tensors of a folder, or None when it has neither the file `weights` nor its index.

    Args:
        folder: where the files lie.
        weights: name of the single file; that of the index is `<weights>.index.json`.

    Raises:
        UserError: a damaged file, an index that is broken, leaves the folder or names what is not there.
    """
    index = folder / f"{weights}.index.json"
    if (folder / weights).is_file():
        return read_header(folder / weights)
    return read_shards(index) if index.is_file() else None


def read_shards(index: Path) -> dict[str, TensorInfo]:
    """Return the tensors that an index names, in its order, each checked against the header of its shard.

    Raises:
        UserError: see `read_weights`.
    """
    mapping = read_object(index).get("weight_map")
    if not isinstance(mapping, dict) or not mapping:
        raise UserError(f"{index} has no weight_map: get the file again")
    headers: dict[str, dict[str, TensorInfo]] = {}
    for name, shard in mapping.items():
        # The name, not the resolved path: the hub's cache links every file to a blob that lies elsewhere.
        if not isinstance(shard, str) or Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise ForeignShard(index, shard)
        path = index.parent / shard
        if shard not in headers:
            if not path.is_file():
                raise UserError(f"{index} names {shard}, which is missing: copy all shards")
            headers[shard] = read_header(path)
        if name not in headers[shard]:
            raise UserError(f"{path} has no tensor {name}, which the index says it has: get both files again")
    return {name: headers[shard][name] for name, shard in mapping.items()}
