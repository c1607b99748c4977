"""Three networks: are the second and third connected once each is matched to the first? `three(subject)["three"]`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from permlab.matching import Matching, match_networks
from permlab.matching.table import MATCHES
from permlab.merging.arm import slug
from permlab.merging.measure.barrier import three_models
from permlab.merging.measure.evaluate import rebatched
from permlab.merging.measure.subject import Subject
from permlab.merging.networks.states import State
from permlab.merging.studies.lmc.arms import STEP_IMAGES, Tables
from permlab.merging.table import RENORMS
from permlab.symmetry import Spec
from permlab.tables import Row

METHODS = ("weight", "straight_through")
NO_METHOD = "none"
"""In place of the method where nothing is permuted."""


def three(subject: Subject) -> Tables:
    """Three networks: are B and C connected when both are matched to A, and what does their mean do?

    Matching that found one basin would connect any two of them (arXiv 2402.04051, table 3).
    """
    setting = replace(subject.setting, batches=rebatched(subject.setting.batches, STEP_IMAGES))
    rows: list[Row] = []
    for method in METHODS:

        def match_all(spec: Spec, states: Sequence[State], method: str = method) -> Matching:
            return match_networks(method, spec, subject.model, states, setting)

        def match_two(spec: Spec, first: State, second: State, method: str = method) -> Matching:
            return match_networks(method, spec, subject.model, [first, second], setting)

        # Table 3 of the paper: only a low barrier between B and C puts all three in one basin.
        found = three_models(
            subject.spec,
            subject.model,
            subject.states,
            subject.sets["test"],
            match_two,
            match_all=match_all,
            reset=subject.setting.batches if RENORMS[subject.renorm].changes else None,
        )
        for row in found:
            naive = row["arm"] == "naive"
            if naive and method != METHODS[0]:
                continue  # no permutation is the same for every method
            name = NO_METHOD if naive else MATCHES[method].title
            rows.append({**row, "pair": subject.pair, "pair_of": row["pair"], "method": name})
    return {"three": sorted(rows, key=lambda row: bool(row["method"] != NO_METHOD))}


def three_metrics(lines: Sequence[Row]) -> dict[str, float]:
    """Barrier between B and C by method and arm, and the accuracy of the mean of all three."""
    numbers: dict[str, float] = {}
    for line in lines:
        label = line["arm"] if line["method"] == NO_METHOD else f"{slug(line['method'])}_{line['arm']}"
        if line["pair_of"] == "b-c":
            numbers[f"bc_{label}"] = line["loss_barrier"]
        elif line["pair_of"] == "a-b-c":
            numbers[f"mean_accuracy_{label}"] = line["accuracy"]
    return numbers
