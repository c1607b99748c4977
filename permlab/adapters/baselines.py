"""The merge methods LEGO is compared with, one module at a time: linear, cat, svd, TIES, DARE, KnOTS-TIES.

>>> merged = merge_svd([first.load("q_proj"), second.load("q_proj")], weights=[1.0, 1.0], rank=16)

Each takes the updates of one module and one weight per update and returns factors whose scaling is 1. Sums, their
truncation and KnOTS work on the small QR factors; only TIES and DARE in delta space need single entries of the
(d_out, d_in) update, and build it in blocks of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from permlab.adapters import trimming
from permlab.adapters.factors import Factors, concatenate
from permlab.adapters.units import singular_form
from permlab.errors import UserError

# Dense rows of all updates together that delta-space TIES and DARE hold at a time, in entries (256 MiB of float32).
_BLOCK_ENTRIES = 1 << 26
# Up to this many rows or columns a dense update is decomposed exactly; above it by subspace iteration.
_EXACT_SVD_SIDE = 1024


@dataclass(frozen=True)
class TrimRule:
    """`density`: share of entries kept. `space`: "delta" (entries of the update) or "factor" (entries of A and B, as
    PEFT's ties and dare types). `election`: also elect signs in DARE. `sign_method`: see trimming.SIGN_METHODS.
    """

    density: float = 0.2
    space: str = "delta"
    election: bool = False
    sign_method: str = "total"


def merge_linear(updates: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """Sum A and B separately, each with sqrt(weight * scaling), as PEFT's `linear`.

    The product holds the cross terms B_i A_j too: it is not the sum of the updates, and depends on the order of ranks.

    Raises:
        UserError: when ranks differ.
    """
    _same_ranks(updates, "linear")
    parts = [update.folded(weight) for update, weight in zip(updates, weights)]
    a, b = (torch.stack([getattr(part, half) for part in parts]).sum(dim=0) for half in "ab")
    return Factors(a, b)


def merge_cat(updates: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """The exact weighted sum of the updates; its rank is the sum of the ranks."""
    return concatenate(_weighted(updates, weights))


def merge_svd(updates: Sequence[Factors], weights: Sequence[float], rank: int) -> Factors:
    """The best rank-`rank` approximation of the weighted sum (Eckart-Young), from QR factors of the stacked units."""
    return singular_form(merge_cat(updates, weights), rank)


def merge_ties(updates: Sequence[Factors], weights: Sequence[float], rule: TrimRule, rank: int, seed: int) -> Factors:
    """TIES (arXiv 2306.01708) on the updates or on the factors, then truncation to `rank` in delta space."""
    if rule.space == "factor":
        return _per_factor(updates, weights, lambda ts, ws: trimming.merge_ties(ts, ws, rule.density, rule.sign_method))
    limits = [float("inf")] * len(updates)
    size = updates[0].a.shape[1] * updates[0].b.shape[0]
    if int(rule.density * size) >= 1:
        # One dense update at a time; the blocks below recompute the rows with the same products.
        blocks = list(_row_blocks(updates))
        for index, update in enumerate(updates):
            dense = torch.cat([_rows(update, block) for block in blocks])
            limits[index] = trimming.magnitude_threshold(dense, rule.density)
    merged = [
        trimming.elect_and_average(
            [trimming.trim(_rows(u, block), torch.as_tensor(limit)) for u, limit in zip(updates, limits)],
            weights,
            rule.sign_method,
        )
        for block in _row_blocks(updates)
    ]
    return factorise(torch.cat(merged), rank, seed)


def merge_dare(
    updates: Sequence[Factors], weights: Sequence[float], rule: TrimRule, rank: int, generator: torch.Generator
) -> Factors:
    """DARE (arXiv 2311.03099) on the updates or on the factors, then truncation to `rank` in delta space.

    Masks are drawn from `generator` in PEFT's order (adapter by adapter; in factor space all A, then all B), so the
    same seed gives PEFT's masks on a single module that fits in one block.
    """
    election = rule.sign_method if rule.election else None

    def merge(tensors: Sequence[Tensor], scale: Sequence[float]) -> Tensor:
        return trimming.merge_dare(tensors, scale, rule.density, generator, election)

    if rule.space == "factor":
        return _per_factor(updates, weights, merge)
    dense = torch.cat([merge([_rows(u, block) for u in updates], weights) for block in _row_blocks(updates)])
    return factorise(dense, rank, generator.initial_seed())


def merge_knots(updates: Sequence[Factors], weights: Sequence[float], rule: TrimRule, rank: int) -> Factors:
    """KnOTS-TIES (arXiv 2410.19735): align the updates in one shared basis, then TIES on their coordinates.

    [dW_1 .. dW_n] = U S [V_1 .. V_n]; task i is represented by S V_i (N, d_in), merged entry by entry and mapped back
    with U. Both SVD sides come from small QR factors: QR of the stacked B, QR of every A.
    """
    q_b, r_b = torch.linalg.qr(torch.cat([update.b * update.scaling for update in updates], dim=1))
    rotations, triangles = zip(*(torch.linalg.qr(update.a.T) for update in updates))
    u, s, vt = torch.linalg.svd(r_b @ torch.block_diag(*(triangle.T for triangle in triangles)), full_matrices=False)
    keep = s > 1e-5
    coordinates, start = [], 0
    for rotation in rotations:
        width = rotation.shape[1]
        block = vt[keep, start : start + width]
        found = s[keep, None] * (block @ rotation.T)
        coordinates.append(trimming.trim(found, trimming.magnitude_threshold(found, rule.density)))
        start += width
    merged = trimming.elect_and_average(coordinates, weights, rule.sign_method)
    del coordinates
    return singular_form(Factors(merged, q_b @ u[:, keep]), rank)


def factorise(dense: Tensor, rank: int, seed: int) -> Factors:
    """Rank-`rank` factors of a dense update: exact SVD for small matrices, else seeded subspace iteration."""
    rank_here = min(rank, *dense.shape)
    if min(dense.shape) <= _EXACT_SVD_SIDE:
        u, s, vt = torch.linalg.svd(dense, full_matrices=False)
    else:
        u, s, vt = _subspace_svd(dense, rank_here, seed)
    root = s[:rank_here].sqrt()
    found = Factors((root[:, None] * vt[:rank_here]).contiguous(), (u[:, :rank_here] * root).contiguous())
    return found if rank_here == rank else singular_form(found, rank)


def _subspace_svd(dense: Tensor, rank: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Randomised SVD with power iterations (Halko, Martinsson and Tropp 2011, algorithm 4.4)."""
    width = min(rank + 16, *dense.shape)
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(dense @ torch.randn(dense.shape[1], width, generator=generator).to(dense))[0]
    for _ in range(4):
        basis = torch.linalg.qr(dense @ torch.linalg.qr(dense.T @ basis)[0])[0]
    u, s, vt = torch.linalg.svd(basis.T @ dense, full_matrices=False)
    return basis @ u, s, vt


def _weighted(updates: Sequence[Factors], weights: Sequence[float]) -> list[Factors]:
    return [update.folded(weight) for update, weight in zip(updates, weights)]


def _rows(update: Factors, block: slice) -> Tensor:
    return update.scaling * (update.b[block] @ update.a)


def _row_blocks(updates: Sequence[Factors]) -> Iterator[slice]:
    rows, columns = updates[0].b.shape[0], updates[0].a.shape[1]
    step = max(1, _BLOCK_ENTRIES // (columns * len(updates)))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def _per_factor(
    updates: Sequence[Factors], weights: Sequence[float], merge: Callable[[Sequence[Tensor], Sequence[float]], Tensor]
) -> Factors:
    """Apply an entrywise merge to all A and then to all B, with PEFT's split of weight * scaling over the two."""
    _same_ranks(updates, "ties or dare in factor space")
    scales = [weight * update.scaling for update, weight in zip(updates, weights)]
    roots = [abs(scale) ** 0.5 for scale in scales]
    signed = [root if scale >= 0 else -root for root, scale in zip(roots, scales)]
    a = merge([update.a for update in updates], signed)
    b = merge([update.b for update in updates], roots)
    return Factors(a, b)


def _same_ranks(updates: Sequence[Factors], what: str) -> None:
    ranks = [update.rank for update in updates]
    if len(set(ranks)) > 1:
        raise UserError(
            f"{what} adds A and B entry by entry and needs equal ranks, found {ranks}; "
            "use task.method=cat, svd, knots or lego, or task.trim_space=delta"
        )
