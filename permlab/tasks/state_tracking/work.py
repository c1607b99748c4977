"""The modes train and construct of `task=state_tracking`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from safetensors.torch import save_file

from permlab import threads
from permlab.config import Config
from permlab.state_tracking import Model, Tested, Training, Words, accuracy, construct, drift, group, repeated_accuracy
from permlab.storage.files import replacing
from permlab.tables import Row
from permlab.tasks.state_tracking.figures import draw_drift, draw_seeds

if TYPE_CHECKING:
    from permlab.runs.console import Progress
    from permlab.runs.run import Run
    from permlab.tasks.state_tracking import StateTrackingConfig


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
    one_letter = repeated_accuracy(model, words, task.test_length)
    tested = Tested(words, task.network, task.layers, task.train.length, seeds, curves, one_letter, task.least)
    title = (
        f"{task.network} on {task.group} ({task.alphabet}): trained to {tested.trained}, tested to {task.test_length}"
    )
    run.table("reach", tested.rows(), title=title)
    run.table("curves", tested.points(), show=False)
    run.figure("accuracy", draw_seeds(tested, task.group))
    run.summary(**tested.numbers())
    with replacing(run.artifact("networks.safetensors")) as path:
        save_file(dict(model.state_dict()), str(path))


def written_down(config: Config[StateTrackingConfig], run: Run) -> None:
    """Run explicit weights on words of any length; how far rounding leads away from the exact states."""
    task = config.task
    words = Words(group(task.group), task.alphabet)
    rows: list[Row] = []
    drifts: list[Row] = []
    for name in task.suited:
        with run.progress(name, task.test_length) as bar:

            def step(done: int, bar: Progress = bar) -> None:
                bar.update(done)
                run.check_stop()

            line, points = drift(construct(name, words), words, task.test_words, task.test_length, run.seed, step)
        rows.append(line)
        drifts += points
    chance = float(words.majority(task.test_length)[-1])
    title = (
        f"Weights written down for {task.group} ({task.alphabet}), to length {task.test_length}; guessing: {chance:.3g}"
    )
    run.table("constructions", rows, title=title)
    run.table("drift", drifts, show=False)
    run.figure("drift", draw_drift(drifts, {row["construction"]: row["margin"] for row in rows}, task.group))
    worst = {"drift_share": max(row["drift"] / row["margin"] for row in rows)}
    run.summary(chance=chance, **worst, **{name: min(row[name] for row in rows) for name in ("reach", "accuracy")})
