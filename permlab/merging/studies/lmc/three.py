"""Three networks: are the second and third connected once each is matched to the first? `three(subject)["three"]`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from permlab.matching import Matching, straight_through, weight_matching, weight_matching_many
from permlab.merging import three_models
from permlab.merging.studies.lmc.subject import Subject, Tables
from permlab.symmetry import Spec
from permlab.tables import Row


def three(subject: Subject) -> Tables:
    """Three networks: are B and C connected when both are matched to A, and what does their mean do?"""

    def by_weight(spec: Spec, a: Any, b: Any) -> Matching:
        return weight_matching(spec, a, b, seed=subject.seed, keep_costs=False)

    def by_loss(spec: Spec, *states: Any) -> Matching:
        return straight_through(spec, subject.model, states, subject.small, steps=subject.steps, seed=subject.seed)

    methods = {
        "weight matching": (by_weight, lambda spec, states: weight_matching_many(spec, states, seed=subject.seed)),
        "straight-through": (by_loss, lambda spec, states: by_loss(spec, *states)),
    }
    rows: list[Row] = []
    for method, (match, match_all) in methods.items():
        found = three_models(
            subject.spec,
            subject.model,
            subject.states,
            subject.sets["test"],
            match,
            match_all=match_all,
            reset=subject.reset,
        )
        for row in found:
            if row["arm"] == "naive" and method != next(iter(methods)):
                continue  # no permutation is the same for every method
            name = "none" if row["arm"] == "naive" else method
            rows.append({**row, "pair": subject.pair, "pair_of": row["pair"], "method": name})
        rows.sort(key=lambda row: row["method"] != "none")
    return {"three": rows}


def three_metrics(lines: Sequence[Row]) -> dict[str, float]:
    """Barrier between B and C by method and arm, and the accuracy of the mean of all three."""
    numbers = {}
    for line in lines:
        label = f"{line['method'].replace(' ', '_').replace('-', '_')}_{line['arm']}"
        label = "naive" if line["arm"] == "naive" else label
        if line["pair_of"] == "b-c":
            numbers[f"bc_{label}"] = line["loss_barrier"]
        elif line["pair_of"] == "a-b-c":
            numbers[f"mean_accuracy_{label}"] = line["accuracy"]
    return numbers
