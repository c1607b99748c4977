"""Layers that hold several networks at once: every tensor begins with the network, [S, B, T, d].

Networks of different seeds are trained side by side, in one product per layer; none of them sees another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from permlab.seeding import derived_seed


class Layer(nn.Module):
    """A module of one tensor to one tensor."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return the outputs."""
        made: Tensor = super().__call__(x)
        return made


class Linear(Layer):
    """x @ W + b with weights [S, inner, outer], drawn from a normal distribution of variance 1 / inner.

    Args:
        seeds: of the networks.
        name: what the draws derive from beside the seed, so that a layer does not depend on those before it.
        inner, outer: sizes.
        bias: start of the bias, or None for none.
        scale: of the weights.
    """

    def __init__(
        self, seeds: Sequence[int], name: str, inner: int, outer: int, bias: float | None = 0.0, scale: float = 1.0
    ) -> None:
        super().__init__()
        drawn = [torch.randn(inner, outer, generator=_generator(seed, name)) for seed in seeds]
        self.weight = nn.Parameter(scale / math.sqrt(inner) * torch.stack(drawn))
        self.bias = None if bias is None else nn.Parameter(torch.full((len(seeds), outer), bias))

    def forward(self, x: Tensor) -> Tensor:
        """[S, B, T, inner] -> [S, B, T, outer]."""
        made = (x.flatten(1, -2) @ self.weight).view(*x.shape[:-1], -1)
        return made if self.bias is None else made + self.bias[:, None, None]


class Embedding(Layer):
    """Rows of a table [S, m, d] by symbol."""

    def __init__(self, seeds: Sequence[int], name: str, symbols: int, width: int) -> None:
        super().__init__()
        drawn = [torch.randn(symbols, width, generator=_generator(seed, name)) for seed in seeds]
        self.weight = nn.Parameter(torch.stack(drawn))

    def forward(self, symbols: Tensor) -> Tensor:
        """[S, B, T] -> [S, B, T, d]."""
        flat = symbols.flatten(1)
        picked = self.weight.gather(1, flat[..., None].expand(-1, -1, self.weight.shape[-1]))
        return picked.view(*symbols.shape, -1)


class Norm(Layer):
    """Root-mean-square norm with a gain per network."""

    def __init__(self, seeds: Sequence[int], width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(len(seeds), 1, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return self.gain * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


def _generator(seed: int, name: str) -> torch.Generator:
    return torch.Generator().manual_seed(derived_seed(seed, name) % 2**63)
