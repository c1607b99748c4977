"""Weight files of the user, checked from their headers: `open_checkpoint("DIR").tensors["lm_head.weight"].shape`.

Reads JSON and safetensors headers only (no torch), so that a wrong path, a pickle, a torn file or another architecture
is refused before anything heavy is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from permlab.errors import UserError
from permlab.models.sizes import check_config, check_files, check_sizes
from permlab.storage.files import read_object
from permlab.storage.hashes import sha256_of
from permlab.storage.hub import PICKLES, is_hub_id, snapshot
from permlab.storage.shards import read_weights
from permlab.storage.tensors import FLOATS, OTHERS, TensorInfo, read_header

WEIGHTS, INDEX, CONFIG, RECORD = "model.safetensors", "model.safetensors.index.json", "config.json", "merge.json"
CONVERT = (
    "it can run any code when it is opened and is never read; where you trust it, convert it once with "
    "AutoModel...from_pretrained(OLD).save_pretrained(NEW) or safetensors.torch.save_file(state_dict, FILE)"
)
FILES = ("*.json", "*.txt", "*.model", "*.jinja", "model*.safetensors")
"""What is fetched of a network of the hub: configuration, tokenizer and safetensors, never a pickle."""


@dataclass
class Checkpoint:
    """One network on disk.

    Attributes:
        path: as the user wrote it.
        kind: "huggingface" (a folder with config.json), "permlab" (a folder with merge.json) or "file".
        folder: where its files lie.
        tensors: name in the file -> TensorInfo.
        config: config.json, or {}.
        record: merge.json, or {}.
    """

    path: str
    kind: str
    folder: Path
    tensors: dict[str, TensorInfo]
    config: dict[str, Any] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return Path(self.path).resolve().name if Path(self.path).exists() else self.path.rpartition("/")[2]

    @property
    def parameters(self) -> int:
        """Entries of all floating-point tensors."""
        return sum(info.size for info in self.tensors.values() if info.dtype in FLOATS)

    @property
    def bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(info.size * (FLOATS | OTHERS)[info.dtype] for info in self.tensors.values())

    @property
    def files(self) -> list[Path]:
        """Its weight files."""
        return sorted({info.file for info in self.tensors.values()})

    def sha256(self) -> str:
        """Hash of the weight files in name order."""
        return sha256_of(self.files)


def open_checkpoint(path: str) -> Checkpoint:
    """Read the headers of one network: a Hugging Face folder, a merged network of permlab, or a .safetensors file.

    A run directory stands for its `artifacts/model`. A hub id is downloaded first (safetensors and JSON only).

    Raises:
        UserError: nothing there, a pickle, an adapter, a torn or foreign file, unreadable JSON, quantised weights.
    """
    if is_hub_id(path):
        return _open_folder(path, snapshot(path, FILES))
    place = Path(path).expanduser()
    if place.is_dir():
        inner = place / "artifacts" / "model"
        run = (place / "result.json").is_file() and inner.is_dir()
        return _open_folder(path, inner if run else place)
    if place.suffix.lower() in PICKLES:
        raise UserError(f"{path} is a pickle: {CONVERT}")
    if not place.is_file():
        raise UserError(f"{path} does not exist: give a Hugging Face folder, a .safetensors file or a hub id")
    if place.suffix != ".safetensors":
        raise UserError(f"{path} is neither a folder nor a .safetensors file: {CONVERT}")
    if place.name == WEIGHTS and any((place.parent / name).is_file() for name in (CONFIG, RECORD)):
        return _open_folder(path, place.parent)
    return Checkpoint(path, "file", place.parent, _checked(path, read_header(place)))


def check_tuned(base: Checkpoint, tuned: Checkpoint) -> None:
    """Refuse a network that was not fine-tuned from the other.

    Raises:
        UserError: with the first tensor that differs.
    """
    for name in sorted(base.tensors.keys() | tuned.tensors.keys()):
        shapes = [list(each.tensors[name].shape) if name in each.tensors else "none" for each in (base, tuned)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"{tuned.path} was not fine-tuned from {base.path}: {name} is {shapes[1]} there and {shapes[0]} here"
            )


def _open_folder(path: str, folder: Path) -> Checkpoint:
    if (folder / "adapter_config.json").is_file() and not (folder / CONFIG).is_file():
        raise UserError(f"{path} is a LoRA adapter, not a whole network: merge adapters with task=lora_lego")
    check_files(folder)
    config = check_config(_object(folder / CONFIG), folder / CONFIG)
    record = check_config(_object(folder / RECORD), folder / RECORD) if not config else {}
    if not config and not record:
        raise UserError(f"{path} has no config.json: it is no Hugging Face model folder and no network of permlab")
    if config.get("quantization_config"):
        raise UserError(f"{path} holds quantised weights, which have no mean: dequantise the model and save it again")
    tensors = _weights_of(path, folder)
    check_sizes(config or record, folder / (CONFIG if config else RECORD), tensors)
    return Checkpoint(path, "huggingface" if config else "permlab", folder, tensors, config, record)


def _object(path: Path) -> dict[str, Any]:
    return read_object(path) if path.is_file() else {}


def _weights_of(path: str, folder: Path) -> dict[str, TensorInfo]:
    tensors = read_weights(folder, WEIGHTS)
    if tensors is not None:
        return _checked(path, tensors)
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
    if pickles:
        raise UserError(f"{path} has pickled weights only ({pickles[0]}): {CONVERT}")
    raise UserError(f"{path} has no weights: {WEIGHTS} or {INDEX} is missing")


def _checked(path: str, tensors: dict[str, TensorInfo]) -> dict[str, TensorInfo]:
    for name, info in tensors.items():
        if info.dtype not in FLOATS and info.dtype not in OTHERS:
            raise UserError(
                f"{path}: {name} is of type {info.dtype}, which has no mean: save it as float32 or bfloat16"
            )
    if not any(info.dtype in FLOATS for info in tensors.values()):
        raise UserError(f"{path} holds no floating-point tensor: there is nothing to merge")
    return tensors
