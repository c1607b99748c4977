"""Networks with different labels: `scores = task_scores(model, [state_a, state_b], [[0, 1], [2, 3]], batches)`.

The trunks are merged and every task keeps its own head. Three ways to look at it: each task on its own images with its
own head, one decision among the labels of all heads (joint arg-max), and a linear probe trained on the merged features.
A probe on features of an untrained trunk is the control: probes hide much of the damage that merging does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from permlab.errors import UserError
from permlab.matching.activation import as_inputs
from permlab.merging.measure.evaluate import eval_mode, labels_of, logits_of
from permlab.merging.networks.states import State
from permlab.symmetry.functional import call


def find_head(model: nn.Module, inputs: Sequence[Any] | Mapping[str, Any]) -> str:
    """Name of the Linear module whose output is the network's output.

    Raises:
        UserError: the output comes from something else.
    """
    seen: dict[int, str] = {}
    held: list[Tensor] = []

    def keep(name: str, out: Tensor) -> None:
        held.append(out)  # kept alive, so that no later tensor gets the same id
        seen[id(out)] = name

    handles = [
        module.register_forward_hook(lambda _, __, out, name=name: keep(name, out))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        with eval_mode(model), torch.no_grad():
            result = call(model, model.state_dict(), inputs)
    finally:
        for handle in handles:
            handle.remove()
    result = result if isinstance(result, Tensor) else getattr(result, "logits", None)
    if id(result) not in seen:
        raise UserError("the network's outputs do not come from a Linear layer, so there is no head to keep apart")
    return seen[id(result)]


def head_tensors(state: State, head: str) -> tuple[str, ...]:
    """Names of the head's tensors in a state dict."""
    return tuple(name for name in state if name.rpartition(".")[0] == head)


@dataclass(frozen=True)
class TaskScores:
    """Accuracies (0 to 1): per task with its own head on its own samples, their mean, and joint over all labels."""

    tasks: list[float]
    own: float
    joint: float


def own_logits(logits: Tensor, labels: Sequence[int]) -> Tensor:
    """The columns of a head that belong to `labels`: all, or those at the class numbers of a head for all classes."""
    if logits.shape[1] == len(labels):
        return logits
    if logits.shape[1] <= max(labels):
        raise UserError(
            f"a head has {logits.shape[1]} outputs, which fits neither {len(labels)} labels nor {max(labels)}"
        )
    return logits[:, list(labels)]


def task_scores(
    model: nn.Module, states: Sequence[State], labels: Sequence[Sequence[int]], batches: Sequence[Any]
) -> TaskScores:
    """Score K state dicts that differ in their heads.

    Args:
        model: a module of the architecture.
        states: per task, the (merged) network under this task's head; `Layout.task_state` makes them. K separate
            endpoints give the ensemble.
        labels: per task its class numbers, disjoint; heads have one output per own label, or one per class overall.
        batches: (inputs, labels) with samples of all tasks.

    Raises:
        UserError: labels that overlap, or a task without samples.
    """
    return score_tasks([logits_of(model, state, batches) for state in states], labels, labels_of(batches))


def score_tasks(logits: Sequence[Tensor], labels: Sequence[Sequence[int]], truth: Tensor) -> TaskScores:
    """`task_scores` from logits [N, outputs] per task and true class numbers [N]."""
    logits, truth = [each.cpu() for each in logits], truth.cpu()
    everything = torch.tensor([label for own in labels for label in own])
    if len(everything.unique()) != len(everything):
        raise UserError("two tasks share a label: merge them with one head instead")
    columns = [own_logits(each, own) for each, own in zip(logits, labels)]
    accuracies = []
    for values, own in zip(columns, labels):
        mine = torch.isin(truth, torch.tensor(list(own)))
        if not mine.any():
            raise UserError(f"there is no sample with a label in {list(own)}")
        # Own head, own labels: easier than the joint decision, since the task is given away.
        guess = torch.tensor(list(own))[values[mine].argmax(1)]
        accuracies.append(float((guess == truth[mine]).double().mean()))
    counted = torch.isin(truth, everything)
    # Logits of different heads compete as they are: a merge that shifts their scales pays for it here.
    joint = everything[torch.cat(columns, dim=1)[counted].argmax(1)]
    return TaskScores(accuracies, sum(accuracies) / len(accuracies), float((joint == truth[counted]).double().mean()))


@torch.no_grad()
def features(model: nn.Module, state: State, batches: Sequence[Any], head: str) -> Tensor:
    """What the head reads, [N, D], over all batches."""
    found: list[Tensor] = []
    module = dict(model.named_modules())[head]
    handle = module.register_forward_pre_hook(lambda _, args: found.append(args[0]))
    try:
        with eval_mode(model):
            for batch in batches:
                call(model, state, as_inputs(batch))
    finally:
        handle.remove()
    return torch.cat(found).flatten(1)


def linear_probe(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, *, penalty: float = 1.0
) -> float:
    """Test accuracy of a logistic regression on features [N, D], standardised with the training set's moments.

    Args:
        penalty: strength of the L2 penalty (scikit-learn's 1 / C).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    # Standardised: merging shrinks variances, which a penalised probe would otherwise be punished for.
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=1 / penalty, max_iter=2000))
    probe.fit(train.double().cpu().numpy(), train_labels.cpu().numpy())
    return float(probe.score(test.double().cpu().numpy(), test_labels.cpu().numpy()))
