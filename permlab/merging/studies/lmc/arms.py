"""What all analyses of `permlab.merging.studies.lmc` share: the arms compared, and the columns of barriers.

barriers(subject, subject.match(WEIGHT.match).permutation)["loss_barrier"]
"""

from __future__ import annotations

from permlab.merging.arm import Arm
from permlab.merging.measure.subject import Subject
from permlab.symmetry import Permutation
from permlab.tables import Row

NAIVE, RANDOM, WEIGHT, ACTIVATION = (Arm(name) for name in ("identity", "random", "weight", "activation"))
ARMS = (NAIVE, RANDOM, WEIGHT, ACTIVATION)
UNTRAINED_ARMS = (NAIVE, WEIGHT)
"""Arms of the untrained networks: what matching does without anything learned."""

STEP_IMAGES = 128
"""Images per gradient step of straight-through matching, and per step of the Taylor estimate."""

Tables = dict[str, list[Row]]
"""Name of a table -> its rows."""


def barriers(subject: Subject, permutation: Permutation | str, points: int = 3) -> Row:
    """Barriers between the first network and the permuted second on both sets; those of the test set without a prefix.

    Args:
        subject: with the sets "train" and "test".
        permutation: of the second network, or the name of a matching.
        points: of the curves; 3 scores the midpoint only.
    """
    curves = subject.barriers(permutation, points)
    test, train = curves["test"], curves["train"]
    return {
        "loss_barrier": test.loss_barrier,
        "accuracy_barrier": test.accuracy_barrier,
        "midpoint_loss": test.midpoint_loss,
        "midpoint_accuracy": test.midpoint_accuracy,
        "train_loss_barrier": train.loss_barrier,
        "train_accuracy_barrier": train.accuracy_barrier,
    }
