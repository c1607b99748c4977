"""KnOTS-TIES (arXiv 2410.19735): align the updates in one shared basis, then TIES on their coordinates.

>>> merged = merge_knots(updates, [1.0, 1.0], 16, MergeRule("knots", density=0.2), seed=0)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from permlab.adapters import trimming
from permlab.adapters.factors import Factors
from permlab.adapters.merge_rule import MergeRule
from permlab.adapters.units import singular_form

# Directions with singular values below this are left out, as in the authors' code.
_SMALLEST = 1e-5


def merge_knots(updates: Sequence[Factors], weights: Sequence[float], rank: int, rule: MergeRule, seed: int) -> Factors:
    """[dW_1 .. dW_n] = U S [V_1 .. V_n] (KnOTS): task i is S V_i (N, d_in); these are merged by TIES, then mapped by U.

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
        found = s[keep, None] * (vt[keep, start : start + width] @ rotation.T)
        # KnOTS-TIES trims these aligned coordinates; entries of the raw updates name directions that differ by task.
        coordinates.append(trimming.trim(found, trimming.magnitude_threshold(found, rule.density)))
        start += width
    merged = trimming.elect_and_average(coordinates, weights, rule.sign_method)
    del coordinates
    # Trimming by entries leaves as many directions as all tasks span; Eckart-Young cuts them to the wanted rank.
    return singular_form(Factors(merged, q_b @ u[:, keep]), rank)
