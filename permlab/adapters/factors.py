"""Low-rank updates as pairs of factors, and adapters as named collections of them.

>>> adapter = MemoryAdapter("mine", {"q_proj": Factors(torch.randn(8, 64), torch.randn(32, 8), scaling=2.0)})
>>> adapter.load("q_proj").delta().shape
torch.Size([32, 64])
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Factors:
    """One low-rank update delta W = scaling * b @ a of one module.

    `a`: (rank, d_in), `b`: (d_out, rank). Convolutions are flattened: d_in = in_channels * kernel size.
    """

    a: Tensor
    b: Tensor
    scaling: float = 1.0

    @property
    def rank(self) -> int:
        """Number of rank-one units."""
        return self.a.shape[0]

    def folded(self, weight: float = 1.0) -> Factors:
        """The update times `weight`, all scalars split evenly over both factors, the sign on `a` as in PEFT."""
        # LEGO compares units across adapters, so alpha / r must be inside them; else equal updates would cluster apart.
        scale = weight * self.scaling
        root = abs(scale) ** 0.5
        return Factors(self.a * (root if scale >= 0 else -root), self.b * root)

    def delta(self) -> Tensor:
        """The dense update (d_out, d_in); for small modules and tests."""
        return self.scaling * (self.b @ self.a)


@dataclass(frozen=True)
class ModuleInfo:
    """What is known about one adapted module before its tensors are read.

    `kind`: "linear" (also convolutions) or "embedding"; `in_shape`: shape of one row of A, more than one number for a
    convolution; `dtype`: storage type of the tensors.
    """

    rank: int
    in_shape: tuple[int, ...]
    d_out: int
    scaling: float = 1.0
    kind: str = "linear"
    dtype: torch.dtype = torch.float32

    @property
    def d_in(self) -> int:
        """Length of one flattened row of A."""
        size = 1
        for length in self.in_shape:
            size *= length
        return size

    def shape_text(self) -> str:
        """Shape of the base weight, `(out, in)`, for messages."""
        return f"({', '.join(str(length) for length in (self.d_out, *self.in_shape))})"


class AdapterSource(Protocol):
    """Anything that can be merged: a folder on disk (`files.Adapter`) or tensors in memory (`MemoryAdapter`)."""

    @property
    def name(self) -> str:
        """For messages and tables."""
        ...

    @property
    def modules(self) -> Mapping[str, ModuleInfo]:
        """Shapes and ranks by module path."""
        ...

    def load(self, module: str) -> Factors:
        """Factors of one module, float32, a flattened to (rank, d_in)."""
        ...


@dataclass
class MemoryAdapter:
    """An adapter held in memory: the result of a merge, or made of random tensors for a test."""

    name: str
    tensors: dict[str, Factors]
    info: dict[str, ModuleInfo] = field(default_factory=dict)

    @property
    def modules(self) -> dict[str, ModuleInfo]:
        """Shapes and ranks by module path."""
        return {
            name: self.info.get(name) or ModuleInfo(f.rank, (f.a.shape[1],), f.b.shape[0], f.scaling)
            for name, f in self.tensors.items()
        }

    def load(self, module: str) -> Factors:
        """Factors of one module."""
        return self.tensors[module]


def concatenate(parts: Iterable[Factors]) -> Factors:
    """Stack updates along the rank: the product of the result is exactly the sum of the products."""
    # LoRA-LEGO: the minimal semantic units of several LoRAs side by side give exactly the sum of their outputs.
    folded = [part.folded() for part in parts]
    return Factors(torch.cat([part.a for part in folded]), torch.cat([part.b for part in folded], dim=1))


def inner(left: Factors, right: Factors) -> float:
    """Frobenius inner product of two updates, from the factors: sum of (a_l a_r^T) * (b_l^T b_r)."""
    # Two r x r matrices instead of d_out x d_in; float64, because nearly equal updates cancel in the difference.
    value = ((left.a.double() @ right.a.double().T) * (left.b.double().T @ right.b.double())).sum()
    return float(value) * left.scaling * right.scaling


def norm(update: Factors) -> float:
    """Frobenius norm of an update, from its factors."""
    # Round-off can push the square of an update that cancels just below zero.
    return math.sqrt(max(inner(update, update), 0.0))


def relative_difference(left: Factors, right: Factors) -> float:
    """|delta_l - delta_r| / |delta_r|, in the Frobenius norm, without a dense product."""
    gap = concatenate([left, Factors(right.a, right.b, -right.scaling)])
    return norm(gap) / max(norm(right), 1e-30)


def random_adapter(
    name: str, shapes: Mapping[str, tuple[int, int]], rank: int, seed: int, alpha: float | None = None
) -> MemoryAdapter:
    """An adapter of Gaussian factors, entries of standard deviation 1/sqrt(d_in) in A and 1/sqrt(rank) in B.

    Args:
        name: its name.
        shapes: (d_out, d_in) by module path.
        rank: rank of every module.
        seed: seed of the draw.
        alpha: lora_alpha; the rank when None, so that the scaling is 1.
    """
    generator = torch.Generator().manual_seed(seed)
    scaling = (alpha if alpha is not None else rank) / rank

    def draw(rows: int, columns: int, variance: float) -> Tensor:
        return torch.randn(rows, columns, generator=generator) / math.sqrt(variance)

    tensors: dict[str, Factors] = {}
    for module, (d_out, d_in) in shapes.items():
        # B is drawn as well (a fresh LoRA has B = 0): a zero update would satisfy every identity of a merge.
        tensors[module] = Factors(draw(rank, d_in, d_in), draw(d_out, rank, rank), scaling)
    return MemoryAdapter(name, tensors)
