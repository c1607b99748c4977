"""How a sequence model carries something along: linear recurrences, gated ones, attention; all keep [S, B, T, d].

Each has one question of the theory: which eigenvalues may a step of the state have (arXiv 2411.12537), how many
reflections is it made of (arXiv 2502.10297), or is there no state at all (attention, arXiv 2404.08819)?
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from permlab.state_tracking.modules import Layer, Linear, Norm
from permlab.state_tracking.scans import delta_scan, diagonal_scan

HEAD = 8
"""Entries of a head's keys, and of the state of the dense recurrence."""


class Diagonal(Layer):
    """h_t = a(x_t) * h_{t-1} + b(x_t), entry by entry.

    Args:
        eigenvalues: "positive" in (0, 1), "signed" in (-1, 1), "complex" in the unit disc.
    """

    def __init__(self, seeds: Sequence[int], name: str, width: int, eigenvalues: str) -> None:
        super().__init__()
        self.eigenvalues = eigenvalues
        parts = 2 if eigenvalues == "complex" else 1
        # Begins with a memory of some ten tokens.
        self.size = Linear(seeds, f"{name}.size", width, width, bias=2.0)
        self.angle = Linear(seeds, f"{name}.angle", width, width) if parts == 2 else None
        self.write = Linear(seeds, f"{name}.write", width, parts * width)
        self.read = Linear(seeds, f"{name}.read", parts * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Mix."""
        size, write = self.size(x), self.write(x)
        if self.angle is not None:
            factors = torch.polar(size.sigmoid(), math.pi * self.angle(x))
            state = diagonal_scan(factors, torch.complex(*write.chunk(2, -1)))
            return self.read(torch.cat([state.real, state.imag], -1))
        factors = size.sigmoid() if self.eigenvalues == "positive" else size.tanh()
        return self.read(diagonal_scan(factors, write))


class Delta(Layer):
    """The delta rule with matrix states, `products` reflections a token (DeltaNet, DeltaProduct).

    Args:
        most: beta lies in (0, most): a step has the eigenvalue 1 - beta, in (0, 1) for 1 and in (-1, 1) for 2.
        products: micro steps a token, each with a key, a value and a beta of its own.
    """

    def __init__(self, seeds: Sequence[int], name: str, width: int, most: float, products: int = 1) -> None:
        super().__init__()
        self.most, self.products, self.heads = most, products, max(1, width // HEAD)
        inner = self.heads * HEAD
        self.keys = Linear(seeds, f"{name}.keys", width, products * inner)
        self.values = Linear(seeds, f"{name}.values", width, products * inner)
        self.rates = Linear(seeds, f"{name}.rates", width, products * self.heads)
        self.queries = Linear(seeds, f"{name}.queries", width, inner)
        self.norm = Norm(seeds, inner)
        self.read = Linear(seeds, f"{name}.read", inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """Mix."""
        length, steps = x.shape[2], self.products

        def by_head(flat: Tensor) -> Tensor:  # [S, B, T, steps * heads * e] -> [S, B, heads, T * steps, e]
            parts: Tensor = flat.unflatten(-1, (steps, self.heads, -1))
            return parts.permute(0, 1, 4, 2, 3, 5).flatten(3, 4)

        keys = nn.functional.normalize(by_head(self.keys(x)), dim=-1)
        rates = self.most * by_head(self.rates(x)).sigmoid()[..., 0]
        # Read behind the last micro step of a token only; the queries of the others are not asked for.
        queries = nn.functional.normalize(self.queries(x).unflatten(-1, (self.heads, HEAD)), dim=-1).transpose(2, 3)
        asked = queries.new_zeros(keys.shape).unflatten(3, (length, steps))
        asked = torch.cat([asked[..., :-1, :], queries[..., None, :]], -2).flatten(3, 4)
        made, _ = delta_scan(asked, keys, by_head(self.values(x)), rates)
        last = made.unflatten(3, (length, steps))[..., -1, :]
        return self.read(self.norm(last.transpose(2, 3).flatten(-2)))


class Dense(Layer):
    """h_t = Q(x_t) h_{t-1} + b(x_t) with an orthogonal Q (Cayley's map of a skew matrix): the upper control."""

    def __init__(self, seeds: Sequence[int], name: str, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // HEAD)
        self.skew = Linear(seeds, f"{name}.skew", width, self.heads * HEAD * HEAD)
        self.write = Linear(seeds, f"{name}.write", width, self.heads * HEAD)
        self.norm = Norm(seeds, self.heads * HEAD)
        self.read = Linear(seeds, f"{name}.read", self.heads * HEAD, width)

    def forward(self, x: Tensor) -> Tensor:
        """Mix."""
        drawn = self.skew(x).unflatten(-1, (self.heads, HEAD, HEAD))
        skew = drawn - drawn.transpose(-1, -2)
        eye = torch.eye(HEAD, dtype=x.dtype, device=x.device)
        turns = torch.linalg.solve(eye + skew, eye - skew)
        write = self.write(x).unflatten(-1, (self.heads, HEAD))
        state, found = torch.zeros_like(write[:, :, 0]), []
        for t in range(x.shape[2]):
            state = (turns[:, :, t] @ state[..., None])[..., 0] + write[:, :, t]
            found.append(state)
        return self.read(self.norm(torch.stack(found, 2).flatten(-2)))


class Gated(Layer):
    """LSTM (Hochreiter and Schmidhuber 1997) or GRU (arXiv 1406.1078): the state decides about its own change."""

    def __init__(self, seeds: Sequence[int], name: str, width: int, kind: str) -> None:
        super().__init__()
        self.kind, gates = kind, 4 if kind == "lstm" else 3
        self.inputs = Linear(seeds, f"{name}.inputs", width, gates * width)
        self.states = Linear(seeds, f"{name}.states", width, gates * width)
        self.read = Linear(seeds, f"{name}.read", width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Mix."""
        inputs = self.inputs(x)
        state, cell, found = torch.zeros_like(x[:, :, :1]), torch.zeros_like(x[:, :, :1]), []
        for t in range(x.shape[2]):
            read, held = inputs[:, :, t : t + 1], self.states(state)
            if self.kind == "lstm":
                enter, forget, leave, new = (read + held).chunk(4, -1)
                cell = (forget + 1).sigmoid() * cell + enter.sigmoid() * new.tanh()
                state = leave.sigmoid() * cell.tanh()
            else:
                (keep, reset, new), (keep_, reset_, new_) = read.chunk(3, -1), held.chunk(3, -1)
                gate = (keep + keep_).sigmoid()
                state = gate * state + (1 - gate) * (new + (reset + reset_).sigmoid() * new_).tanh()
            found.append(state)
        return self.read(torch.cat(found, 2))


class Attention(Layer):
    """Causal softmax attention; positions, where there are any, turn keys and queries (rotary, arXiv 2104.09864)."""

    def __init__(self, seeds: Sequence[int], name: str, width: int, rotary: bool) -> None:
        super().__init__()
        self.rotary, self.heads = rotary, max(1, width // (2 * HEAD))
        self.inputs = Linear(seeds, f"{name}.inputs", width, 3 * width)
        self.read = Linear(seeds, f"{name}.read", width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Mix."""
        queries, keys, values = (
            part.unflatten(-1, (self.heads, -1)).transpose(2, 3) for part in self.inputs(x).chunk(3, -1)
        )
        if self.rotary:
            queries, keys = turned(queries), turned(keys)
        made = nn.functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        return self.read(made.transpose(2, 3).flatten(-2))


def turned(x: Tensor) -> Tensor:
    """Pairs of entries turned by the position, each pair at a speed of its own: [..., T, e]."""
    half = x.shape[-1] // 2
    speeds = 10000.0 ** (-torch.arange(half, device=x.device) / half)
    angles = torch.arange(x.shape[-2], device=x.device)[:, None] * speeds
    first, second = x.chunk(2, -1)
    return torch.cat([first * angles.cos() - second * angles.sin(), first * angles.sin() + second * angles.cos()], -1)
