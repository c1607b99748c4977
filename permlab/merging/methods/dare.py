"""DARE (arXiv 2311.03099): changes since an ancestor lose entries at random, the rest is scaled up, all is added.

merged = dare(base, [a, b], keep=0.5, seed=0)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from permlab.errors import UserError, check_range
from permlab.matching.activation import added
from permlab.merging.networks.states import State
from permlab.merging.setting import Setting
from permlab.merging.streaming import Piece, Pieces, Rule, Streamed, ancestor_of
from permlab.seeding import derived_seed
from permlab.symmetry import Spec

if TYPE_CHECKING:
    from permlab.merging.aligned import Aligned


def dare(
    base: State, states: Sequence[State], *, keep: float, weights: Sequence[float] | None = None, seed: int = 0
) -> dict[str, Tensor]:
    """base + sum_k weight_k * mask_k * (state_k - base) / keep, every entry kept with probability `keep`.

    Args:
        base, states: the common ancestor and K models fine-tuned from it.
        keep: share of entries kept, in (0, 1].
        weights: one per model, 1 each by default.
        seed: every tensor of every model derives its own mask from it.

    Raises:
        UserError: a model differs from the base, or `keep` is out of range.
    """
    setting = Setting(density=keep, weights=list(weights or []), seed=seed, ancestor=base)
    read = Pieces(Spec(groups={}), states, [{} for _ in states], base)
    return dict(Streamed(read, stream_dare(read, setting)))


def stream_dare(read: Pieces, setting: Setting) -> Rule:
    """`dare`, piece by piece: masks are drawn from the first row to the last, so that pieces may be of any size."""
    check_range("density", setting.density, 0, 1)
    if setting.density == 0:
        raise UserError("density=0 would drop every change: give a share above 0, such as 0.2")
    factors = setting.weights or [1.0] * read.count
    drawn: dict[int, torch.Generator] = {}

    def mask(piece: Piece, k: int) -> Tensor:
        if piece.start == 0:
            drawn[k] = torch.Generator().manual_seed(derived_seed(setting.seed, "dare", piece.name, k))
        shape = piece.rows[k].shape
        return (torch.rand(shape, generator=drawn[k]) < setting.density).to(piece.rows[k].device)

    def rule(piece: Piece) -> Tensor:
        assert piece.base is not None
        # Dropped with probability p = 1 - density, rescaled by 1 / (1 - p), which keeps the expectation.
        changes = [factor / setting.density * change for factor, change in zip(factors, piece.changes)]
        return piece.base + added(change * mask(piece, k) for k, change in enumerate(changes))

    return rule


def combine_dare(networks: Aligned, setting: Setting) -> State:
    """`dare` as a row of `COMBINES`."""
    base = ancestor_of(setting)
    return dare(base, networks.original, keep=setting.density, weights=setting.weights or None, seed=setting.seed)
