"""`permlab task=derangements task.n=8`"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from permlab.errors import check_range

if TYPE_CHECKING:
    from permlab.config import Config
    from permlab.runs.run import Run

HEADLINE = ("derangements",)
MODELS = ("none",)
DATASETS = ("none",)


@dataclass
class DerangementsConfig:
    """`task=derangements`"""

    name: str = "derangements"
    n: int = 8
    """Points."""
    draws: int = 2000
    """Random permutations."""


def validate(config: Config[DerangementsConfig]) -> None:
    """Check ranges."""
    check_range("task.n", config.task.n, 2)


def plan(config: Config[DerangementsConfig]) -> dict[str, str]:
    """Extra lines of a dry run."""
    return {"permutations": f"{config.task.draws} of {config.task.n} points"}


def run(config: Config[DerangementsConfig], run: Run) -> None:
    """Draw and count."""
    import numpy as np

    rng, n = np.random.default_rng(run.seed), config.task.n
    moved = [bool((rng.permutation(n) != np.arange(n)).all()) for _ in range(config.task.draws)]
    run.summary(derangements=float(np.mean(moved)))
