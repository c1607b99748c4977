"""Two networks to be merged in part: `Case(...).combine("activation matching", "least squares", ratios)`.

A `Case` holds two trained networks with different labels (their heads are kept, one per task) or with the same labels
in two domains (the heads are merged too).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from permlab.matching import Matching, activation_matching, identity_matching, random_matching, weight_matching
from permlab.merging import (
    Layout,
    MacCounter,
    align,
    features,
    labels_of,
    least_squares,
    linear_probe,
    logits_of,
    noise_batches,
    not_separable,
    pair_scores,
    regmean,
    repair,
    reset_batchnorm,
    score_tasks,
)
from permlab.symmetry import Spec
from permlab.tables import Row

State = dict[str, Tensor]


@dataclass
class Case:
    """Two networks to be merged, what they are scored on, and what merging them may read.

    Attributes:
        states, untrained: the two networks, and the first one before its training.
        head: name of the classifier module; `heads`: its tensors where they are kept per task, else empty.
        labels: per task its class numbers, or None where both networks know all classes.
        train, test: per task its batches of (images, labels).
        data: training batches of both tasks together, for activations, Gram matrices and statistics.
    """

    pair: int
    spec: Spec
    model: nn.Module
    states: list[State]
    untrained: State
    head: str
    heads: tuple[str, ...]
    labels: list[list[int]] | None
    train: list[list[Any]]
    test: list[list[Any]]
    data: list[Any]
    similarity: str = "inner"
    ridge: float | None = None
    seed: int = 0
    probes: bool = True
    matchings: dict[str, Matching] = field(default_factory=dict)

    @cached_property
    def counter(self) -> MacCounter:
        """Exact multiply-accumulates of every layout, heads left out."""
        return MacCounter(self.spec, self.model, (self.data[0][0][:2],), heads=self.heads, fixed=list(self.fixed))

    @cached_property
    def fixed(self) -> dict[str, str]:
        """Groups that cannot keep units apart -> why."""
        return not_separable(self.spec, self.model, (self.data[0][0][:2],))

    @cached_property
    def free(self) -> list[str]:
        """Groups that can, in network order."""
        return [name for name in self.spec.groups if name not in self.fixed]

    def match(self, name: str) -> Matching:
        """How the second network is matched; where labels differ the heads say nothing and are left out."""
        if name not in self.matchings:
            self.matchings[name] = {
                "no permutation": lambda: identity_matching(self.spec),
                "random permutation": lambda: random_matching(self.spec, seed=self.seed),
                "weight matching": lambda: weight_matching(self.spec.without(self.heads), *self.states, seed=self.seed),
                "activation matching": lambda: activation_matching(
                    self.spec, self.model, self.states, self.data, similarity=self.similarity, seed=self.seed
                ),
            }[name]()
        return self.matchings[name]

    def layout(self, match: str, ratios: Mapping[str, float]) -> tuple[Layout, list[State]]:
        """Which units are merged, and both networks in the first one's order of units."""
        matching = self.match(match)
        scores = pair_scores(self.spec.without(self.heads), *self.states, matching) if ratios else None
        layout = Layout(self.spec, self.model, scores=scores, ratios=ratios, heads=self.heads)
        return layout, align(self.spec, self.states, matching)

    def combine(self, match: str, how: str, ratios: Mapping[str, float] | None = None) -> tuple[State, list[State]]:
        """(merged trunk, one full state dict per task) of one arm."""
        layout, states = self.layout(match, ratios or {})
        options = {} if self.ridge is None else {"ridge": self.ridge}
        if how == "least squares":
            trunk = least_squares(layout, self.model, states, self.data, seed=self.seed, **options).state
        elif how == "least squares on noise":
            shape = self.data[0][0].shape[1:]
            noise = [batch.to(self.data[0][0]) for batch in noise_batches(shape, seed=self.seed)]
            trunk = least_squares(layout, self.model, states, noise, seed=self.seed, **options).state
        elif how == "REPAIR":
            trunk = repair(layout, self.model, states, layout.merge(states), self.data)
        elif how == "RegMean":
            trunk = regmean(self.spec, self.model, states, self.train, heads=self.heads, seed=self.seed)
        else:
            trunk = layout.merge(states)
        return trunk, self.per_task(layout, trunk, states)

    def per_task(self, layout: Layout, trunk: State, states: Sequence[State]) -> list[State]:
        """The merged trunk under each task's own head, or twice the merged network."""
        return [layout.task_state(trunk, state, k) if self.heads else trunk for k, state in enumerate(states)]

    def scores(self, states: Sequence[State], split: str = "test") -> Row:
        """own: each task on its own images with its own head; joint: one decision among the labels of both."""
        sets = self.test if split == "test" else self.train
        if self.labels is None:
            own = [accuracy(logits_of(self.model, state, each), each) for state, each in zip(states, sets)]
            return {"own": sum(own) / 2, "own_1": own[0], "own_2": own[1]}
        together = [batch for each in sets for batch in each]
        logits = [logits_of(self.model, state, together) for state in states]
        found = score_tasks(logits, self.labels, labels_of(together))
        return {"own": found.own, "joint": found.joint, "own_1": found.tasks[0], "own_2": found.tasks[1]}

    def probe(self, states: Sequence[State]) -> float:
        """Mean over tasks of a linear probe on what the head reads, trained on the task's training images."""
        found = []
        for state, train, test in zip(states, self.train, self.test):
            x, y = (features(self.model, state, each, self.head) for each in (train, test))
            found.append(linear_probe(x, labels_of(train), y, labels_of(test)))
        return sum(found) / len(found)

    def reset(self, trunk: State, states: Sequence[State]) -> State:
        """The trunk with BatchNorm statistics measured again; the head that runs along does not matter."""
        full = reset_batchnorm(self.model, states[0], self.data)
        return {name: full[name] for name in trunk}


def accuracy(logits: Tensor, batches: Sequence[Any]) -> float:
    """Share of the batches' labels that have the largest logit."""
    return float((logits.argmax(1) == labels_of(batches)).double().mean())
