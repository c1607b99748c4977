"""Disentangled attention-only transformer: `Transformer(Layout.variant("no_mask", n=10)).forward(weights, x)`.

One residual stream is h = [content, position], position one-hot, and every layer appends what its heads read:
h <- [h, softmax(mask(h A h^T)) h] for each head, so the width grows by the factor 1 + heads per layer; the output is
the chosen n rows times a matrix W (arXiv 2509.24125, architecture).

How it is made fast. The one-hot block I_T is kept as the *last* block of the stream and never stored: with h = [Z, I],
    h A   = Z A_Z + A_I,        h A h^T = (h A)_Z Z^T + (h A)_I,        softmax(.) h = [S Z, S],
so multiplying by the identity becomes the additive term of `baddbmm`, and the mask is added once to the (T, T) block of
A_I instead of to every example. The last layer computes queries for the n rows that are read only, and multiplies its
values by W before averaging them, so its stream (the widest) never exists. Several seeds are one leading dimension.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from permlab.errors import check_range
from permlab.probes.layout import Layout
from permlab.probes.network import Edit

Block = tuple[str, slice]


@dataclass(frozen=True)
class Transformer:
    """Shapes of a disentangled transformer and its forward pass; the weights live in one flat (seeds, size) tensor.

    Weights of a seed, in order: for every layer A of shape (width, heads, width), whose entry [a, h, b] multiplies
    query coordinate a with key coordinate b in head h; then W of shape (final width, n).

    Raises:
        UserError: depth or heads below 1.
    """

    layout: Layout
    depth: int = 2
    heads: int = 1

    def __post_init__(self) -> None:
        check_range("depth", self.depth, low=1)
        check_range("heads", self.heads, low=1)

    def width(self, layer: int) -> int:
        """Width of the stream that enters layer `layer` (0-based); `width(depth)` is the width that W reads."""
        return int((1 + self.heads) ** layer) * (self.layout.n + self.layout.length)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the matrices in the flat weights of a seed."""
        attention = [(self.width(k), self.heads, self.width(k)) for k in range(self.depth)]
        return [*attention, (self.width(self.depth), self.layout.n)]

    @property
    def size(self) -> int:
        """Number of weights of one seed."""
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def init_std(self) -> float:
        """Spread of initial weights: 0.02 under a causal mask, 0.2 without one (`table.MASKS`).

        Without a mask both solutions (see `mechanism`) are open to every row, and from nearly equal weights some rows
        start on one and some on the other and stay unsolved; a wide start settles it. Under a causal mask the wide
        start keeps the network on the plateau. At n = 10 (batch 128, rate 0.1, no decay, 12 seeds) a wide start solved
        12 and a narrow one 8 without a mask; with scratch rows 0.1 solved 4 and 0.02 solved 11.
        """
        return self.layout.masking.init_std

    @property
    def rate(self) -> float:
        """Learning rate, as a share of `recipes.default_learning_rate`."""
        return 1.0

    def initial(self, seeds: list[int], std: float = 0.02) -> Tensor:
        """Draw normal weights; row k of the (len(seeds), size) result depends on seeds[k] only."""
        rows = [torch.randn(self.size, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.stack(rows) * std

    def unpack(self, flat: Tensor) -> list[Tensor]:
        """Return views of (seeds, size) weights, each of shape (seeds, *shape)."""
        parts = torch.split(flat, [math.prod(shape) for shape in self.shapes], dim=1)
        return [part.view(flat.shape[0], *shape) for part, shape in zip(parts, self.shapes)]

    def blocks(self, layer: int) -> list[Block]:
        """Name the blocks of the stream that enters `layer`: `X`, `I`, and `A1 X`, `A1`, `A2 A1 X` ... (heads `A1.2`).

        The identity comes last; `A1` alone is the position part copied by layer 1, which is its attention matrix.
        """
        names = ["X"]
        for depth in range(1, layer + 1):
            heads = [f"A{depth}" if self.heads == 1 else f"A{depth}.{head + 1}" for head in range(self.heads)]
            names += [label for head in heads for label in ([f"{head} {name}" for name in names] + [head])]
        blocks, start = [], 0
        for name in [*names, "I"]:
            size = self.layout.n if name.endswith("X") else self.layout.length
            blocks.append((name, slice(start, start + size)))
            start += size
        return blocks

    def forward(
        self, weights: list[Tensor], x: Tensor, maps: list[Tensor] | None = None, edit: Edit | None = None
    ) -> Tensor:
        """Run the network.

        Args:
            weights: as returned by `unpack`, for s seeds.
            x: (s, batch, T, n).
            maps: when given, receives the attention of every layer, (s, batch, heads, rows, T); rows is T, and n in
                the last layer.
            edit: replaces the attention of every layer but the last, for ablations.

        Returns:
            The output rows, (s, batch, n, n).
        """
        lay, seeds, batch = self.layout, x.shape[0], x.shape[1]
        masked = torch.zeros(lay.length, lay.length, dtype=x.dtype, device=x.device)
        masked.masked_fill_(~lay.visible().to(x.device), float("-inf"))
        z = x  # the content part of the stream h = [Z, I]
        for a in weights[:-2]:
            attention = self._attention(a, z, z, masked)
            if edit is not None:
                attention = edit(attention)
            if maps is not None:
                maps.append(attention)
            # h <- [h, S h] with S h = [S Z, S]: what a layer copies is appended, never added (disentangled stream)
            copied = torch.matmul(attention, z.unsqueeze(2))
            new = torch.cat([copied, attention], dim=-1)
            z = torch.cat([z, new.transpose(2, 3).reshape(seeds, batch, lay.length, -1)], dim=-1)
        rows = lay.output_rows
        read = z[:, :, rows]
        attention = self._attention(weights[-2], read, z, masked[rows], rows)
        if maps is not None:
            maps.append(attention)
        return self._readout(weights[-1], read, z, attention)

    def _attention(self, a: Tensor, zq: Tensor, z: Tensor, masked: Tensor, rows: slice = slice(None)) -> Tensor:
        """Softmax over the visible rows of the scores (h A h^T): (seeds, batch, heads, query rows, T)."""
        seeds, batch, queries, dz = zq.shape
        length, width = self.layout.length, a.shape[1]
        constant = torch.cat([a[:, dz:, :, :dz], a[:, dz:, :, dz:] + _by_column(masked, rows, length)], dim=-1)
        # h A = Z A_Z + A_I: the rows of A that meet the one-hot positions are a constant of the batch.
        query = torch.bmm(zq.reshape(seeds, batch * queries, dz), a[:, :dz].reshape(seeds, dz, -1))
        query = query.view(seeds, batch, queries, self.heads, width) + constant[:, rows].unsqueeze(1)
        query = query.transpose(2, 3).reshape(seeds * batch * self.heads, queries, width)
        keys = z.unsqueeze(2).expand(-1, -1, self.heads, -1, -1).reshape(-1, length, dz)
        # h A h^T = (h A)_Z Z^T + (h A)_I, the mask already inside the second term
        scores = torch.baddbmm(query[..., dz:], query[..., :dz], keys.transpose(1, 2))
        # No division by the root of the width: the architecture has one matrix A per head, which holds any scale.
        return scores.softmax(-1).view(seeds, batch, self.heads, queries, length)

    def _readout(self, w: Tensor, read: Tensor, z: Tensor, attention: Tensor) -> Tensor:
        """Multiply [h, S h ...] by W without forming it; h of the read rows only."""
        lay, dz = self.layout, z.shape[-1]
        seeds, batch = z.shape[:2]
        width = dz + lay.length
        # W's rows follow the stream with the identity last: Z, then per head (S Z, S), then I.
        own = torch.cat([w[:, :dz], w[:, -lay.length :]], dim=1)
        rows = lay.output_rows
        out = read @ own[:, None, :dz] + own[:, None, dz:][:, :, rows]
        per_head = w[:, dz : dz + self.heads * width].view(seeds, self.heads, width, lay.n)
        flat = z.reshape(seeds, batch * lay.length, dz)
        for head in range(self.heads):
            values = torch.bmm(flat, per_head[:, head, :dz]).view(seeds, batch, lay.length, lay.n)
            out = out + attention[:, :, head] @ (values + per_head[:, None, head, dz:])
        return out

    def memory_bytes(self, seeds: int, batch: int) -> int:
        """Estimate the peak of a training step in bytes: activations kept for the backward pass, weights and moments.

        Float32. The activations of a middle layer are the queries, scores, probabilities and the new stream; a
        gradient replaces its activation as the backward pass goes, so each counts once (a quarter too many).
        """
        length, floats = self.layout.length, 0
        for layer in range(self.depth):
            last = layer == self.depth - 1
            rows = self.layout.n if last else length
            floats += self.heads * rows * (2 * self.width(layer) + 2 * length)
            floats += self.heads * length * self.width(layer) if self.heads > 1 else 0
            floats += 2 * length * (self.layout.n * self.heads if last else self.width(layer + 1))
        return 4 * (seeds * batch * floats + 5 * seeds * self.size)


def _by_column(masked: Tensor, rows: slice, length: int) -> Tensor:
    """Bring the (rows, T) additive mask to the shape (T, 1, T) of the constant part; rows that are not read get 0."""
    if masked.shape[0] == length:
        return masked.unsqueeze(1)
    full = masked.new_zeros(length, length)
    full[rows] = masked
    return full.unsqueeze(1)
