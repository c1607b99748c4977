"""State dicts, and views of them that compute a tensor when it is asked for: `Permuted(spec, state, permutation)`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from permlab.symmetry import Spec, permute_tensor

State = Mapping[str, Tensor]
"""Name -> tensor."""


class Widened(Mapping[str, Tensor]):
    """A state dict in float32 or wider: half precision is converted tensor by tensor, as it is asked for."""

    def __init__(self, state: State) -> None:
        self.state = state

    def __getitem__(self, name: str) -> Tensor:
        value = self.state[name]
        return value.to(torch.promote_types(value.dtype, torch.float32)) if value.is_floating_point() else value

    def __iter__(self) -> Iterator[str]:
        return iter(self.state)

    def __len__(self) -> int:
        return len(self.state)


class Permuted(Mapping[str, Tensor]):
    """A permuted state dict, tensor by tensor as it is asked for: a merge then holds no permuted copy of a network."""

    def __init__(self, spec: Spec, state: State, permutation: Mapping[str, Tensor]) -> None:
        self.spec, self.state, self.permutation = spec, state, permutation

    def __getitem__(self, name: str) -> Tensor:
        return permute_tensor(self.spec, name, self.state[name], self.permutation)

    def __iter__(self) -> Iterator[str]:
        return iter(self.state)

    def __len__(self) -> int:
        return len(self.state)
