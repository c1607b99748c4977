"""Networks that have been matched, ready to be combined: what the functions behind `COMBINES` are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from permlab.errors import UserError
from permlab.matching import Matching
from permlab.merging.networks.states import State
from permlab.merging.partial.layout import Layout
from permlab.symmetry import Spec


@dataclass
class Aligned:
    """Two or more networks in a common order of units.

    Attributes:
        spec, model: the verified symmetry and a module of the architecture; None for networks that are not run.
        original: the networks as trained, in their own order of units.
        states: the networks in the common order; as trained where units are zipped instead of permuted.
        matching: how the order was found.
        heads: tensors of task heads, which stay with their networks.
        ratios: group -> share of units that are kept apart; empty merges all.
        scores: group -> how well each slot is matched, where units are kept apart.
        notes: layer or group -> what was done differently and why; ways to combine add theirs.
    """

    spec: Spec
    model: nn.Module | None
    original: Sequence[State]
    states: Sequence[State]
    matching: Matching
    heads: Sequence[str] = ()
    ratios: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[str, Tensor] | None = None
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def module(self) -> nn.Module:
        """The module of the architecture.

        Raises:
            UserError: there is none.
        """
        if self.model is None:
            raise UserError("this way to combine runs the networks, which takes a module of their architecture")
        return self.model

    def trunks(self) -> list[dict[str, Tensor]]:
        """The aligned networks without the heads that stay with them."""
        return [{name: state[name] for name in state if name not in self.heads} for state in self.states]

    def layout(self, weights: Sequence[float] | None = None) -> Layout:
        """Return which units are merged; of two networks only.

        Args:
            weights: share of each network in what is merged; equal ones if None or empty.

        Raises:
            UserError: another number of networks.
        """
        if len(self.states) != 2:
            raise UserError(
                f"{len(self.states)} networks: partial merging, least squares and REPAIR join two; use combine=average"
            )
        return Layout(
            self.spec, self.module, scores=self.scores, ratios=self.ratios, heads=self.heads, weights=weights or None
        )
