"""Merging entry by entry, in the entries of the updates or in those of A and B: `in_updates(updates, [1, 1], ...)`.

TIES and DARE are defined on single entries. In "delta" space these are the entries of the (d_out, d_in) updates, which
are built in blocks of rows and cut back to low rank; in "factor" space those of A and of B, as PEFT's ties and dare
types. Both functions take

    updates, weights, rank, seed    as every method does (`table.LoraRow`)
    merge(tensors, weights, cuts)   merges tensors of one shape entry by entry
    cut(tensor)                     what `merge` has to know of a whole tensor first (a threshold), or None

`torch.svd_lowrank` is not used for the cut: it draws from torch's global generator, which the threads that merge
several modules share, so that a merge would depend on their timing; `subspace_svd` is the same algorithm with a
generator of its own (tests/adapters/test_methods.py compares both with the exact decomposition).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from permlab.adapters.factors import Factors
from permlab.adapters.units import singular_form

Cut = Callable[[Tensor], Any]
Merge = Callable[[Sequence[Tensor], Sequence[float], Sequence[Any]], Tensor]

# Dense rows of all updates together that are held at a time, in entries (256 MiB of float32).
_BLOCK_ENTRIES = 1 << 26
# Up to this many rows or columns a dense update is decomposed exactly; above it by subspace iteration.
_EXACT_SVD_SIDE = 1024


def in_updates(
    updates: Sequence[Factors], weights: Sequence[float], rank: int, seed: int, merge: Merge, cut: Cut | None = None
) -> Factors:
    """Merge the entries of the updates, then cut the result to `rank`."""
    blocks = list(_row_blocks(updates))
    cuts: list[Any] = [None] * len(updates)
    if cut is not None:
        # One dense update at a time; the blocks below build the same rows again.
        cuts = [cut(torch.cat([_rows(update, block) for block in blocks])) for update in updates]
    merged = [merge([_rows(update, block) for update in updates], weights, cuts) for block in blocks]
    return factorise(torch.cat(merged), rank, seed)


def in_factors(
    updates: Sequence[Factors], weights: Sequence[float], rank: int, seed: int, merge: Merge, cut: Cut | None = None
) -> Factors:
    """Merge all A and then all B, with PEFT's split of weight * scaling over the two, the sign on A."""
    scales = [weight * update.scaling for update, weight in zip(updates, weights)]
    roots = [abs(scale) ** 0.5 for scale in scales]
    # A negative weight (forgetting a task) survives on one factor; on both it would square away.
    signed = [root if scale >= 0 else -root for root, scale in zip(roots, scales)]

    def merged(halves: list[Tensor], factors: list[float]) -> Tensor:
        return merge(halves, factors, [cut(half) if cut else None for half in halves])

    # A and B apart bring cross terms B_i A_j in: PEFT's reading of TIES and DARE, whose papers work on the updates.
    return Factors(merged([update.a for update in updates], signed), merged([update.b for update in updates], roots))


def factorise(dense: Tensor, rank: int, seed: int) -> Factors:
    """Rank-`rank` factors of a dense update: exact SVD for small matrices, else seeded subspace iteration."""
    rank_here = min(rank, *dense.shape)
    # The exact cost grows with the cube of the shorter side; below the limit it is not worth an approximation.
    if min(dense.shape) <= _EXACT_SVD_SIDE:
        u, s, vt = torch.linalg.svd(dense, full_matrices=False)
    else:
        u, s, vt = subspace_svd(dense, rank_here, seed)
    root = s[:rank_here].sqrt()
    found = Factors((root[:, None] * vt[:rank_here]).contiguous(), (u[:, :rank_here] * root).contiguous())
    return found if rank_here == rank else singular_form(found, rank)


def subspace_svd(dense: Tensor, rank: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Randomised SVD with power iterations (Halko, Martinsson and Tropp 2011, algorithms 4.4 and 5.1).

    Args:
        dense: (rows, columns).
        rank: singular values that must be right; 16 more are carried along (oversampling).
        seed: of the random start.

    Returns:
        u (rows, w), s (w,), vt (w, columns) with w = rank + 16, or the shorter side.
    """
    width = min(rank + 16, *dense.shape)
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(dense @ torch.randn(dense.shape[1], width, generator=generator).to(dense))[0]
    # Entrywise merges have slowly decaying spectra: four iterations, with QR in between against round-off.
    for _ in range(4):
        basis = torch.linalg.qr(dense @ torch.linalg.qr(dense.T @ basis)[0])[0]
    u, s, vt = torch.linalg.svd(basis.T @ dense, full_matrices=False)
    return basis @ u, s, vt


def _rows(update: Factors, block: slice) -> Tensor:
    return update.scaling * (update.b[block] @ update.a)


def _row_blocks(updates: Sequence[Factors]) -> Iterator[slice]:
    rows, columns = updates[0].b.shape[0], updates[0].a.shape[1]
    step = max(1, _BLOCK_ENTRIES // (columns * len(updates)))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
