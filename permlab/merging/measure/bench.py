"""A subject under every arm: `Bench(subject).judge(parse_arm("weight+reset"), role="configured")` -> (row, merged).

A row holds loss and accuracy barriers on test and training data, the scores of the merged network ("midpoint"), the
share of the distance that the matching took away, and costs. Arms that lie on a line between two networks get a curve;
for the others the barrier is the score of the merged network against the (weighted) mean of its networks' scores.
With different labels the barrier is against the joint decision of the unmerged networks.

    plan = planned_arms(parse_arm("weight"), [parse_arm("activation")], controls=True)     # permlab.merging.planned
    rows, merged = Bench(subject).compare(plan, controls=True)     # every arm, every control, the networks themselves
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from permlab.matching.table import MATCHES
from permlab.merging.arm import Arm
from permlab.merging.measure.evaluate import Score
from permlab.merging.measure.subject import Subject
from permlab.merging.merge import Merged
from permlab.merging.planned import Planned
from permlab.tables import Row

SETS = ("test", "train")


@dataclass
class Bench:
    """Rows of arms of one subject.

    Attributes:
        subject: the networks and what they are judged with.
        points: of the curves.
        anew: score the ends of every curve after permuting, and tell by how much permuting changed their loss.
        curves: rows (pair, arm, set, position, loss, accuracy) of every curve so far.
    """

    subject: Subject
    points: int = 11
    anew: bool = False
    curves: list[Row] = field(default_factory=list)

    @property
    def sets(self) -> list[str]:
        """The data sets that there are, test first."""
        return [name for name in SETS if name in self.subject.sets]

    # ---- all arms

    def compare(
        self, plan: Sequence[Planned], *, controls: bool, on_row: Callable[[int, Row], None] | None = None
    ) -> tuple[list[Row], Merged]:
        """Judge every arm of a plan: (rows, the merged network of its first arm).

        Args:
            plan: of `planned_arms`.
            controls: add the ensemble of the networks, and the first arm on untrained ones where these are known.
            on_row: called with (arms done, row) after each.
        """
        rows: list[Row] = []
        kept: list[Merged] = []
        for number, each in enumerate(plan):
            row, merged = self.judge(each.arm, each.role, each.label, each.budget)
            rows.append(row)
            kept = kept or [merged]
            if on_row is not None:
                on_row(number + 1, row)
        if controls:
            rows += [self.ensemble(), *self.untrained(plan[0].arm)]
        rows += [self.endpoint(k, label, "endpoint") for k, label in enumerate(self.subject.names)]
        return rows, kept[0]

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

    def ensemble(self) -> Row:
        """The mean of the networks' outputs: what a merged network would like to be, at several times the cost."""
        row = self.new_row("ensemble", "control")
        for name in self.sets:
            self._fill(row, name, *self.subject.ensemble(name))
        return row | {"macs": float(len(self.subject.states))}

    def untrained(self, chosen: Arm) -> list[Row]:
        """An arm on untrained networks, and how one of them scores: what a matching does without anything learned."""
        if not self.subject.untrained or MATCHES[chosen.match].control:
            return []
        bench = replace(self, subject=self.subject.before_training, curves=[])
        # Untrained networks come closer by matching too: only the excess over this is learned.
        arm = Arm(chosen.match, MATCHES[chosen.match].combine, chosen.renorm)
        row, _ = bench.judge(arm, "untrained", f"untrained networks, {arm.label}")
        self.curves += bench.curves
        return [row, bench.endpoint(0, "untrained network", "untrained endpoint")]

    def endpoint(self, k: int, label: str, role: str) -> Row:
        """One network as it is."""
        row = self.new_row(label, role)
        for name in self.sets:
            self._scores(row, name, self.subject.ends[name][k])
        return row | {"macs": 1.0}

    # ---- one row

    def new_row(self, label: str, role: str, arm: Arm | None = None) -> Row:
        """The columns that name a row."""
        names = {"match": arm.match, "combine": arm.combine, "renorm": arm.renorm} if arm else {}
        return {"pair": self.subject.pair, "seed": self.subject.seed, "arm": label, "role": role, **names}

    def _scores(self, row: Row, name: str, score: Score) -> None:
        prefix = _prefix(name)
        row[f"{prefix}midpoint_loss"], row[f"{prefix}midpoint_accuracy"] = score.loss, score.accuracy
        if self.subject.scoring.perplexity:
            row[f"{prefix}midpoint_perplexity"] = score.perplexity

    def _fill(self, row: Row, name: str, score: Score, own: float | None = None) -> None:
        prefix, reference = _prefix(name), self.subject.reference[name]
        row[f"{prefix}loss_barrier"] = score.loss - reference.loss
        row[f"{prefix}accuracy_barrier"] = reference.accuracy - score.accuracy
        self._scores(row, name, score)
        if own is not None:
            row[f"{prefix}own_accuracy"] = own

    def _along_line(self, row: Row, arm: Arm, merged: Merged) -> None:
        """Barriers over the whole curve; the midpoint is its middle."""
        found = self.subject.curves(merged.networks, self.points, renorm=arm.renorm, anew=self.anew)
        for name in self.sets:
            curve, ends = found[name], self.subject.ends[name]
            prefix = _prefix(name)
            row[f"{prefix}loss_barrier"], row[f"{prefix}accuracy_barrier"] = curve.loss_barrier, curve.accuracy_barrier
            self._scores(row, name, Score(curve.midpoint_loss, curve.midpoint_accuracy, ends[0].count))
            if self.anew:
                row["end_change"] = max(row.get("end_change", 0.0), abs(curve.loss[-1] - ends[1].loss))
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


def _prefix(name: str) -> str:
    return "" if name == "test" else f"{name}_"
