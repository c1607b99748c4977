"""Training that has left the finite numbers is stopped: `check_losses([[0.5], [nan]], 7, "lower learning_rate=0.1")`.

Every training loop calls these: with the losses of the steps since the last call, so that a GPU need not be waited for
at each of them, and with the weights before they are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from permlab.errors import DivergedError

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_LOSS = 1e4
"""Losses are nats per token and squared errors of numbers near 1: what starts below 20 and comes here has left."""


def check_losses(
    losses: Sequence[Sequence[float]],
    first_step: int,
    remedy: str,
    *,
    members: Sequence[str] = (),
    step: str = "step",
) -> None:
    """Refuse losses that are NaN, infinite or beyond `LARGEST_LOSS`.

    Args:
        losses: one row per step in a row, of one loss or of one per network.
        first_step: number of the first of them.
        remedy: what to do, with the parameter: `lower learning_rate=0.1`.
        members: what the networks are called (`seed 3`), where several are trained at once.
        step: what a row is.

    Raises:
        DivergedError: naming the first bad step, its loss and whose it is.
    """
    for number, row in enumerate(losses, start=first_step):
        for place, loss in enumerate(row):
            if not abs(loss) < LARGEST_LOSS:  # a NaN fails every comparison
                whose = f" ({members[place]})" if members else ""
                raise DivergedError(f"training diverged: the loss is {loss:.4g} at {step} {number}{whose}", remedy)


def check_weights(weights: Iterable[Tensor], step: int, remedy: str) -> None:
    """Refuse weights that are NaN or infinite: the last step's loss is that of the weights before it.

    Raises:
        DivergedError: naming the step.
    """
    for each in weights:
        if not bool(each.isfinite().all()):
            raise DivergedError(f"training diverged: weights are not finite after step {step}", remedy)
