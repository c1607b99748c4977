"""The steps of weight matching, each with its barrier and alignment: `trace(subject)["trace"]`."""

from __future__ import annotations

from permlab.matching import weight_matching
from permlab.merging.measure.subject import Subject
from permlab.merging.studies.lmc.arms import Tables, barriers
from permlab.symmetry import Permutation

MAX_SWEEPS = 50


def trace(subject: Subject) -> Tables:
    """Barrier, L2 reduction and R along weight matching as published: from the identity, one group a step."""
    steps: list[tuple[str, Permutation]] = []
    weight_matching(
        subject.spec,
        *subject.states,
        # The published start, in place of ours from the outer layers inwards.
        start=subject.spec.identity(),
        seed=subject.setting.seed,
        max_sweeps=MAX_SWEEPS,
        keep_costs=False,
        sparse=False,  # arXiv 2209.04836, algorithm 1: every step solves one layer optimally given all others
        on_step=lambda group, permutation: steps.append((group, dict(permutation))),
    )
    rows = []
    for step, (group, permutation) in enumerate(steps):
        measured = {**subject.alignment(permutation), **barriers(subject, permutation)}
        rows.append({"pair": subject.pair, "step": step, "group": group, **measured})
    return {"trace": rows}
