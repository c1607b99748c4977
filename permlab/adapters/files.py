"""Read PEFT adapter folders with safetensors and JSON only: no PEFT, no transformers, no base model.

>>> from permlab.adapters import open_adapter
>>> adapter = open_adapter("path/to/adapter")        # or a hub id: "owner/name"
>>> adapter.modules["model.layers.0.self_attn.q_proj"].rank
16
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from permlab.adapters.factors import Factors, ModuleInfo
from permlab.adapters.settings import LoraSettings
from permlab.errors import UserError

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
INDEX_NAME = "adapter_model.safetensors.index.json"
_PICKLE_NAME = "adapter_model.bin"
_PREFIX = "base_model.model."
# "...q_proj.lora_A.weight"; older files put the adapter name in: "...lora_A.default.weight"; "...lora_embedding_A".
_FACTOR_KEY = re.compile(r"(?P<module>.+)\.lora_(?P<half>A|B)(\.[^.]+)?\.weight")
_EMBEDDING_KEY = re.compile(r"(?P<module>.+)\.lora_embedding_(?P<half>A|B)(\.[^.]+)?")
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class Adapter:
    """A LoRA adapter folder: shapes known, tensors read one module at a time from the memory-mapped file.

    `modules`: ModuleInfo by module path; `extra`: keys that are not LoRA factors (modules_to_save, biases);
    `settings`: the configuration. Made by `open_adapter`.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self.settings = LoraSettings.from_json(_read_json(folder / CONFIG_NAME), f"{name}/{CONFIG_NAME}")
        self._location = _locate_tensors(folder, name)
        self._handles: dict[Path, Any] = {}
        self._keys: dict[str, dict[str, str]] = {}
        self.extra: list[str] = []
        self.modules: dict[str, ModuleInfo] = {}
        self._read_layout()

    def load(self, module: str) -> Factors:
        """Factors of `module` in float32, `a` flattened to (rank, d_in), with the module's scaling beside them.

        Raises:
            UserError: when a value is not finite.
        """
        info = self.modules[module]
        a = self._tensor(self._keys[module]["A"]).float().reshape(info.rank, info.d_in)
        b = self._tensor(self._keys[module]["B"]).float().reshape(info.d_out, info.rank)
        # One reduction instead of an elementwise mask: a sum is finite only if every entry is (or overflows, which no
        # usable adapter does).
        if not bool(torch.isfinite(a.sum() + b.sum())):
            raise UserError(f"{self.name}: {module} holds values that are not finite (NaN or infinity)")
        return Factors(a, b, info.scaling)

    def extra_tensor(self, key: str) -> Tensor:
        """A tensor that is not a LoRA factor, by its key in the file."""
        return self._tensor(key)

    def sha256(self) -> str:
        """Hash of the weight files, in name order."""
        digest = hashlib.sha256()
        for path in sorted(set(self._location.values())):
            with path.open("rb") as handle:
                while block := handle.read(1 << 22):
                    digest.update(block)
        return digest.hexdigest()

    def n_bytes(self) -> int:
        """Size of the weight files."""
        return sum(path.stat().st_size for path in set(self._location.values()))

    def _open(self, path: Path) -> Any:
        if path not in self._handles:
            try:
                self._handles[path] = safe_open(str(path), framework="pt", device="cpu")
            except (SafetensorError, OSError) as problem:
                raise UserError(f"{self.name}: {path.name} cannot be read (truncated or damaged: {problem})") from None
        return self._handles[path]

    def _tensor(self, key: str) -> Tensor:
        return self._open(self._location[key]).get_tensor(key)

    def _read_layout(self) -> None:
        kinds: dict[str, str] = {}
        for key in self._location:
            match, kind = _FACTOR_KEY.fullmatch(key), "linear"
            if match is None:
                match, kind = _EMBEDDING_KEY.fullmatch(key), "embedding"
            if match is None:
                self._refuse_variant_key(key)
                self.extra.append(key)
                continue
            module = module_path(match["module"])
            self._keys.setdefault(module, {})[match["half"]] = key
            kinds[module] = kind
        if not self._keys:
            raise UserError(f"{self.name}: {WEIGHTS_NAME} holds no lora_A or lora_B tensor")
        for module, halves in self._keys.items():
            self.modules[module] = self._module_info(module, halves, kinds[module])

    def _refuse_variant_key(self, key: str) -> None:
        if "lora_magnitude_vector" in key:
            raise UserError(f"{self.name}: {key} belongs to DoRA; only plain LoRA adapters can be merged")
        if re.search(r"\.lora_B(\.[^.]+)?\.bias$", key):
            raise UserError(f"{self.name}: {key} is a lora_bias; only plain LoRA adapters can be merged")
        if ".lora_" in key:
            raise UserError(f"{self.name}: {key} is not a factor of plain LoRA; this variant cannot be merged")

    def _module_info(self, module: str, halves: dict[str, str], kind: str) -> ModuleInfo:
        if set(halves) != {"A", "B"}:
            missing = "B" if "A" in halves else "A"
            raise UserError(f"{self.name}: {module} has no lora_{missing}; the file is incomplete")
        (shape_a, dtype), (shape_b, _) = (self._shape(halves[half]) for half in "AB")
        rank = shape_a[0] if shape_a else 0
        if len(shape_a) < 2 or len(shape_b) < 2 or 0 in (*shape_a, *shape_b):
            raise UserError(f"{self.name}: {module} has factors of shape {shape_a} and {shape_b}; an empty or flat one")
        if shape_b[1] != rank or any(length != 1 for length in shape_b[2:]):
            raise UserError(
                f"{self.name}: {module} has lora_A of shape {shape_a} and lora_B of shape {shape_b}, "
                "which do not multiply (grouped convolutions cannot be merged)"
            )
        stated = self.settings.module_rank(module)
        if stated != rank:
            raise UserError(f"{self.name}: {module} has rank {rank} in the file and {stated} in {CONFIG_NAME}")
        return ModuleInfo(rank, shape_a[1:], shape_b[0], self.settings.scaling(module, rank), kind, dtype)

    def _shape(self, key: str) -> tuple[tuple[int, ...], torch.dtype]:
        view = self._open(self._location[key]).get_slice(key)
        code = view.get_dtype()
        if code not in _DTYPES:
            raise UserError(f"{self.name}: {key} is stored as {code}; F64, F32, F16 and BF16 can be merged")
        return tuple(view.get_shape()), _DTYPES[code]


