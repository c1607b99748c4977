"""One pair of networks under every arm: `Bench(...).judge(parse_arm("weight+reset"), role="configured")` -> one row.

A row holds loss and accuracy barriers on test and training images, the scores of the merged network ("midpoint"), the
share of the distance that the matching took away, and costs. Arms that lie on a line between two networks get a curve;
for the others the barrier is the score of the merged network against the (weighted) mean of its networks' scores.

Networks with different labels keep their heads: they are scored by one decision among the labels of all heads, and
the barrier is against the same decision of the unmerged networks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from permlab.arms import Arm
from permlab.merging import (
    Merged,
    Score,
    Setting,
    barrier_curves,
    ensemble_logits,
    evaluate,
    l2_reduction,
    labels_of,
    logits_of,
    merge_arm,
    score_logits,
    score_tasks,
    trunk_spec,
)
from permlab.merging.arms import match_arm, renormalise
from permlab.merging.average import State, mixture_weights
from permlab.merging.heads import own_logits
from permlab.merging.renormalise import batchnorms
from permlab.symmetry import Spec

Row = dict[str, Any]
SETS = ("test", "train")


@dataclass
class Bench:
    """The networks of one pair and everything they are judged with.

    Attributes:
        model, spec: the architecture.
        states: two or more networks as trained.
        sets: "train" and "test" -> batches of (images, labels).
        setting: what all arms share.
        points: of the curves.
        labels: per network its class numbers where they differ, else empty.
        pair, seed: columns of every row.
        curves: rows (pair, arm, set, position, loss, accuracy) of every curve so far.
    """

    model: nn.Module
    spec: Spec
    states: Sequence[State]
    sets: Mapping[str, Sequence[Any]]
    setting: Setting
    points: int = 11
    labels: Sequence[Sequence[int]] = ()
    pair: int = 0
    seed: int = 0
    curves: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ends = {
            name: [evaluate(self.model, state, batches) for state in self.states] for name, batches in self.items()
        }
        self.reference = {name: self._reference(name) for name in self.sets}
        self._matchings: dict[str, Any] = {}

    def items(self) -> list[tuple[str, Sequence[Any]]]:
        """The data sets that there are, test first."""
        return [(name, self.sets[name]) for name in SETS if name in self.sets]

    def _reference(self, name: str) -> Score:
        """What a merged network is held against: the mixture of its networks' scores, or their joint decision."""
        if self.labels:
            return self.joint(self.states, name)[0]
        weights = mixture_weights(len(self.states), self.setting.weights)
        ends = self.ends[name]
        loss = sum(weight * end.loss for weight, end in zip(weights, ends))
        return Score(loss, sum(weight * end.accuracy for weight, end in zip(weights, ends)), ends[0].count)

    def joint(self, states: Sequence[State], name: str) -> tuple[Score, float]:
        """(one decision among the labels of all heads, mean accuracy of each head on its own labels)."""
        return self.joint_of([logits_of(self.model, state, self.sets[name]) for state in states], name)

    def joint_of(self, logits: Sequence[Tensor], name: str) -> tuple[Score, float]:
        """`joint` from logits per head."""
        truth = labels_of(self.sets[name])
        order = torch.tensor([label for own in self.labels for label in own], device=truth.device)
        columns = torch.cat([own_logits(each, own) for each, own in zip(logits, self.labels)], dim=1)
        full = columns.new_full((len(columns), int(order.max()) + 1), -1e4)
        full[:, order] = columns
        return score_logits(full, truth), score_tasks(logits, self.labels, truth).own

    def is_line(self, arm: Arm, budget: float) -> bool:
        """Whether the merged network is a point on the line between two aligned networks."""
        return arm.combine == "average" and len(self.states) == 2 and budget == 1 and not self.labels

    def judge(self, arm: Arm, role: str, label: str | None = None, budget: float = 1.0) -> tuple[Row, Merged]:
        """Merge and score."""
        if arm.match not in self._matchings:
            # Arms that differ after the matching share it.
            self._matchings[arm.match] = match_arm(arm.match, self.spec, self.model, self.states, self.setting)
        setting = dataclasses.replace(self.setting, budget=budget)
        merged = merge_arm(arm, self.spec, self.model, self.states, setting, self._matchings[arm.match])
        row = self.new_row(label or arm.label, role, arm)
        if self.is_line(arm, budget):
            self._along_line(row, arm, merged)
        else:
            for name, _ in self.items():
                self._fill(row, name, *self.score(merged.states, name))
        row |= self._costs(merged)
        return row, merged

    def score(self, states: Sequence[State], name: str) -> tuple[Score, float | None]:
        """Score of a merged network on one data set, and the accuracy under own heads where there are heads."""
        if self.labels:
            return self.joint(states, name)
        return evaluate(self.model, states[0], self.sets[name]), None

    def new_row(self, label: str, role: str, arm: Arm | None = None) -> Row:
        """The columns that name a row."""
        names = {"match": arm.match, "combine": arm.combine, "renorm": arm.renorm} if arm else {}
        return {"pair": self.pair, "seed": self.seed, "arm": label, "role": role, **names}

    def _fill(self, row: Row, name: str, score: Score, own: float | None = None) -> None:
        prefix, reference = "" if name == "test" else f"{name}_", self.reference[name]
        row[f"{prefix}loss_barrier"] = score.loss - reference.loss
        row[f"{prefix}accuracy_barrier"] = reference.accuracy - score.accuracy
        row[f"{prefix}midpoint_loss"], row[f"{prefix}midpoint_accuracy"] = score.loss, score.accuracy
        if own is not None:
            row[f"{prefix}own_accuracy"] = own

    def _along_line(self, row: Row, arm: Arm, merged: Merged) -> None:
        """Barriers over the whole curve; the midpoint is its middle."""
        renorm: dict[str, Any] = {}
        if arm.renorm == "reset" and batchnorms(self.model):
            renorm["reset"] = self.setting.batches
        elif arm.renorm != "none":
            renorm["renormalise"] = self._renormaliser(arm, merged)
        ends = {name: (scores[0], scores[1]) for name, scores in self.ends.items()}
        found = barrier_curves(self.model, *merged.aligned, dict(self.items()), points=self.points, ends=ends, **renorm)
        for name, curve in found.items():
            prefix = "" if name == "test" else f"{name}_"
            for key in ("loss_barrier", "accuracy_barrier", "midpoint_loss", "midpoint_accuracy"):
                row[prefix + key] = getattr(curve, key)
            self.curves += [
                {"pair": self.pair, "arm": row["arm"], "set": name, "position": at, "loss": loss, "accuracy": accuracy}
                for at, loss, accuracy in zip(curve.positions, curve.loss, curve.accuracy)
            ]
        if self.setting.weights is not None:
            score = evaluate(self.model, merged.state, self.sets["test"])
            row["merged_loss"], row["merged_accuracy"] = score.loss, score.accuracy

    def _renormaliser(self, arm: Arm, merged: Merged) -> Callable[[dict[str, Tensor], float], State]:
        def at_position(state: dict[str, Tensor], at: float) -> State:
            return renormalise(arm.renorm, self.spec, self.model, merged, self.setting, state, (1 - at, at))

        return at_position

    def _costs(self, merged: Merged) -> Row:
        matching, spec = merged.matching, trunk_spec(self.spec, self.setting.heads)
        row: Row = {"macs": merged.macs}
        if not matching.clusters:
            gains = [
                l2_reduction(spec, self.states[0], state, p)
                for state, p in zip(self.states[1:], matching.permutations[1:])
            ]
            row["l2_reduction"] = sum(gains) / len(gains)
            row["moved"] = sum(matching.moved(k) for k in range(1, len(self.states))) / len(gains)
        return row | {"sweeps": matching.sweeps, "match_seconds": matching.seconds, "merge_seconds": merged.seconds}

    def ensemble(self) -> Row:
        """The mean of the networks' outputs: what a merged network would like to be, at several times the cost."""
        row = self.new_row("ensemble", "control")
        for name, batches in self.items():
            logits = [logits_of(self.model, state, batches) for state in self.states]
            if self.labels:
                self._fill(row, name, *self.joint_of(logits, name))
            else:
                self._fill(row, name, score_logits(ensemble_logits(logits), labels_of(batches)))
        return row | {"macs": float(len(self.states))}

    def endpoints(self, names: Sequence[str]) -> list[Row]:
        """One row per network."""
        rows = []
        for k, label in enumerate(names):
            row = self.new_row(label, "endpoint")
            for name in self.sets:
                prefix, score = "" if name == "test" else f"{name}_", self.ends[name][k]
                row[f"{prefix}midpoint_loss"], row[f"{prefix}midpoint_accuracy"] = score.loss, score.accuracy
            rows.append(row | {"macs": 1.0})
        return rows
