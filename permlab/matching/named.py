"""Matching by name: `match_networks("weight", spec, model, [a, b], MatchSetting(seed=0)).permutation`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from permlab.matching.result import Matching
from permlab.matching.setting import MatchSetting
from permlab.matching.table import MATCHES
from permlab.symmetry import Spec


def match_networks(
    name: str,
    spec: Spec,
    model: nn.Module | None,
    states: Sequence[Mapping[str, Tensor]],
    setting: MatchSetting,
) -> Matching:
    """Return the matching of two or more networks by its name in `permlab.matching.table.MATCHES`.

    Args:
        name: identity, random, weight, activation, straight_through, zip, or that of a plugin.
        spec: verified symmetry of the architecture.
        model: a module of it; None is enough for those that need no data.
        states: the networks, in their own order of units.
        setting: data and numbers.

    Raises:
        UserError: an unknown name, networks that differ, NaN, no data.
    """
    found: Matching = MATCHES[name].load()(spec, model, states, setting)
    return found