def module_path(key: str) -> str:
    """Path of a module inside the base model: PEFT's `base_model.model.` in front is dropped."""
    return key[len(_PREFIX) :] if key.startswith(_PREFIX) else key


def open_adapter(source: str | Path, revision: str | None = None) -> Adapter:
    """Open an adapter folder, or download one from the Hugging Face hub (`owner/name`) and open it.

    Raises:
        UserError: in one line, for a missing folder or file, a pickled file, a damaged file, an index that leaves the
            folder, another adapter kind, or a LoRA variant that rank-one units cannot hold.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return Adapter(folder, folder.name)
    text = str(source)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", text) and not text.startswith("."):
        return Adapter(_download(text, revision), text)
    raise UserError(f"adapter {text} is neither a folder nor a hub id like owner/name")


def _download(repo: str, revision: str | None) -> Path:
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = [CONFIG_NAME, "adapter_model*.safetensors", INDEX_NAME]
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, httpx.HTTPError, OSError, ValueError) as problem:
        reason = str(problem).strip().splitlines()[0]
        raise UserError(f"adapter {repo} is no local folder and cannot be fetched from the hub: {reason}") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path.parent} holds no {path.name}; is it a PEFT adapter folder?") from None
    except (OSError, ValueError) as problem:
        raise UserError(f"{path} is not valid JSON ({problem})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} does not hold a JSON object")
    return value


def _locate_tensors(folder: Path, name: str) -> dict[str, Path]:
    """File of every tensor key: one safetensors file, or the shards that an index names."""
    single, index = folder / WEIGHTS_NAME, folder / INDEX_NAME
    if single.is_file():
        try:
            with safe_open(str(single), framework="pt", device="cpu") as handle:
                return dict.fromkeys(handle.keys(), single)
        except (SafetensorError, OSError) as problem:
            raise UserError(f"{name}: {WEIGHTS_NAME} cannot be read (truncated or damaged: {problem})") from None
    if index.is_file():
        return _locate_shards(folder, name, _read_json(index).get("weight_map"))
    if (folder / _PICKLE_NAME).is_file():
        raise UserError(f"{name}: {_PICKLE_NAME} is a pickle and is not opened; save the adapter as safetensors")
    raise UserError(f"{name} holds no {WEIGHTS_NAME}")


def _locate_shards(folder: Path, name: str, weight_map: Any) -> dict[str, Path]:
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{name}: {INDEX_NAME} has no weight_map")
    location: dict[str, Path] = {}
    for key, shard in weight_map.items():
        # The name, not the resolved path: hub caches link every file to a blob that lies elsewhere.
        if Path(str(shard)).name != str(shard):
            raise UserError(f"{name}: {INDEX_NAME} points outside the folder ({shard})")
        path = folder / str(shard)
        if path.suffix != ".safetensors" or not path.is_file():
            raise UserError(f"{name}: {INDEX_NAME} names {shard}, which is no safetensors file of the folder")
        location[key] = path
    for path in sorted(set(location.values())):
        try:
            with safe_open(str(path), framework="pt", device="cpu") as handle:
                absent = [key for key, where in location.items() if where == path and key not in set(handle.keys())]
        except (SafetensorError, OSError) as problem:
            raise UserError(f"{name}: {path.name} cannot be read (truncated or damaged: {problem})") from None
        if absent:
            raise UserError(f"{name}: {path.name} does not hold {absent[0]}, which {INDEX_NAME} says it does")
    return location
