"""Arms of language models: matched, merged, scored on held-out and training texts, written."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from permlab.config import Config
from permlab.matching import Matching, match_networks, weight_matching
from permlab.merging import (
    Aligned,
    Score,
    Setting,
    barrier_curves,
    evaluate,
    l2_reduction,
    language_score,
)
from permlab.merging.arm import Arm
from permlab.merging.measure.evaluate import eval_mode
from permlab.merging.networks.loaded import Loaded
from permlab.merging.networks.saving import save_network
from permlab.merging.networks.states import Permuted
from permlab.merging.table import COMBINES
from permlab.runs.run import Run
from permlab.symmetry import Spec
from permlab.symmetry.functional import call
from permlab.tasks.merge.language import arms_of

Row = dict[str, Any]
State = Mapping[str, Tensor]


@dataclass
class Subject:
    """Networks to merge and what they are scored on.

    Attributes:
        label: of the rows: the number of the pair, or 0.
        names, states: the networks, in float32, on the device of `module`.
        sets: "test" and "train" (or "test" alone) -> batches of token ids.
        fit: batches for activations.
        matchings: match -> Matching, filled as arms ask for them.
    """

    label: int
    spec: Spec
    module: nn.Module
    names: list[str]
    states: list[dict[str, Tensor]]
    sets: dict[str, list[Any]]
    fit: list[Any] = field(default_factory=list)
    ancestor: State | None = None
    matchings: dict[str, Matching] = field(default_factory=dict)


def setting_of(config: Config, run: Run, subject: Subject | None = None) -> Setting:
    """What all arms share."""
    task = config.task
    return Setting(
        subject.fit if subject else [],
        seed=config.seed,
        similarity=task.similarity,
        restarts=task.restarts,
        weights=list(task.weights),
        density=task.density,
        ancestor=subject.ancestor if subject else None,
        progress=_news(run),
        should_stop=lambda: run.stopping,
    )


def _news(run: Run, seconds: float = 10.0) -> Callable[[int, int], None]:
    """A line on how far a matching is, now and then: large networks take minutes."""
    last = time.monotonic()

    def show(done: int, most: int) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            run.say(f"matching: {done} of at most {most} passes")

    return show


def matched(run: Run, match: str, spec: Spec, module: Any, states: Sequence[State], setting: Setting) -> Matching:
    """`match_arm` without the cost matrices, which can be larger than the networks.

    Raises:
        Interrupted: a stop signal arrived.
    """
    found = match_networks(match, spec, module, states, setting)
    run.check_stop()
    return dataclasses.replace(found, costs=[])


def combine(arm: Arm, states: Sequence[State], setting: Setting, tied: Mapping[str, str]) -> dict[str, Tensor]:
    """The merge of networks in a common order of units, each tensor of the number type it has in the first."""
    networks = Aligned(Spec(tied=dict(tied)), None, states, states, Matching(arm.match, []))
    return COMBINES[arm.combine].load()(networks, setting)


def reduction(spec: Spec, states: Sequence[State], matching: Matching) -> float:
    """Mean share of the distance to the first network that the matching takes away."""
    shares = [l2_reduction(spec, states[0], states[k], matching.permutations[k]) for k in range(1, len(states))]
    return sum(shares) / len(shares)


# ---- scores ----------------------------------------------------------------------------------------------------------


def measure(config: Config, run: Run, subject: Subject) -> tuple[list[Row], list[Row]]:
    """(rows of arms.csv, rows of curves.csv) of one pair or set of networks."""
    sets = subject.sets
    ends = {name: [score(subject, state, name) for state in subject.states] for name in sets}
    rows = [_row(subject, name, each, end) for name in sets for each, end in zip(subject.names, ends[name])]
    curves: list[Row] = []
    arms = arms_of(config)
    with run.progress("merging and scoring", len(arms)) as bar:
        for done, arm in enumerate(arms):
            found, lines = _measure_arm(config, run, subject, arm, ends)
            rows, curves = rows + found, curves + lines
            bar.update(done + 1)
            run.check_stop()
    if config.task.controls:
        rows += [_row(subject, name, "ensemble", ensemble(subject, name)) for name in sets]
    return rows, curves


def _measure_arm(
    config: Config, run: Run, subject: Subject, arm: Arm, ends: Mapping[str, list[Score]]
) -> tuple[list[Row], list[Row]]:
    spec, module, setting = subject.spec, subject.module, setting_of(config, run, subject)
    if arm.match not in subject.matchings:
        subject.matchings[arm.match] = matched(run, arm.match, spec, module, subject.states, setting)
    matching = subject.matchings[arm.match]
    aligned = [dict(Permuted(spec, *each)) for each in zip(subject.states, matching.permutations)]
    state = combine(arm, aligned, setting, spec.tied)
    shared: Row = {"l2_reduction": reduction(spec, subject.states, matching), "moved": matching.moved()}
    shared |= {"seconds_matching": matching.seconds}
    curves = {}
    if len(aligned) == 2 and COMBINES[arm.combine].line:
        curves = barrier_curves(module, *aligned, subject.sets, points=config.task.points, scorer=language_score)
    rows, lines = [], []
    for name in subject.sets:
        if name not in curves or setting.weights:
            row = _row(subject, name, arm.label, score(subject, state, name)) | shared
        if name in curves:
            curve, first, last = curves[name], ends[name][0], ends[name][1]
            if not setting.weights:
                middle = Score(curve.midpoint_loss, curve.midpoint_accuracy, first.count)
                row = _row(subject, name, arm.label, middle) | shared
            row |= {"loss_barrier": curve.loss_barrier, "accuracy_barrier": curve.accuracy_barrier}
            row |= {"midpoint_loss": curve.midpoint_loss, "midpoint_accuracy": curve.midpoint_accuracy}
            # A permutation must not change what a network does: the aligned end against the network as it came.
            row["end_change"] = abs(curve.loss[-1] - last.loss)
            lines += _lines(subject, name, arm.label, curve)
        else:
            row |= _excess(row, ends[name], setting.weights)
        rows.append(row)
    return rows, lines


def _excess(row: Row, ends: list[Score], weights: Sequence[float] | None) -> Row:
    """Barrier of a merge that lies on no line: its score minus the mean of the networks' scores."""
    shares = weights or [1.0] * len(ends)
    total = sum(shares)
    loss = sum(share * end.loss for share, end in zip(shares, ends)) / total
    accuracy = sum(share * end.accuracy for share, end in zip(shares, ends)) / total
    return {
        "loss_barrier": row["loss"] - loss,
        "accuracy_barrier": accuracy - row["accuracy"],
        "midpoint_loss": row["loss"],
        "midpoint_accuracy": row["accuracy"],
    }


