"""Weight files of the user, checked from their headers: `open_checkpoint("DIR").tensors["lm_head.weight"].shape`.

Reads JSON and safetensors headers only (no torch), so that a wrong path, a pickle, a torn file or another architecture
is refused before anything heavy is loaded.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from permlab.errors import UserError

WEIGHTS, INDEX, CONFIG, RECORD = "model.safetensors", "model.safetensors.index.json", "config.json", "merge.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
CONVERT = (
    "it can run any code when it is opened and is never read; where you trust it, convert it once with "
    "AutoModel...from_pretrained(OLD).save_pretrained(NEW) or safetensors.torch.save_file(state_dict, FILE)"
)
FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Number types that can be merged, with their bytes."""
OTHERS = {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
LARGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies: `dtype` as safetensors spells it (F32, BF16, ...)."""

    file: Path
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of entries."""
        count = 1
        for length in self.shape:
            count *= length
        return count


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
        digest = hashlib.sha256()
        for path in self.files:
            with path.open("rb") as handle:
                while block := handle.read(1 << 22):
                    digest.update(block)
        return digest.hexdigest()


def is_hub_id(path: str) -> bool:
    """Whether a path can only mean a model of the hub (`owner/name`): nothing of that name is on this disk."""
    known = Path(path).exists() or (Path(path).parent.is_dir() and str(Path(path).parent) != ".")
    return bool(HUB_ID.fullmatch(path)) and not known and Path(path).suffix not in (*PICKLES, ".safetensors")


def open_checkpoint(path: str) -> Checkpoint:
    """Read the headers of one network: a Hugging Face folder, a merged network of permlab, or a .safetensors file.

    A run directory stands for its `artifacts/model`. A hub id is downloaded first (safetensors and JSON only).

    Raises:
        UserError: nothing there, a pickle, an adapter, a torn or foreign file, unreadable JSON, quantised weights.
    """
    if is_hub_id(path):
        return _open_folder(path, _download(path))
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


def _open_folder(path: str, folder: Path) -> Checkpoint:
    if (folder / "adapter_config.json").is_file() and not (folder / CONFIG).is_file():
        raise UserError(f"{path} is a LoRA adapter, not a whole network: merge adapters with task=lora_lego")
    config = _read_object(folder / CONFIG)
    record = _read_object(folder / RECORD) if not config else {}
    if not config and not record:
        raise UserError(f"{path} has no config.json: it is no Hugging Face model folder and no network of permlab")
    if config.get("quantization_config"):
        raise UserError(f"{path} holds quantised weights, which have no mean: dequantise the model and save it again")
    tensors = _read_weights(path, folder)
    return Checkpoint(path, "huggingface" if config else "permlab", folder, tensors, config, record)


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{path} is not a JSON object: get the file again")
    return value


def _read_weights(path: str, folder: Path) -> dict[str, TensorInfo]:
    if (folder / WEIGHTS).is_file():
        return _checked(path, read_header(folder / WEIGHTS))
    if (folder / INDEX).is_file():
        return _checked(path, _read_shards(folder))
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
    if pickles:
        raise UserError(f"{path} has pickled weights only ({pickles[0]}): {CONVERT}")
    raise UserError(f"{path} has no weights: {WEIGHTS} or {INDEX} is missing")


def _read_shards(folder: Path) -> dict[str, TensorInfo]:
    mapping = _read_object(folder / INDEX).get("weight_map")
    if not isinstance(mapping, dict) or not mapping:
        raise UserError(f"{folder / INDEX} has no weight_map: get the file again")
    headers: dict[str, dict[str, TensorInfo]] = {}
    for name, file in mapping.items():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise UserError(f"{folder / INDEX} points to {file}, which is no .safetensors file of its own folder")
        if file not in headers:
            if not (folder / file).is_file():
                raise UserError(f"{folder / INDEX} names {file}, which is missing: copy all shards")
            headers[file] = read_header(folder / file)
        if name not in headers[file]:
            raise UserError(f"{folder / file} has no tensor {name}, which the index says it has: get both files again")
    return {name: headers[file][name] for name, file in mapping.items()}


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Tensors of one safetensors file, from its header.

    Raises:
        UserError: the file is torn or no safetensors file.
    """
    broken = UserError(f"{path} is truncated or no safetensors file: copy or download it again")
    with path.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        total = path.stat().st_size
        if not 2 <= length <= min(LARGEST_HEADER, total - 8):
            raise broken
        text = handle.read(length)
    try:
        header = json.loads(text)
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        ends = [entry["data_offsets"][1] for entry in entries.values()]
        tensors = {name: TensorInfo(path, entry["dtype"], tuple(entry["shape"])) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise broken from None
    if total != 8 + length + max(ends, default=0):
        raise broken
    return tensors


def _checked(path: str, tensors: dict[str, TensorInfo]) -> dict[str, TensorInfo]:
    for name, info in tensors.items():
        if info.dtype not in FLOATS and info.dtype not in OTHERS:
            raise UserError(
                f"{path}: {name} is of type {info.dtype}, which has no mean: save it as float32 or bfloat16"
            )
    if not any(info.dtype in FLOATS for info in tensors.values()):
        raise UserError(f"{path} holds no floating-point tensor: there is nothing to merge")
    return tensors


def _download(name: str) -> Path:
    """The folder of a hub model in the cache: configuration, tokenizer and safetensors, never a pickle."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    wanted = ["*.json", "*.txt", "*.model", "*.jinja", "model*.safetensors"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except GatedRepoError:
        problem = "is gated: accept its licence on the model page and run `hf auth login`"
    except (LocalEntryNotFoundError, OSError, ValueError) as error:
        missing = isinstance(error, RepositoryNotFoundError)
        problem = "is not on the hub" if missing else "is neither in the cache nor reachable"
        problem += ", and no folder of that name is here: give the path of a local copy"
    raise UserError(f"{name} {problem}")
