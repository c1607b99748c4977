"""Linear recurrences over a sequence without a step per token: `diagonal_scan(a, b)`, `delta_scan(q, k, v, beta)`.

Shapes end in [..., T, d]; whatever stands before is a batch. Both are exact up to rounding, for any eigenvalues: the
products of a chunk are never divided.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 32
"""Tokens whose products of reflections are solved for at once."""


def diagonal_scan(a: Tensor, b: Tensor) -> Tensor:
    """h_t = a_t * h_{t-1} + b_t with h_0 = 0, entry by entry, in log2(T) sweeps (Hillis and Steele 1986).

    Args:
        a, b: [..., T, d], real or complex.

    Returns:
        h: [..., T, d].
    """
    length, step = a.shape[-2], 1
    while step < length:
        # What ends at t joins what ends `step` before it; nothing stands before the first token.
        joined = b[..., step:, :] + a[..., step:, :] * b[..., :-step, :]
        b = torch.cat([b[..., :step, :], joined], -2)
        if 2 * step < length:
            a = torch.cat([a[..., :step, :], a[..., step:, :] * a[..., :-step, :]], -2)
        step *= 2
    return b


def delta_scan(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, state: Tensor | None = None, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """S_t = S_{t-1} (I - beta_t k_t k_t^T) + beta_t v_t k_t^T and o_t = S_t q_t (the delta rule, chunk by chunk).

    In a chunk that begins with state S, S_t = S + sum_{i <= t} u_i k_i^T, and putting that into the recurrence gives
    (I + tril(diag(beta) K K^T, -1)) U = diag(beta) (V - K S^T): one triangular system for all tokens of the chunk.
    With |k| = 1, I - beta k k^T has the eigenvalue 1 - beta: in [0, 1] for beta <= 1, a reflection at beta = 2.

    Args:
        q, k: [..., T, d].
        v: [..., T, e].
        beta: [..., T].
        state: [..., e, d], before the first token; None is 0.
        chunk: tokens at a time.

    Returns:
        o [..., T, e], and the state behind the last token.
    """
    length, outputs = k.shape[-2], []
    if state is None:
        state = k.new_zeros(*v.shape[:-2], v.shape[-1], k.shape[-1])
    for start in range(0, length, chunk):
        part = slice(start, min(start + chunk, length))
        queries, keys, values = q[..., part, :], k[..., part, :], v[..., part, :]
        rate = beta[..., part, None]
        seen = keys @ keys.transpose(-1, -2)
        system = torch.eye(seen.shape[-1], dtype=seen.dtype, device=seen.device) + (rate * seen).tril(-1)
        wanted = rate * (values - keys @ state.transpose(-1, -2))
        written = torch.linalg.solve_triangular(system, wanted, upper=False, unitriangular=True)
        outputs.append(queries @ state.transpose(-1, -2) + (queries @ keys.transpose(-1, -2)).tril() @ written)
        state = state + written.transpose(-1, -2) @ keys
    return torch.cat(outputs, -2), state