def _row(subject: Subject, texts: str, arm: str, found: Score) -> Row:
    return {
        "pair": subject.label,
        "texts": texts,
        "arm": arm,
        "perplexity": found.perplexity,
        "loss": found.loss,
        "accuracy": found.accuracy,
    }


def _lines(subject: Subject, texts: str, arm: str, curve: Any) -> list[Row]:
    return [
        {"pair": subject.label, "texts": texts, "arm": arm, "position": at, "loss": loss, "accuracy": accuracy}
        for at, loss, accuracy in zip(curve.positions, curve.loss, curve.accuracy)
    ]


def score(subject: Subject, state: State, texts: str) -> Score:
    """Loss (nats per token) and next-token accuracy of one network on one set of texts."""
    return evaluate(subject.module, state, subject.sets[texts], language_score)


@torch.no_grad()
def ensemble(subject: Subject, texts: str) -> Score:
    """Score of the mean of the networks' probabilities: what running all of them gives."""
    loss, correct, count = 0.0, 0, 0
    with eval_mode(subject.module):
        for batch in subject.sets[texts]:
            inputs = {key: value for key, value in batch.items() if key != "labels"}
            labels = batch["labels"][:, 1:]
            counted = labels != -100
            logs = [call(subject.module, state, inputs).logits[:, :-1][counted] for state in subject.states]
            mean = torch.stack([each.log_softmax(-1) for each in logs]).logsumexp(0) - torch.tensor(len(logs)).log()
            wanted = labels[counted]
            loss -= float(mean.gather(1, wanted[:, None]).sum())
            correct, count = correct + int((mean.argmax(1) == wanted).sum()), count + len(wanted)
    return Score(loss / count, correct / count, count)


def untrained_rows(subject: Subject, initial: Sequence[State], seed: int) -> list[Row]:
    """Control: networks as initialised, their scores and how much nearer weight matching brings even them."""
    matching = weight_matching(subject.spec, *initial, seed=seed)
    shared = {"l2_reduction": reduction(subject.spec, initial, matching), "moved": matching.moved()}
    return [_row(subject, name, "untrained", score(subject, initial[0], name)) | shared for name in subject.sets]


# ---- the merged network ----------------------------------------------------------------------------------------------


def write_merged(config: Config, run: Run, loaded: Loaded, matching: Matching) -> None:
    """The merge of the configured arm as artifacts/model, and its permutations beside it."""
    arm, setting = arms_of(config)[0], setting_of(config, run)
    setting.ancestor = loaded.ancestor
    moved = [Permuted(loaded.spec, *each) for each in zip(loaded.stored, matching.permutations)]
    state = combine(arm, moved, setting, loaded.spec.tied)
    weights = setting.weights or [1 / len(moved)] * len(moved)
    record = {"method": arm.label, "arm": arm.text, "weights": weights, "seed": config.seed}
    record |= {"verified_on": loaded.verified_on}
    folder = save_network(run.artifact("model"), state, loaded, record)
    matching.save(run.artifact("matching.safetensors"))
    run.say(f"{arm.label}: the merged network is in {folder}")
