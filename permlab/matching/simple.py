"""The controls of every experiment: `identity_matching(spec, 2)` and `random_matching(spec, 2, seed=0)`."""

from __future__ import annotations

import torch

from permlab.matching.result import Matching
from permlab.symmetry import Spec


def identity_matching(spec: Spec, models: int = 2) -> Matching:
    """No permutation at all: what plain averaging does."""
    return Matching("identity", [spec.identity() for _ in range(models)], pinned=dict(spec.pinned))


def random_matching(spec: Spec, models: int = 2, seed: int = 0) -> Matching:
    """Every model but the first gets a random element of the group: the same functions, unrelated units."""
    generator = torch.Generator().manual_seed(seed)
    permutations = [spec.identity(), *(spec.random(generator) for _ in range(models - 1))]
    return Matching("random", permutations, pinned=dict(spec.pinned))
