"""How far two networks are apart before and after matching, trained and untrained: `distances(subject)`."""

from __future__ import annotations

from collections.abc import Sequence

from permlab.merging.arm import Arm
from permlab.merging.measure.evaluate import disagreement, labels_of, logits_of, score_logits, temperature
from permlab.merging.measure.subject import Subject
from permlab.merging.studies.lmc.arms import ARMS, NAIVE, UNTRAINED_ARMS, WEIGHT, Tables, barriers
from permlab.tables import Row, pick


def distances(subject: Subject) -> Tables:
    """How far the networks are apart, before and after matching, trained and untrained, and what the merge is like.

    Untrained networks are the control: matching shortens their distance too, with nothing to connect.
    """
    test = subject.sets["test"]
    labels = labels_of(test)
    own = [logits_of(subject.model, state, test) for state in subject.states[:2]]
    rows: list[Row] = []
    for arm in ARMS:
        permutation = subject.match(arm.match).permutation
        merged = subject.merge(Arm(arm.match, renorm=subject.renorm))
        logits = logits_of(subject.model, merged.states[0], test)
        # every other image sets the temperature that the rest is scored with (arXiv 2510.08023 calibrates averages)
        heat = temperature(logits[::2], labels[::2])
        rows.append(
            {
                "pair": subject.pair, "networks": "trained", "arm": arm.label, **subject.alignment(permutation),
                **barriers(subject, permutation, subject.points),
                "disagreement": (disagreement(logits, own[0]) + disagreement(logits, own[1])) / 2,
                "endpoint_disagreement": disagreement(*own), "temperature": heat,
                "uncalibrated_loss": score_logits(logits[1::2], labels[1::2]).loss,
                "calibrated_loss": score_logits(logits[1::2] / heat, labels[1::2]).loss,
            }
        )  # fmt: skip
    control = subject.before_training
    for arm in UNTRAINED_ARMS:
        measured = control.alignment(arm.match)
        rows.append({"pair": subject.pair, "networks": "untrained", "arm": arm.label, **measured})
    return {"distances": rows}


def distance_metrics(lines: Sequence[Row]) -> dict[str, float]:
    """Weight matching under plain names, no permutation as `naive`, untrained networks as `untrained`."""
    naive = pick(lines, networks="trained", arm=NAIVE.label)
    matched = pick(lines, networks="trained", arm=WEIGHT.label)
    control = pick(lines, networks="untrained", arm=WEIGHT.label)
    return {
        "naive_loss_barrier": naive["loss_barrier"], "loss_barrier": matched["loss_barrier"],
        "accuracy_barrier": matched["accuracy_barrier"], "midpoint_loss": matched["midpoint_loss"],
        "midpoint_accuracy": matched["midpoint_accuracy"], "l2_reduction": matched["l2_reduction"],
        "untrained_l2_reduction": control["l2_reduction"], "r_naive": naive["r_0.3"], "r_matched": matched["r_0.3"],
        "r_untrained": control["r_0.3"], "r0_naive": naive["r_0"], "r0_matched": matched["r_0"],
        "r0_untrained": control["r_0"], "disagreement": matched["disagreement"],
        "endpoint_disagreement": matched["endpoint_disagreement"],
        "naive_disagreement": naive["disagreement"], "temperature": matched["temperature"],
        "naive_temperature": naive["temperature"],
    }  # fmt: skip
