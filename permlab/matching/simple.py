"""The controls of every experiment: `identity_matching(spec, 2)` and `random_matching(spec, 2, seed=0)`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from permlab.matching.result import Matching
from permlab.matching.setting import MatchSetting
from permlab.symmetry import Spec


def identity_matching(spec: Spec, models: int = 2) -> Matching:
    """No permutation at all: what plain averaging does."""
    return Matching("identity", [spec.identity() for _ in range(models)], pinned=dict(spec.pinned))


def random_matching(spec: Spec, models: int = 2, seed: int = 0) -> Matching:
    """Every model but the first gets a random element of the group: the same functions, unrelated units."""
    generator = torch.Generator().manual_seed(seed)
    # The first model is the frame of every matching; moving it too would change nothing between the models.
    permutations = [spec.identity(), *(spec.random(generator) for _ in range(models - 1))]
    return Matching("random", permutations, pinned=dict(spec.pinned))


def match_identity(
    spec: Spec, model: nn.Module | None, states: Sequence[Mapping[str, Tensor]], setting: MatchSetting
) -> Matching:
    """`identity_matching` as a row of `MATCHES`."""
    return identity_matching(spec, len(states))


def match_random(
    spec: Spec, model: nn.Module | None, states: Sequence[Mapping[str, Tensor]], setting: MatchSetting
) -> Matching:
    """`random_matching` as a row of `MATCHES`."""
    return random_matching(spec, len(states), setting.seed)
