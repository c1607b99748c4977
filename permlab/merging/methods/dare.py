"""DARE (arXiv 2311.03099): changes since an ancestor lose entries at random, the rest is scaled up, all is added.

merged = dare(base, [a, b], keep=0.5, seed=0)
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from permlab.merging.methods.changes import combine_changes
from permlab.merging.networks.states import State
from permlab.merging.setting import Setting


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
    return combine_changes("dare", base, states, Setting(density=keep, weights=list(weights or []), seed=seed))
