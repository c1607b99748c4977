"""The networks that the analyses of `permlab.merging.studies.lmc` look at: `Subject(0, spec, model, [a, b], ...)`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from permlab.matching import Matching, activation_matching, identity_matching, random_matching, weight_matching
from permlab.merging import Decomposition, average, barrier_curves, evaluate, l2_distance, reset_batchnorm
from permlab.symmetry import Permutation, Spec, apply
from permlab.tables import Row

Tables = dict[str, list[Row]]
"""Name of a table -> its rows."""
ARMS = ("no permutation", "random permutation", "weight matching", "activation matching")


@dataclass
class Subject:
    """Networks in the original order of units, and all that is measured on them again and again.

    Attributes:
        states: two trained networks, or three.
        untrained: the weights that the first two started from.
        sets: "train" and "test" -> batches; `small`: small training batches for gradient steps.
        reset: batches that BatchNorm statistics of merged networks are measured on, or None.
        steps: of straight-through matching.
    """

    pair: int
    spec: Spec
    model: nn.Module
    states: list[dict[str, Tensor]]
    untrained: list[dict[str, Tensor]]
    sets: dict[str, list[Any]]
    small: list[Any]
    points: int = 3
    steps: int = 200
    similarity: str = "inner"
    seed: int = 0
    reset: list[Any] | None = None
    matchings: dict[str, Matching] = field(default_factory=dict)

    @cached_property
    def spectra(self) -> list[Decomposition]:
        """Singular vectors of the first two networks."""
        return [Decomposition(self.spec, state) for state in self.states[:2]]

    @cached_property
    def ends(self) -> dict[str, Any]:
        """Scores of the first two networks on both sets."""
        return {
            name: tuple(evaluate(self.model, state, batches) for state in self.states[:2])
            for name, batches in self.sets.items()
        }

    @cached_property
    def before_training(self) -> Subject:
        """The same pair with the weights that its training started from."""
        return replace(self, states=self.untrained, matchings={})

    def match(self, arm: str) -> Matching:
        """The matching of the second network to the first by the method that an arm is named after."""
        if arm not in self.matchings:
            first_two = self.states[:2]
            self.matchings[arm] = {
                "no permutation": lambda: identity_matching(self.spec),
                "random permutation": lambda: random_matching(self.spec, seed=self.seed),
                "weight matching": lambda: weight_matching(self.spec, *first_two, seed=self.seed, keep_costs=False),
                "activation matching": lambda: activation_matching(
                    self.spec, self.model, first_two, self.sets["train"], similarity=self.similarity
                ),
            }[arm]()
        return self.matchings[arm]

    def merged(self, permutation: Permutation) -> dict[str, Tensor]:
        """The average of the first network and the permuted second, BatchNorm statistics measured again if asked."""
        mean = average([self.states[0], apply(self.spec, self.states[1], permutation)], tied=self.spec.tied)
        return mean if self.reset is None else reset_batchnorm(self.model, mean, self.reset)

    def barriers(self, permutation: Permutation, points: int = 3) -> Row:
        """Barriers between the first network and the permuted second on both sets; test without a prefix."""
        moved = apply(self.spec, self.states[1], permutation)
        options = {"points": points, "reset": self.reset, "ends": self.ends}
        curves = barrier_curves(self.model, self.states[0], moved, self.sets, **options)
        test, train = curves["test"], curves["train"]
        return {
            "loss_barrier": test.loss_barrier, "accuracy_barrier": test.accuracy_barrier,
            "midpoint_loss": test.midpoint_loss, "midpoint_accuracy": test.midpoint_accuracy,
            "train_loss_barrier": train.loss_barrier, "train_accuracy_barrier": train.accuracy_barrier,
        }  # fmt: skip

    def alignment(self, permutation: Permutation) -> Row:
        """L2 reduction, R(0) and R(0.3) of a permutation of the second network."""
        before = l2_distance(self.spec, *self.states[:2])
        after = l2_distance(self.spec, *self.states[:2], permutation)
        first, second = self.spectra
        return {
            "l2_before": before, "l2_after": after, "l2_reduction": (before - after) / before if before else 0.0,
            **{f"r_{gamma:g}": first.cosine(second, gamma, permutation).total for gamma in (0.0, 0.3)},
        }  # fmt: skip
