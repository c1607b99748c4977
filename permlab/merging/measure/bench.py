"""A subject under every arm: `Bench(subject).judge(parse_arm("weight+reset"), role="configured")` -> (row, merged).

A row holds loss and accuracy barriers on test and training data, the scores of the merged network ("midpoint"), the
share of the distance that the matching took away, and costs. Arms that lie on a line between two networks get a curve;
for the others the barrier is the score of the merged network against the (weighted) mean of its networks' scores.
With different labels the barrier is against the joint decision of the unmerged networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from permlab.merging.arm import Arm
from permlab.merging.measure.evaluate import Score
from permlab.merging.measure.subject import Subject
from permlab.merging.merge import Merged

Row = dict[str, Any]
SETS = ("test", "train")


@dataclass
class Bench:
    """Rows of arms of one subject.

    Attributes:
        subject: the networks and what they are judged with.
        points: of the curves.
        curves: rows (pair, arm, set, position, loss, accuracy) of every curve so far.
    """

    subject: Subject
    points: int = 11
    curves: list[Row] = field(default_factory=list)

    @property
    def sets(self) -> list[str]:
        """The data sets that there are, test first."""
        return [name for name in SETS if name in self.subject.sets]

    def judge(self, arm: Arm, role: str, label: str | None = None, budget: float = 1.0) -> tuple[Row, Merged]:
        """Merge and score."""
        merged = self.subject.merge(arm, budget=budget)
        row = self.new_row(label or arm.label, role, arm)
        if self.subject.is_line(arm, budget):
            self._along_line(row, arm, merged)
        else:
            for name in self.sets:
                if self.subject.labels:
                    self._fill(row, name, *self.subject.joint(merged.states, name))
                else:
                    self._fill(row, name, self.subject.score(merged.states, name))
        return row | self._costs(merged), merged

    def new_row(self, label: str, role: str, arm: Arm | None = None) -> Row:
        """The columns that name a row."""
        names = {"match": arm.match, "combine": arm.combine, "renorm": arm.renorm} if arm else {}
        return {"pair": self.subject.pair, "seed": self.subject.seed, "arm": label, "role": role, **names}

    def _fill(self, row: Row, name: str, score: Score, own: float | None = None) -> None:
        prefix, reference = _prefix(name), self.subject.reference[name]
        row[f"{prefix}loss_barrier"] = score.loss - reference.loss
        row[f"{prefix}accuracy_barrier"] = reference.accuracy - score.accuracy
        row[f"{prefix}midpoint_loss"], row[f"{prefix}midpoint_accuracy"] = score.loss, score.accuracy
        if own is not None:
            row[f"{prefix}own_accuracy"] = own

    def _along_line(self, row: Row, arm: Arm, merged: Merged) -> None:
        """Barriers over the whole curve; the midpoint is its middle."""
        found = self.subject.curves(merged.networks, self.points, renorm=arm.renorm)
        for name in self.sets:
            curve = found[name]
            for key in ("loss_barrier", "accuracy_barrier", "midpoint_loss", "midpoint_accuracy"):
                row[_prefix(name) + key] = getattr(curve, key)
            self.curves += [
                {"pair": row["pair"], "arm": row["arm"], "set": name, "position": at, "loss": loss, "accuracy": hits}
                for at, loss, hits in zip(curve.positions, curve.loss, curve.accuracy)
            ]
        if self.subject.setting.weights:
            score = self.subject.score(merged.states, "test")
            row["merged_loss"], row["merged_accuracy"] = score.loss, score.accuracy

    def _costs(self, merged: Merged) -> Row:
        matching = merged.matching
        row: Row = {"macs": merged.macs, **self.subject.reduction(matching)}
        return row | {"sweeps": matching.sweeps, "match_seconds": matching.seconds, "merge_seconds": merged.seconds}

    def ensemble(self) -> Row:
        """The mean of the networks' outputs: what a merged network would like to be, at several times the cost."""
        row = self.new_row("ensemble", "control")
        for name in self.sets:
            self._fill(row, name, *self.subject.ensemble(name))
        return row | {"macs": float(len(self.subject.states))}

    def endpoints(self, names: Sequence[str]) -> list[Row]:
        """One row per network."""
        rows = []
        for k, label in enumerate(names):
            row = self.new_row(label, "endpoint")
            for name in self.sets:
                score = self.subject.ends[name][k]
                row[f"{_prefix(name)}midpoint_loss"] = score.loss
                row[f"{_prefix(name)}midpoint_accuracy"] = score.accuracy
            rows.append(row | {"macs": 1.0})
        return rows


def _prefix(name: str) -> str:
    return "" if name == "test" else f"{name}_"
