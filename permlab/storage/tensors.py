"""Safetensors files: headers without reading the tensors, reading one tensor at a time, writing as they come.

read_header(Path("model.safetensors"))["lm_head.weight"].shape       # torch is not imported for that
OpenTensors(read_header(path))["lm_head.weight"]                     # memory-mapped
with SafetensorsStream(path, {"w": ((2, 3), torch.float32)}) as stream:
    stream.put("w", torch.ones(2, 3))
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from permlab.errors import UserError
from permlab.storage.files import sync

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Floating-point types that can be merged, as safetensors spells them, with their bytes."""
OTHERS = {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
"""Other types that a network may hold (counters, masks)."""
_TORCH_NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


class DamagedFile(UserError):
    """A weight file that is torn or no safetensors file."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is truncated or no safetensors file: copy or download it again")
        self.path = path


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


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Return the tensors of one safetensors file, from its header.

    Raises:
        DamagedFile: the file is torn, its header is absurd, or it is no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        # "np" for the slices' types and shapes only: no array is made, and neither numpy's nor torch's types are asked.
        with safe_open(str(path), framework="np") as handle:
            slices = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118  it is no mapping
            return {name: TensorInfo(path, part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
    except (SafetensorError, OSError):
        raise DamagedFile(path) from None


class OpenTensors:
    """Tensors by name, read when asked for, from memory-mapped files that are opened once each.

    Args:
        where: name -> in which file it lies (under the same name).
        keep: leave the files open. What has been read of an open file counts as memory of the process until it is
            closed; opened for every tensor, no more than that tensor does.
    """

    def __init__(self, where: Mapping[str, TensorInfo], keep: bool = True) -> None:
        self._where = where
        self._keep = keep
        self._handles: dict[Path, Any] = {}

    def __getitem__(self, name: str) -> Tensor:
        """Return one tensor on the CPU, in the type it is stored in.

        Raises:
            DamagedFile: the file cannot be read any more.
        """
        from safetensors import SafetensorError, safe_open

        path = self._where[name].file
        try:
            handle = self._handles.get(path) or safe_open(str(path), framework="pt", device="cpu")
            if self._keep:
                self._handles[path] = handle
            tensor: Tensor = handle.get_tensor(name)
        except (SafetensorError, OSError):
            raise DamagedFile(path) from None
        return tensor


def torch_dtype(code: str) -> torch.dtype:
    """Return the torch type of one of `FLOATS` and `OTHERS`: "BF16" -> torch.bfloat16."""
    import torch

    dtype: torch.dtype = getattr(torch, _TORCH_NAMES[code])
    return dtype


class SafetensorsStream:
    """A safetensors file whose tensors arrive one by one in any order; shapes and types are stated up front.

    `safetensors.torch.save_file` wants all tensors at once, which for a merge of many adapters is most of the memory.
    """

    def __init__(self, path: Path, shapes: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> None:
        codes = {torch_dtype(code): code for code in (*FLOATS, *OTHERS)}
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for key, (shape, dtype) in shapes.items():
            size = TensorInfo(path, codes[dtype], shape).size * dtype.itemsize
            header[key] = {"dtype": codes[dtype], "shape": list(shape), "data_offsets": [offset, offset + size]}
            offset += size
        # The format: 8 bytes with the length of the header, the header (JSON, padded to 8 bytes), the tensors.
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._header, self._start = header, 8 + len(text)
        self._missing = set(shapes)
        self._path = path
        self._file: BinaryIO = path.open("wb")
        self._file.write(len(text).to_bytes(8, "little") + text)

    def put(self, key: str, tensor: Tensor) -> None:
        """Write one tensor, converted to the stated type."""
        shape = self._header[key]["shape"]
        if list(tensor.shape) != shape:
            raise ValueError(f"{key} has shape {list(tensor.shape)}, stated {shape}")
        self.put_rows(key, [tensor])

    def put_rows(self, key: str, parts: Iterable[Tensor]) -> None:
        """Write one tensor that comes a few rows at a time, from the first to the last."""
        import torch

        entry = self._header[key]
        start, end = entry["data_offsets"]
        self._file.seek(self._start + start)
        for part in parts:
            data = part.detach().to(device="cpu", dtype=torch_dtype(entry["dtype"])).contiguous()
            # A scalar has no bytes to be seen as: it gets an axis first.
            start += self._file.write(data.reshape(-1).view(torch.uint8).numpy().data)
        if start != end:
            raise ValueError(f"{key} got {start - entry['data_offsets'][0]} bytes, stated {entry['shape']}")
        self._missing.discard(key)

    def __enter__(self) -> SafetensorsStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Flush to disk; refuse a file with holes when the block ended well."""
        self._file.close()
        if kind is None and self._missing:
            raise ValueError(f"{len(self._missing)} tensors were never written, {min(self._missing)} among them")
        sync(self._path)
