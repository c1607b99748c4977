"""The modes train and construct of `task=state_tracking`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save_file

from permlab import threads
from permlab.config import Config
from permlab.state_tracking import (
    NETWORKS,
    Model,
    Training,
    Words,
    accuracy,
    construct,
    group,
    reach,
    repeated_accuracy,
)
from permlab.storage.files import replacing
from permlab.tables import Row
from permlab.tasks.state_tracking.figures import draw_curves, draw_drift

if TYPE_CHECKING:
    from permlab.runs.console import Progress
    from permlab.runs.run import Run
    from permlab.tasks.state_tracking import StateTrackingConfig

POSITIONS = 64
"""Rows of the table of curves at most; accuracies are means over as many positions as that takes."""


def train(config: Config[StateTrackingConfig], run: Run) -> None:
    """Train the networks, then test them on words that are longer than those they were trained on."""
    task = config.task
    words, seeds = Words(group(task.group), task.alphabet), [run.seed + k for k in range(task.seeds)]
    model = Model(task.network, len(words.letters), words.group.size, seeds, task.width, task.layers).to(run.device)
    training = Training(model, words, task.train, seeds)
    began, before = time.monotonic(), 0.0
    saved = run.load_checkpoint() if run.resumed else None
    if saved is not None:
        training.load(saved["training"])
        before = saved["seconds"]
        run.rewind_metrics(training.done)
    weights = sum(each.numel() for each in model.parameters()) / task.seeds
    macs = 3 * weights * task.seeds * task.train.batch * task.train.length
    with run.progress("training", task.train.steps, training.done) as bar, threads.for_work(macs):
        while training.done < task.train.steps:
            losses = training.step()
            if training.done % task.train.log_steps == 0 or training.done == task.train.steps:
                training.check()
                mean = float(losses.mean())
                run.log({"loss": mean, "loss_worst": float(losses.max())}, step=training.done)
                bar.update(training.done, loss=mean)
            if run.stopping or run.checkpoint_due(training.done):
                training.check()
                seconds = before + time.monotonic() - began
                run.save_checkpoint({"training": training.state(), "seconds": seconds})
            run.check_stop()
    run.summary(train_seconds=before + time.monotonic() - began, parameters=weights)
    curves = accuracy(model, words, task.test_words, task.test_length, run.seed)
    report(config, run, words, curves, repeated_accuracy(model, words, task.test_length))
    with replacing(run.artifact("networks.safetensors")) as path:
        save_file(dict(model.state_dict()), str(path))


def report(config: Config[StateTrackingConfig], run: Run, words: Words, curves: Any, repeated: Any) -> None:
    """Tables, figure and headline numbers of accuracies [S, length], and of one letter repeated [S]."""
    task, trained = config.task, config.task.train.length
    seeds = [run.seed + k for k in range(task.seeds)]
    period = NETWORKS[task.network].period if task.layers == 1 else None
    ceiling = None if period is None else words.ceiling(period)
    chance = float(words.majority(task.test_length)[-1])
    rows: list[Row] = []
    for seed, curve, one_letter in zip(seeds, curves, repeated):
        rows.append(
            {
                "seed": seed,
                "reach": reach(curve, task.least),
                "accuracy_trained": float(curve[:trained].mean()),
                "accuracy_longer": float(curve[trained:].mean()) if task.test_length > trained else None,
                "one_letter": float(one_letter),
                "one_letter_ceiling": ceiling,
            }
        )
    title = f"{task.network} on {task.group} ({task.alphabet}): trained to {trained}, tested to {task.test_length}"
    run.table("reach", rows, title=title)
    bins = np.array_split(np.arange(task.test_length), min(POSITIONS, task.test_length))
    points: list[Row] = [
        {"seed": seed, "position": int(part[-1]) + 1, "accuracy": float(curve[part].mean())}
        for seed, curve in zip(seeds, curves)
        for part in bins
    ]
    run.table("curves", points, show=False)
    run.figure("accuracy", draw_curves(points, trained, chance, title))
    reaches = [row["reach"] for row in rows]
    run.summary(
        reach=float(np.median(reaches)),
        reach_worst=min(reaches),
        reach_best=max(reaches),
        solved=sum(each == task.test_length for each in reaches) / len(reaches),
        accuracy_trained=float(np.mean([row["accuracy_trained"] for row in rows])),
        accuracy_longer=float(curves[:, trained:].mean()) if task.test_length > trained else float("nan"),
        chance=chance,
        one_letter=float(repeated.max()),
        **({} if ceiling is None else {"over_ceiling": float(repeated.max()) - ceiling}),
    )


def written_down(config: Config[StateTrackingConfig], run: Run) -> None:
    """Run explicit weights on words of any length; how far rounding leads away from the exact states."""
    task = config.task
    words = Words(group(task.group), task.alphabet)
    symbols, states = words.draw(task.test_words, task.test_length, run.seed)
    at = np.unique(np.geomspace(1, task.test_length, 40).astype(int)) - 1
    rows: list[Row] = []
    drifts: list[Row] = []
    for machine in (construct(name, words) for name in task.suited):
        with run.progress(machine.name, task.test_length) as bar:

            def step(done: int, bar: Progress = bar) -> None:
                bar.update(done)
                run.check_stop()

            answers, distances = machine.run(torch.from_numpy(symbols), step)
        right = (answers.numpy() == states).mean(0)
        largest = np.maximum.accumulate(distances.numpy().max(0))
        margin = machine.margin()
        drifts += [{"construction": machine.name, "position": int(t) + 1, "drift": float(largest[t])} for t in at]
        line: Row = {"construction": machine.name, "reach": reach(right, 1.0), "accuracy": float(right.mean())}
        rows.append(line | {"drift": float(largest[-1]), "margin": margin, "reflections": machine.need or None})
    chance = float(words.majority(task.test_length)[-1])
    title = (
        f"Weights written down for {task.group} ({task.alphabet}), to length {task.test_length}; guessing: {chance:.3g}"
    )
    run.table("constructions", rows, title=title)
    run.table("drift", drifts, show=False)
    run.figure("drift", draw_drift(drifts, {row["construction"]: row["margin"] for row in rows}, task.group))
    run.summary(
        reach=min(row["reach"] for row in rows),
        accuracy=min(row["accuracy"] for row in rows),
        drift_share=max(row["drift"] / row["margin"] for row in rows),
        chance=chance,
    )
