"""The second-order estimate of a barrier against the true one: `taylor(subject)["taylor"]`."""

from __future__ import annotations

from collections.abc import Sequence

from permlab.merging.measure.barrier import taylor_estimate
from permlab.merging.measure.subject import Subject
from permlab.merging.studies.lmc.arms import NAIVE, STEP_IMAGES, WEIGHT, Tables
from permlab.tables import Row, pick


def taylor(subject: Subject) -> Tables:
    """Second-order estimate of the midpoint barrier against the true one, on the training images."""
    rows = []
    # In small steps: a second derivative holds several times the activations of all images that it is taken over.
    steps = [each for x, y in subject.sets["train"] for each in zip(x.split(STEP_IMAGES), y.split(STEP_IMAGES))]
    for arm in (NAIVE, WEIGHT):
        # arXiv 2402.04051, table 1: first- and second-order terms at both ends against the barrier halfway
        found = taylor_estimate(subject.model, *subject.permuted(arm.match), steps)
        rows.append(
            {
                "pair": subject.pair, "arm": arm.label, "first": found.first, "second": found.second,
                "estimate": found.estimate, "barrier": found.barrier,
                "relative_error": abs(found.estimate - found.barrier) / max(abs(found.barrier), 1e-12),
            }
        )  # fmt: skip
    return {"taylor": rows}


def taylor_metrics(lines: Sequence[Row]) -> dict[str, float]:
    """Estimate, barrier and error with weight matching, and without a permutation (`naive`)."""
    naive, matched = (pick(lines, arm=arm.label) for arm in (NAIVE, WEIGHT))
    return {
        "taylor_estimate": matched["estimate"], "taylor_barrier": matched["barrier"],
        "taylor_relative_error": matched["relative_error"], "taylor_naive_estimate": naive["estimate"],
        "taylor_naive_barrier": naive["barrier"], "taylor_naive_relative_error": naive["relative_error"],
    }  # fmt: skip
