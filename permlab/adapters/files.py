"""Read PEFT adapter folders with safetensors and JSON only: no PEFT, no transformers, no base model.

>>> from permlab.adapters import open_adapter
>>> adapter = open_adapter("path/to/adapter")        # or a hub id: "owner/name"
>>> adapter.modules["model.layers.0.self_attn.q_proj"].rank
16
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from permlab.adapters.dora import TIMES, BaseWeights, fold
from permlab.adapters.factors import Factors, ModuleInfo
from permlab.adapters.locate import CONFIG_NAME, INDEX_NAME, PICKLE_NAME, WEIGHTS_NAME
from permlab.adapters.settings import LoraSettings
from permlab.errors import UserError
from permlab.storage.files import read_object
from permlab.storage.hashes import sha256_of
from permlab.storage.hub import is_hub_id, snapshot
from permlab.storage.shards import ForeignShard, read_weights
from permlab.storage.tensors import FLOATS, DamagedFile, OpenTensors, TensorInfo, torch_dtype

_KEPT_OPEN = 64 << 20
"""Bytes up to which an adapter's file stays open between modules."""
_PREFIX = "base_model.model."
# "...q_proj.lora_A.weight"; older files put the adapter name in: "...lora_A.default.weight"; "...lora_embedding_A".
_FACTOR_KEY = re.compile(r"(?P<module>.+)\.lora_(?P<half>A|B)(\.[^.]+)?\.weight")
_MAGNITUDE_KEY = re.compile(r"(?P<module>.+)\.lora_magnitude_vector(\.[^.]+)*")
_EMBEDDING_KEY = re.compile(r"(?P<module>.+)\.lora_embedding_(?P<half>A|B)(\.[^.]+)?")


class Adapter:
    """A LoRA adapter folder: shapes known, tensors read one module at a time from the memory-mapped file.

    `modules`: ModuleInfo by module path; `extra`: keys that are not LoRA factors (modules_to_save, biases);
    `settings`: the configuration; `kept`: of the modules of a DoRA adapter that have been loaded, the share of the
    update that folding keeps (`dora.fold`). Made by `open_adapter`.
    """

    def __init__(self, folder: Path, name: str, base: str | Path | None = None) -> None:
        self.folder = folder
        self.name = name
        if not (folder / CONFIG_NAME).is_file():
            raise UserError(f"{folder} holds no {CONFIG_NAME}; is it a PEFT adapter folder?")
        self.settings = LoraSettings.from_json(read_object(folder / CONFIG_NAME), f"{name}/{CONFIG_NAME}")
        self._stored = _located(folder, name)
        self._tensors = OpenTensors(self._stored, keep=self.n_bytes() < _KEPT_OPEN)
        self._base_folder, self._magnitudes = base, dict[str, str]()
        self._base: BaseWeights | None = None
        self.kept: dict[str, float] = {}
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
        a = self._tensors[self._keys[module]["A"]].float().reshape(-1, info.d_in)
        b = self._tensors[self._keys[module]["B"]].float().reshape(info.d_out, -1)
        # One reduction instead of an elementwise mask: a sum is finite only if every entry is (or overflows, which no
        # usable adapter does).
        if not bool(torch.isfinite(a.sum() + b.sum())):
            raise UserError(f"{self.name}: {module} holds values that are not finite (NaN or infinity)")
        return self._fold(module, a, b) if module in self._magnitudes else Factors(a, b, info.scaling)

    def _fold(self, module: str, a: Tensor, b: Tensor) -> Factors:
        assert self._base is not None  # `_read_layout` refuses magnitudes without it
        weight = self._base.weight(module)
        update = Factors(a, b, self.settings.scaling(module, len(a)))
        magnitude = self._tensors[self._magnitudes[module]]
        turned = weight.T if self.settings.raw.get("fan_in_fan_out") else weight
        found = fold(turned, update, magnitude, self.modules[module].rank)
        self.kept[module] = found.kept
        return found.update

    def extra_tensor(self, key: str) -> Tensor:
        """A tensor that is not a LoRA factor, by its key in the file."""
        return self._tensors[key]

    @property
    def files(self) -> list[Path]:
        """The weight files."""
        return sorted({info.file for info in self._stored.values()})

    def sha256(self) -> str:
        """Hash of the weight files, in name order."""
        return sha256_of(self.files)

    def n_bytes(self) -> int:
        """Size of the weight files."""
        return sum(path.stat().st_size for path in self.files)

    def _read_layout(self) -> None:
        kinds: dict[str, str] = {}
        for key in self._stored:
            match, kind = _FACTOR_KEY.fullmatch(key), "linear"
            if match is None:
                match, kind = _EMBEDDING_KEY.fullmatch(key), "embedding"
            magnitude = _MAGNITUDE_KEY.fullmatch(key)
            if magnitude is not None:
                self._magnitudes[module_path(magnitude["module"])] = key
                continue
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
        if self._magnitudes or self.settings.raw.get("use_dora"):
            self._read_dora()

    def _read_dora(self) -> None:
        """Shapes of what folding will give."""
        if self._base_folder is None:
            raise UserError(
                f"{self.name} belongs to DoRA, which rescales the rows of the base: give the base to fold it, "
                "model=local model.path=BASE (in Python base=BASE)"
            )
        self._base = BaseWeights(self._base_folder)
        for module in self._magnitudes:
            info = self.modules.get(module)
            if info is None or info.kind != "linear" or len(info.in_shape) > 1:
                raise UserError(
                    f"{self.name}: the DoRA magnitude of {module} belongs to no linear layer of the adapter"
                )
            rank = min(TIMES * info.rank, info.d_in, info.d_out)
            self.modules[module] = dataclasses.replace(info, rank=rank, scaling=1.0)

    def _refuse_variant_key(self, key: str) -> None:
        # These are not B A alone; PEFT merges them all the same, wrongly and silently (its issue 3761): they stop here.
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
        # rank_pattern decides the scaling alpha / r too: a file that contradicts it would be scaled wrongly unnoticed.
        stated = self.settings.module_rank(module)
        if stated != rank:
            raise UserError(f"{self.name}: {module} has rank {rank} in the file and {stated} in {CONFIG_NAME}")
        return ModuleInfo(rank, shape_a[1:], shape_b[0], self.settings.scaling(module, rank), kind, dtype)

    def _shape(self, key: str) -> tuple[tuple[int, ...], torch.dtype]:
        info = self._stored[key]
        if info.dtype not in FLOATS:
            raise UserError(f"{self.name}: {key} is stored as {info.dtype}; {', '.join(FLOATS)} can be merged")
        return info.shape, torch_dtype(info.dtype)


