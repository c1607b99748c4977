"""Accuracies of networks merged in part: `scores(subject, states)`, `probe(subject, states)`.

A subject of this study has two tasks: different labels, each under the head of its own network (`subject.labels`), or
the same labels in two domains. Its sets are those of the tasks, `set_name("test", 0)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from permlab.merging.measure.evaluate import labels_of, logits_of
from permlab.merging.measure.heads import features, linear_probe, score_tasks
from permlab.merging.measure.subject import Subject
from permlab.merging.networks.states import State

TASKS = (0, 1)


def set_name(split: str, task: int) -> str:
    """Return what `Subject.sets` calls the images of a task (0 or 1), split "train" or "test"."""
    return f"{split} {task + 1}"


def set_of(subject: Subject, split: str, task: int) -> Sequence[Any]:
    """Return the batches of a task."""
    return subject.sets[set_name(split, task)]


def per_task(states: Sequence[State]) -> Sequence[State]:
    """Return one network per task from `Merged.states`: twice the same where the heads are merged too."""
    return [states[0], states[-1]]


def scores(subject: Subject, states: Sequence[State], split: str = "test") -> dict[str, float]:
    """Return the accuracies of one network per task.

    `own` is the mean over tasks of each on its own images with its own head (`own_1`, `own_2`), `joint` one decision
    among the labels of both, where these differ.
    """
    sets = [set_of(subject, split, task) for task in TASKS]
    if not subject.labels:
        # Shared labels in two domains: the head is merged like any layer, so there is no joint decision to add.
        own = [accuracy(logits_of(subject.model, state, each), each) for state, each in zip(per_task(states), sets)]
        return {"own": sum(own) / 2, "own_1": own[0], "own_2": own[1]}
    together = [batch for each in sets for batch in each]
    logits = [logits_of(subject.model, state, together) for state in per_task(states)]
    found = score_tasks(logits, subject.labels, labels_of(together))
    return {"own": found.own, "joint": found.joint, "own_1": found.tasks[0], "own_2": found.tasks[1]}


def probe(subject: Subject, states: Sequence[State]) -> float:
    """Return the mean over tasks of a linear probe on what the head reads, trained on the task's training images."""
    found = []
    for task, state in zip(TASKS, per_task(states)):
        train, test = set_of(subject, "train", task), set_of(subject, "test", task)
        # The paper's table scores by probes; beside the original heads, since probes hide much of the damage.
        x, y = (features(subject.model, state, each, subject.head) for each in (train, test))
        found.append(linear_probe(x, labels_of(train), y, labels_of(test)))
    return sum(found) / len(found)


def accuracy(logits: Tensor, batches: Sequence[Any]) -> float:
    """Return the share of labels that have the largest logit."""
    return float((logits.argmax(1) == labels_of(batches)).double().mean())
