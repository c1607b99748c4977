"""The smallest run of every task that does all of its work; what the torture scripts start again and again."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

QUIET = ("tracker=none", "hardware=cpu", "hardware.threads=1")
TINY: dict[str, tuple[str, ...]] = {
    "spt": (
        *("dataset.people=6", "dataset.templates=2", "dataset.held_out=1", "task.train.epochs=4"),
        *("task.train.batch_size=8", "task.train.log_steps=1", "model.scratch.hidden_size=32"),
        *("model.scratch.layers=1", "model.scratch.intermediate_size=64"),
    ),
    "inverse_permutation": (
        *("task.n=3", "task.seeds=2", "task.train.batch=16", "task.train.test_examples=16", "task.train.steps=20"),
        "task.train.test_every=5",
    ),
    "ntk": (
        *("task.mode=train", "task.solver=gradient_descent", "task.k=[4]", "task.ones=[2]", "task.width=[256]"),
        *("task.members=4", "task.replicates=5"),
    ),
    "merge": ("model.width=8", "task.train.epochs=1", "task.points=3", "task.compare=[weight/regmean]"),
    "state_tracking": (
        *("task.group=Z2", "task.width=16", "task.seeds=2", "task.train.steps=20", "task.train.batch=4"),
        *("task.train.length=8", "task.train.log_steps=5", "task.test_length=16", "task.test_words=4"),
    ),
    "lora_lego": (
        *("task.facts=16", "task.facts_per_adapter=4", "task.counts=[2]", "task.lora_ranks=[2]"),
        *("task.train.base_steps=20", "task.train.adapter_steps=20", "task.scales=[1.0]", "task.sweep=[1.0]"),
        *("model.scratch.hidden_size=16", "model.scratch.layers=1", "model.scratch.heads=2"),
        *("model.scratch.kv_heads=2", "model.scratch.intermediate_size=32"),
    ),
}
RATE = {
    "spt": "task.train.learning_rate",
    "inverse_permutation": "task.train.learning_rate",
    "ntk": "task.learning_rate",
    "merge": "task.train.rate",
    "state_tracking": "task.train.learning_rate",
    "lora_lego": "task.train.learning_rate",
}
"""The key of every task's learning rate."""


def overrides(task: str, *more: str) -> list[str]:
    return [f"task={task}", *TINY[task], *QUIET, *more]


def permlab(*arguments: str) -> int:
    """The command in this process; return its exit code."""
    from permlab.cli import main
    from permlab.runs import console

    console._console = None  # made for a stream; every command starts with its own
    try:
        main(list(arguments))
    except SystemExit as ended:
        return int(ended.code or 0)
    finally:
        console._console = None
    return 0


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Send standard output and error, of this process and of its children, to nowhere."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, descriptor in enumerate(kept, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.close(nowhere)
