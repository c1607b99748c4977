"""Rank-one units ("minimal semantic units" of LoRA-LEGO, arXiv 2409.16167) and their gauge.

Unit i of an update B A is the pair (row i of A, column i of B). (c a, b / c) is the same rank-one update for every
c != 0, c = -1 included, and rotating the rank space leaves B A unchanged as well, but k-means sees other points. A
gauge picks one representative.

>>> pool = pool_units([first.load("q_proj"), second.load("q_proj")], weights=[1.0, 1.0], gauge="balanced")
>>> pool.a.shape, pool.b.shape, pool.owner
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from permlab.adapters.factors import Factors
from permlab.adapters.table import GAUGES


@dataclass(frozen=True)
class Pool:
    """All units of one module: `a` (n, d_in), `b` (n, d_out), `owner` (n,): which adapter a unit came from.

    Scalings and weights are folded in, so the sum of all outer products b_i a_i^T is the weighted sum of the updates.
    `ranks`: rank of every adapter that has the module.
    """

    a: Tensor
    b: Tensor
    owner: Tensor
    ranks: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of units."""
        return self.a.shape[0]


def pool_units(updates: Sequence[Factors], weights: Sequence[float], gauge: str = "none") -> Pool:
    """Collect the units of several updates of one module, in an order that does not depend on the adapters' order.

    Args:
        updates: one update per adapter.
        weights: one factor per adapter, folded in.
        gauge: a name of `table.GAUGES`: "none" keeps the units as stored (scaling split evenly); "balanced" scales each
            to |a| = |b| and makes the largest entry of a positive; "svd" first rewrites each update in its own singular
            basis.

    Raises:
        UserError: an unknown gauge.
    """
    fix = GAUGES[gauge].load()
    # Scalars first, gauge second: a balanced unit has to be balanced with its share of alpha / r in it.
    parts = [fix(update.folded(weight)) for update, weight in zip(updates, weights)]
    a = torch.cat([part.a for part in parts])
    b = torch.cat([part.b.T for part in parts])
    owner = torch.cat([torch.full((part.rank,), i, dtype=torch.long) for i, part in enumerate(parts)]).to(a.device)
    # k-means++ draws by position, so a merge can ignore the order of adapters and ranks only after one is fixed.
    order = canonical_order(a, b)
    return Pool(a[order], b[order], owner[order], tuple(part.rank for part in parts))


def as_stored(update: Factors) -> Factors:
    """The factors as they are: the minimal semantic units of LoRA-LEGO."""
    # Closest to the paper: its permutation invariance covers the order of ranks, not their signs and scales.
    return update


def balanced_form(update: Factors) -> Factors:
    """The same rank-one updates with |a_i| = |b_i| and a positive largest entry of a_i: blind to scale and sign."""
    a, b = positive_sign(*balanced(update.a, update.b.T))
    return Factors(a, b.T, update.scaling)


def balanced_singular_form(update: Factors) -> Factors:
    """The singular basis with its signs fixed: blind to every rotation of the rank space too."""
    return balanced_form(singular_form(update))


def balanced(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Scale every unit to |a_i| = |b_i|, keeping b_i a_i^T; a unit whose product is zero becomes zero on both sides."""
    norm_a, norm_b = (torch.linalg.vector_norm(half, dim=1, keepdim=True) for half in (a, b))
    alive = (norm_a > 0) & (norm_b > 0)
    # c = sqrt(|b| / |a|) in the gauge (c a, b / c), the only c > 0 with equal halves.
    target = torch.sqrt(norm_a * norm_b)
    scale_a = torch.where(alive, target / norm_a, torch.zeros_like(norm_a))
    scale_b = torch.where(alive, target / norm_b, torch.zeros_like(norm_b))
    return a * scale_a, b * scale_b


def positive_sign(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Flip both halves of a unit where the largest-magnitude entry of a is negative."""
    # Exact copies agree on this sign; similar units may still flip, for which `sign_invariant` clusters up to sign.
    largest = a.gather(1, a.abs().argmax(dim=1, keepdim=True))
    sign = torch.where(largest < 0, -1.0, 1.0).to(a.dtype)
    return a * sign, b * sign


def singular_form(update: Factors, rank: int | None = None) -> Factors:
    """The update in its singular basis, strongest unit first: a = sqrt(S) V^T, b = U sqrt(S).

    From the QR factors of both sides, so no (d_out, d_in) matrix is formed. Unique up to signs where the singular
    values differ, hence blind to every rotation of the rank space. With `rank` below the update's own it is the best
    approximation of that rank; ranks beyond the shorter side of the matrix are zero units.
    """
    wanted = update.rank if rank is None else rank
    q_b, r_b = torch.linalg.qr(update.b * update.scaling)
    q_a, r_a = torch.linalg.qr(update.a.T)
    # Both Q have orthonormal columns, so this r x r core has the singular values of the whole update.
    u, s, vt = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    # Split evenly, so that the singular basis is in the balanced gauge as well.
    root = s[:wanted].sqrt()
    a, b = root[:, None] * (vt[:wanted] @ q_a.T), (q_b @ u[:, :wanted]) * root
    lacking = wanted - a.shape[0]
    if lacking > 0:
        a = torch.cat([a, a.new_zeros(lacking, a.shape[1])])
        b = torch.cat([b, b.new_zeros(b.shape[0], lacking)], dim=1)
    return Factors(a.contiguous(), b.contiguous())


def canonical_order(a: Tensor, b: Tensor) -> Tensor:
    """Order of the units by strength |a_i| |b_i|, strongest first; equal strengths by the bytes of the unit.

    Strength does not change with sign or scale, so pools that differ by the gauge only are visited in the same order.
    """
    strength = (torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)).cpu().numpy()
    order = np.argsort(-strength, kind="stable")
    # Copies of an adapter tie exactly, and a stable sort would then give away the order of the adapters.
    if np.any(np.diff(strength[order]) == 0):
        rows_a, rows_b = a.cpu().numpy(), b.cpu().numpy()
        order = np.array(sorted(order, key=lambda i: (-strength[i], rows_a[i].tobytes(), rows_b[i].tobytes())))
    return torch.as_tensor(order, device=a.device)
