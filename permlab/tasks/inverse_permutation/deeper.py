"""The modes depth and lengths of `task=inverse_permutation`: deeper networks, and longer problems than in training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from permlab.config import Config
from permlab.probes.grid import constructed_lengths, depth_row, depth_verdict, length_rows, length_verdict
from permlab.probes.lengths import Part
from permlab.tables import Row, counted
from permlab.tasks.inverse_permutation import figures_deeper as drawing
from permlab.tasks.inverse_permutation.settings import InversePermutationConfig, arms
from permlab.tasks.inverse_permutation.train import trained

if TYPE_CHECKING:
    from permlab.runs.run import Run


def depth(config: Config[InversePermutationConfig], run: Run) -> None:
    """Train every shape on every layout; compare with the floor, which no depth changes."""
    task = config.task
    rows = [depth_row(label, training) for label, training in trained(config, run)]
    shown = ["arm", "layers", "heads", "mlp", "positions", "test_mse", "mse_floor", "row_accuracy", "at_floor"]
    run.table("depth", rows, title=f"n = {task.n}, {counted(task.seeds, 'seed')} of every shape", columns=shown)
    run.figure("depth", drawing.depth(rows, task.n))
    run.summary(n=task.n, **depth_verdict(rows))


def lengths(config: Config[InversePermutationConfig], run: Run) -> None:
    """Train on problems of `task.lengths.size` rows; test from 2 rows to n."""
    task, sizes = config.task, range(2, config.task.n + 1)
    rows: list[Row] = constructed_lengths(next(iter(arms(task).values())), sizes)
    seconds = 0.0
    for label, training in trained(config, run):
        spread = isinstance(training.problem, Part) and training.problem.spread
        rows += length_rows(label, training.model, training.weights.detach().cpu(), spread, training.seeds, sizes)
        seconds += training.seconds
    found = length_verdict(rows, task.lengths.size)
    ends = [row for row in rows if row["size"] in (task.lengths.size, task.n)]
    run.table("lengths_ends", ends, title=f"trained on {task.lengths.size} rows, {counted(task.seeds, 'seed')}")
    run.table("lengths", rows, show=False)
    run.figure("lengths", drawing.lengths(rows, task.lengths.size))
    run.summary(n=task.n, train_seconds=seconds, **found)
