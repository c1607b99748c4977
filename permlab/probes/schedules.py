"""Learning rates over time, as shares of the largest: `one_cycle(0, 100)` is 1/25.

They are the factors of a `torch.optim.lr_scheduler.LambdaLR`: torch's own OneCycleLR ends its rise and its fall one
step earlier, and its cosine needs a minimum; with these functions a run takes the steps it always took.
"""

from __future__ import annotations

import math

RISE = 0.3
"""Share of the steps in which one_cycle rises."""
START = 1 / 25
"""Share of the largest rate at which one_cycle starts (Smith and Topin 2018; fast.ai's and torch's default)."""


def constant(step: int, steps: int) -> float:
    """The same in every step."""
    return 1.0


def warmup(step: int, steps: int) -> float:
    """A line up over 100 steps, then the same: for trainings that end by their errors, not by their steps."""
    return min(1.0, (step + 1) / 100)


def cosine(step: int, steps: int) -> float:
    """Half a cosine from 1 down to 0 at `steps` (Loshchilov and Hutter 2017, one period)."""
    return (1 + math.cos(math.pi * step / steps)) / 2


def one_cycle(step: int, steps: int) -> float:
    """Half a cosine up from 1/25 to 1 over 30 % of the steps, half a cosine down to 0 over the rest."""
    rise = RISE * steps
    if step < rise:
        return START + (1 - START) * (1 - math.cos(math.pi * step / rise)) / 2
    return (1 + math.cos(math.pi * (step - rise) / (steps - rise))) / 2


def warmup_cosine(step: int, steps: int) -> float:
    """A line up over 5 % of the steps, then half a cosine from 1 down to a tenth."""
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    progress = (step - warm) / max(1, steps - warm)
    return 0.1 + 0.9 * (1 + math.cos(math.pi * progress)) / 2
