"""KnOTS-TIES (arXiv 2410.19735): align the updates in one shared basis, then TIES on their coordinates.

What is trimmed are the smallest coordinates of every module (`trim_scope=module`, as TIES in PEFT counts) or of all
modules together (`trim_scope=model`, as in the authors' code); density=1 trims nothing and elects signs alone.

>>> merged = merge_knots(updates, [1.0, 1.0], 16, MergeRule("knots", density=0.2), seed=0)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from permlab.adapters import trimming
from permlab.adapters.factors import Factors
from permlab.adapters.merge_rule import MergeRule
from permlab.adapters.methods.signatures import Owned
from permlab.adapters.units import singular_form
from permlab.selection import kth_magnitudes

# Directions with singular values below this are left out, as in the authors' code.
_SMALLEST = 1e-5


def merge_knots(
    updates: Sequence[Factors],
    weights: Sequence[float],
    rank: int,
    rule: MergeRule,
    seed: int,
    limits: Sequence[Tensor] | None = None,
) -> Factors:
    """TIES on the coordinates of `aligned`, mapped back by U.

    Args:
        updates, weights, rank, rule, seed: as every method has them.
        limits: smallest magnitude that is kept of each update (`limits_of_model`); default: the largest
            `rule.density` share of the update's own coordinates.
    """
    coordinates, basis = aligned(updates)
    if limits is None:
        limits = [trimming.magnitude_threshold(each, rule.density) for each in coordinates]
    # KnOTS-TIES trims these aligned coordinates; entries of the raw updates name directions that differ by task.
    kept = [trimming.trim(each, limit.to(each)) for each, limit in zip(coordinates, limits)]
    merged = trimming.elect_and_average(kept, weights, rule.sign_method)
    del coordinates, kept
    # Trimming by entries leaves as many directions as all tasks span; Eckart-Young cuts them to the wanted rank.
    return singular_form(Factors(merged, basis), rank)


def aligned(updates: Sequence[Factors]) -> tuple[list[Tensor], Tensor]:
    """[dW_1 .. dW_n] = U S [V_1 .. V_n] (KnOTS): S V_i of every task i (N, d_in), and U (d_out, N).

    Both SVD sides come from small QR factors: QR of the stacked B, QR of every A; no (d_out, n d_in) matrix is formed.
    """
    # KnOTS: one SVD of all updates side by side gives every task the same left basis, in which entries are comparable.
    q_b, r_b = torch.linalg.qr(torch.cat([update.b * update.scaling for update in updates], dim=1))
    rotations, triangles = zip(*(torch.linalg.qr(update.a.T) for update in updates))
    u, s, vt = torch.linalg.svd(r_b @ torch.block_diag(*(triangle.T for triangle in triangles)), full_matrices=False)
    keep = s > _SMALLEST
    coordinates, start = [], 0
    for rotation in rotations:
        width = rotation.shape[1]
        # S V_i = S (V' block of i) Q_i^T, V' being the right vectors of the small matrix.
        coordinates.append(s[keep, None] * (vt[keep, start : start + width] @ rotation.T))
        start += width
    return coordinates, q_b @ u[:, keep]


def limits_of_model(modules: Sequence[Owned], rule: MergeRule) -> list[Tensor]:
    """Per adapter the magnitude that `rule.density` of its coordinates in all modules reach: the authors' trim.

    A module that an adapter changed little may then lose all of its update, where a trim by module keeps a share of
    each. The coordinates are computed anew in every pass, so that those of one module are held at a time.
    """
    count = 1 + max(owner for owners, _ in modules for owner in owners)

    def coordinates() -> Iterator[list[Tensor | None]]:
        for owners, read in modules:
            found: list[Tensor | None] = [None] * count
            for owner, each in zip(owners, aligned(read()[0])[0]):
                found[owner] = each.float()
            yield found

    # Rounded down, as `trimming.magnitude_threshold`.
    return kth_magnitudes(coordinates, lambda entries: int(rule.density * entries))
