"""Mixtures of experts on disk: `layout = expert_files(tensors)`, `layout.flat(state)`, `layout.files(merged)`.

Files hold an expert's matrices one by one (`...experts.3.w1.weight`) or those of all experts stacked; symmetries are
declared for matrices in which experts stand below or beside each other (`permlab.symmetry.experts`). Both views compute
a tensor when it is asked for and keep the last: no more than the experts of a layer are held at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from permlab.merging.networks.states import State
from permlab.merging.streaming import pieces_of, type_of
from permlab.storage.tensors import TensorInfo
from permlab.symmetry.experts import PARTS, stacked, unstacked

ONE = re.compile(r"(.*\.experts\.)(\d+)\.(\w+)\.weight")
ALL = re.compile(r"(.*\.experts\.)(gate_up_proj|down_proj)")
SPELLED = {"w1": PARTS[0], "w3": PARTS[1], "w2": PARTS[2]} | {part.partition(".")[0]: part for part in PARTS}
"""A matrix as files call it -> as it is called here; Mixtral numbers its."""
STACKED = ("gate_up_proj", "down_proj")
RENAMED = (("block_sparse_moe.", "mlp."),)
"""Names of files of Mixtral, and those of `transformers`."""


def modern(name: str) -> str:
    """A name of the files as `transformers` has it now."""
    for old, new in RENAMED:
        name = name.replace(old, new)
    return name


@dataclass
class ExpertFiles:
    """How the files of a network hold its experts.

    Attributes:
        one: flat tensor -> its parts in the files, one per expert, in their order.
        all: prefix of flat tensors -> prefix of the stacked tensors in the files.
    """

    one: dict[str, list[str]] = field(default_factory=dict)
    all: dict[str, str] = field(default_factory=dict)

    @property
    def stored(self) -> list[str]:
        """Tensors of the files that hold experts."""
        stacks = [prefix + each for prefix in self.all.values() for each in STACKED]
        return [*stacks, *(name for names in self.one.values() for name in names)]

    @property
    def made(self) -> list[str]:
        """Flat tensors."""
        return [*self.one, *(prefix + part for prefix in self.all for part in PARTS)]

    def flat(self, state: State) -> FlatState:
        """A network as stored, with experts as matrices."""
        return FlatState(self, state)

    def files(self, state: State, shapes: Mapping[str, TensorInfo]) -> FileState:
        """A network with experts as matrices, under the names of the files.

        Args:
            state: merged.
            shapes: of the files.
        """
        return FileState(self, state, shapes)


def expert_files(tensors: Mapping[str, TensorInfo]) -> ExpertFiles:
    """How files hold experts."""
    found, numbered = ExpertFiles(), dict[str, dict[int, str]]()
    for name in tensors:
        if one := ONE.fullmatch(name):
            if one[3] in SPELLED:
                numbered.setdefault(modern(one[1]) + SPELLED[one[3]], {})[int(one[2])] = name
        elif (whole := ALL.fullmatch(name)) and len(tensors[name].shape) == 3:
            found.all[modern(whole[1])] = whole[1]
    found.one = {flat: [names[number] for number in sorted(names)] for flat, names in numbered.items()}
    return found


def axis_of(flat: str) -> int:
    """Along which axis of a flat tensor experts stand."""
    return 1 if flat.endswith(PARTS[2]) else 0


class FlatState(Mapping[str, Tensor]):
    """A stored network whose experts are matrices."""

    def __init__(self, layout: ExpertFiles, state: State) -> None:
        hidden = set(layout.stored)
        self.layout, self.state = layout, state
        self.names = [*(name for name in state if name not in hidden), *layout.made]
        self.last: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name in self.state:
            return self.state[name]
        if name not in self.last:
            self.last = self._made(name)
        return self.last[name]

    def _made(self, name: str) -> dict[str, Tensor]:
        if name in self.layout.one:
            return {name: torch.cat([self.state[each] for each in self.layout.one[name]], dim=axis_of(name))}
        prefix = next((each for each in self.layout.all if name.startswith(each)), None)
        if prefix is None:
            raise KeyError(name)
        files = self.layout.all[prefix]
        parts = unstacked(self.state[f"{files}gate_up_proj"], self.state[f"{files}down_proj"])
        return {prefix + part: value for part, value in parts.items()}

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class FileState(Mapping[str, Tensor]):
    """A merged network as files hold it; its flat matrices are computed once for all experts of a layer."""

    def __init__(self, layout: ExpertFiles, state: State, shapes: Mapping[str, TensorInfo]) -> None:
        made = set(layout.made)
        self.layout, self.state = layout, state
        self.place = {file: (flat, at) for flat, files in layout.one.items() for at, file in enumerate(files)}
        self.prefix = {
            files + key: prefix for prefix, files in layout.all.items() for key in ("gate_up_proj", "down_proj")
        }
        self.names = [*(name for name in state if name not in made), *layout.stored]
        self.shapes = shapes
        self.layer, self.last = "", dict[str, Tensor]()

    def _flat(self, name: str) -> Tensor:
        layer = name.rpartition("experts.")[0]
        if layer != self.layer:
            self.layer, self.last = layer, {}
        if name not in self.last:
            self.last[name] = self.state[name]
        return self.last[name]

    def __getitem__(self, name: str) -> Tensor:
        if name in self.place:
            flat, at = self.place[name]
            return self._flat(flat).chunk(len(self.layout.one[flat]), dim=axis_of(flat))[at]
        if name in self.prefix:
            prefix = self.prefix[name]
            parts = {part: self._flat(prefix + part) for part in PARTS}
            return stacked(parts, self.shapes[name].shape[0])[name.rpartition(".")[2]]
        return self.state[name]

    def pieces(self, name: str) -> Iterator[Tensor]:
        """Rows of one tensor."""
        if name in self.place or name in self.prefix:
            yield self[name]
        else:
            yield from pieces_of(self.state, name)

    def stated(self, name: str) -> Tensor | None:
        """Shape and number type of a tensor of experts, without its entries; None for other tensors."""
        if name not in self.place and name not in self.prefix:
            return None
        flat = self.place[name][0] if name in self.place else self.prefix[name] + PARTS[0]
        return torch.empty(self.shapes[name].shape, dtype=type_of(self.state, flat), device="meta")

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)