def module_path(key: str) -> str:
    """Path of a module inside the base model: PEFT's `base_model.model.` in front is dropped."""
    return key[len(_PREFIX) :] if key.startswith(_PREFIX) else key


def open_adapter(source: str | Path, revision: str | None = None, base: str | Path | None = None) -> Adapter:
    """Open an adapter folder, or download one from the Hugging Face hub (`owner/name`) and open it.

    Args:
        source: folder or hub id.
        revision: branch, tag or commit on the hub.
        base: folder of the base model, with which DoRA is folded into a plain update (`dora`); only then is it read.

    Raises:
        UserError: in one line, for a missing folder or file, a pickled file, a damaged file, an index that leaves the
            folder, another adapter kind, or a LoRA variant that rank-one units cannot hold.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return Adapter(folder, folder.name, base)
    text = str(source)
    if not is_hub_id(text):
        raise UserError(f"adapter {text} is neither a folder nor a hub id like owner/name")
    try:
        found = snapshot(text, [CONFIG_NAME, "adapter_model*.safetensors", INDEX_NAME], revision)
        return Adapter(found, text, base)
    except UserError as problem:
        raise UserError(f"adapter {text} cannot be fetched from the hub: {problem}") from None


def open_adapters(sources: Sequence[str | Path], base: str | Path | None = None) -> list[Adapter]:
    """Open several adapters; two with one name are told apart by their place in the list. `base`: see `open_adapter`.

    Raises:
        UserError: see `open_adapter`.
    """
    opened = [open_adapter(source, base=base) for source in sources]
    names = [adapter.name for adapter in opened]
    for number, adapter in enumerate(opened, start=1):
        if names.count(adapter.name) > 1:
            adapter.name = f"{adapter.name} ({number})"
    return opened


def _located(folder: Path, name: str) -> dict[str, TensorInfo]:
    """Where every tensor lies: one safetensors file, or the shards that an index names."""
    try:
        tensors = read_weights(folder, WEIGHTS_NAME)
    except DamagedFile as problem:
        raise UserError(f"{name}: {problem.path.name} cannot be read (truncated or damaged); get it again") from None
    except ForeignShard as problem:
        raise UserError(f"{name}: {INDEX_NAME} points outside the folder ({problem.shard})") from None
    if tensors is not None:
        return tensors
    if (folder / PICKLE_NAME).is_file():
        raise UserError(f"{name}: {PICKLE_NAME} is a pickle and is not opened; save the adapter as safetensors")
    raise UserError(f"{name} holds no {WEIGHTS_NAME}")
