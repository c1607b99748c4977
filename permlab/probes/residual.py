"""An ordinary transformer for the same problem: `Residual(Layout.variant("scratch", n=4), depth=3, heads=2, mlp=True)`.

The disentangled network appends what its heads read, so its width grows by the factor 1 + heads per layer, and six
layers with four heads are out of reach. This one adds: the width stays, rows are normalised before each block (RMS),
with or without a feed-forward block (GELU), with learned, rotary (Su et al. 2021) or no positions. The impossibility
theorem (arXiv 2509.24125) and the floors of `floors` follow from the mask alone, so they hold for it at any depth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from permlab.errors import UserError, check_range
from permlab.probes.layout import Layout
from permlab.probes.network import Edit
from permlab.probes.table import ENCODINGS


@dataclass(frozen=True)
class Residual:
    """Shapes of a residual transformer and its forward pass; the weights live in one flat (seeds, size) tensor.

    Raises:
        UserError: depth, heads or width out of range, a width that the heads do not divide into even parts (rotary
            positions turn pairs), an unknown kind of positions.
    """

    layout: Layout
    depth: int = 2
    heads: int = 1
    mlp: bool = True
    positions: str = "learned"
    width: int = 32

    def __post_init__(self) -> None:
        ENCODINGS.check("positions", self.positions)
        for name in ("depth", "heads", "width"):
            check_range(name, getattr(self, name), low=1)
        if self.width % (2 * self.heads):
            raise UserError(
                f"width={self.width} must be a multiple of 2 x heads ({2 * self.heads}): rotary positions turn pairs"
            )

    @property
    def init_std(self) -> float:
        """Spread of initial weights, in units of 1 / sqrt(rows of a matrix)."""
        return 1.0

    @property
    def rate(self) -> float:
        """Learning rate, as a share of the disentangled network's (`recipes.default_learning_rate`)."""
        return 0.06

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Shapes of the matrices of a seed: content, positions, per layer qkv, out (and feed-forward), readout."""
        d, n = self.width, self.layout.n
        layer = [(d, 3 * d), (d, d), *([(d, 2 * d), (2 * d, d)] if self.mlp else [])]
        positions = [(self.layout.length, d)] if ENCODINGS[self.positions].learned else []
        return [(n, d), *positions, *layer * self.depth, (d, n), (1, n)]

    @property
    def size(self) -> int:
        """Number of weights of one seed."""
        return sum(math.prod(shape) for shape in self.shapes)

    def initial(self, seeds: list[int], std: float) -> Tensor:
        """Draw normal weights of variance std^2 / rows; row k of the (len(seeds), size) result is of seeds[k] only."""
        rows = []
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            parts = [torch.randn(shape, generator=generator) * std / math.sqrt(shape[0]) for shape in self.shapes]
            parts[-1].zero_()  # what every output row starts from
            rows.append(torch.cat([part.flatten() for part in parts]))
        return torch.stack(rows)

    def unpack(self, flat: Tensor) -> list[Tensor]:
        """Return views of (seeds, size) weights, each of shape (seeds, *shape)."""
        parts = torch.split(flat, [math.prod(shape) for shape in self.shapes], dim=1)
        return [part.view(flat.shape[0], *shape) for part, shape in zip(parts, self.shapes)]

    def forward(
        self, weights: list[Tensor], x: Tensor, maps: list[Tensor] | None = None, edit: Edit | None = None
    ) -> Tensor:
        """Run the network; arguments and result as in `Transformer.forward`."""
        parts, rows = iter(weights), self.layout.output_rows
        masked = torch.zeros(self.layout.length, self.layout.length, dtype=x.dtype, device=x.device)
        masked.masked_fill_(~self.layout.visible().to(x.device), float("-inf"))
        seeds, batch, length, _ = x.shape
        h = torch.bmm(x.reshape(seeds, batch * length, -1), next(parts)).view(seeds, batch, length, -1)
        if ENCODINGS[self.positions].learned:
            # The rows of this matrix are positions: each vector has a spread of its own, as wide as the content's.
            h = h + next(parts)[:, None] * math.sqrt(length / self.layout.n)
        for layer in range(self.depth):
            last = layer == self.depth - 1
            attended, attention = self._attend(
                _normal(h), next(parts), masked, rows if last else slice(None), None if last else edit
            )
            if maps is not None:
                maps.append(attention)
            # The last layer is computed for the rows that are read only.
            h = (h[:, :, rows] if last else h) + _times(attended, next(parts))
            if self.mlp:
                h = h + _times(functional.gelu(_times(_normal(h), next(parts))), next(parts))
        return _times(_normal(h), next(parts)) + next(parts)[:, None]

    def _attend(self, h: Tensor, qkv: Tensor, masked: Tensor, rows: slice, edit: Edit | None) -> tuple[Tensor, Tensor]:
        """What the heads read, (seeds, batch, rows, width), and their attention (seeds, batch, heads, rows, T)."""
        seeds, batch, length, width = h.shape
        parts = _times(h, qkv).view(seeds, batch, length, 3, self.heads, width // self.heads).permute(3, 0, 1, 4, 2, 5)
        q, k, v = parts.unbind(0)
        if ENCODINGS[self.positions].rotary:
            q, k = _turned(q), _turned(k)
        scores = q[..., rows, :] @ k.transpose(-1, -2) / math.sqrt(width // self.heads) + masked[rows]
        attention = scores.softmax(-1)
        if edit is not None:
            attention = edit(attention)
        return (attention @ v).transpose(2, 3).reshape(seeds, batch, -1, width), attention

    def memory_bytes(self, seeds: int, batch: int) -> int:
        """Estimate the peak of a training step in bytes: activations kept for the way back, weights and moments."""
        length, d = self.layout.length, self.width
        floats = self.depth * length * (9 * d + (10 * d if self.mlp else 0) + 3 * self.heads * length)
        return 4 * (seeds * batch * floats + 5 * seeds * self.size)


def _times(h: Tensor, matrix: Tensor) -> Tensor:
    """Every seed's rows times its matrix: (seeds, batch, rows, a) and (seeds, a, b)."""
    seeds, batch, rows, _ = h.shape
    return torch.bmm(h.reshape(seeds, batch * rows, -1), matrix).view(seeds, batch, rows, -1)


def _normal(h: Tensor) -> Tensor:
    """Root mean square 1 in every row (Zhang and Sennrich 2019), without a gain: the next matrix has one."""
    return h * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-6)


def _turned(h: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021): pair k of row t turns by t 100^(-2k/d); (..., T, d).

    The base is 100 and not 10000: the sequences have tens of rows.
    """
    length, half = h.shape[-2], h.shape[-1] // 2
    turns = 100.0 ** (-torch.arange(half, dtype=h.dtype, device=h.device) / half)
    angles = torch.arange(length, dtype=h.dtype, device=h.device)[:, None] * turns
    a, b = h[..., :half], h[..., half:]
    return torch.cat([a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos()], -1)
