"""The modes that use disentangled networks: train, construct and scratch_sweep of `task=inverse_permutation`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from permlab.config import Config
from permlab.footprint import Footprint, check_fits
from permlab.probes import Evaluation, Recipe, Training, Transformer, mse_floor
from permlab.probes.construction import construction_bytes
from permlab.probes.grid import deeper, length_models
from permlab.probes.lengths import Part
from permlab.probes.measure import (
    average,
    construction_rows,
    curve_rows,
    mechanism_rows,
    mechanism_verdict,
    save_weights,
    seed_rows,
    summary_row,
    swept_layouts,
    swept_row,
    swept_verdict,
)
from permlab.probes.network import Network
from permlab.probes.series import Series
from permlab.tables import Row, counted, is_number
from permlab.tasks.inverse_permutation import figures as drawing
from permlab.tasks.inverse_permutation.settings import SWEEP_PATIENCE, SWEEP_STEPS, InversePermutationConfig, arms
from permlab.tasks.inverse_permutation.table import LESS_MEMORY, MODES

if TYPE_CHECKING:
    from permlab.runs.run import Run


def recipe_of(task: InversePermutationConfig) -> Recipe:
    """Return the training recipe."""
    recipe = Recipe(**vars(task.train), target_mse=task.target_mse)
    if MODES[task.mode].swept:
        recipe.steps, recipe.patience = recipe.steps or SWEEP_STEPS, recipe.patience or SWEEP_PATIENCE
    return recipe


def models_of(task: InversePermutationConfig) -> tuple[dict[str, Network], dict[str, Part]]:
    """Return label -> network of everything a run trains or measures, and what those that differ are trained on."""
    kind = MODES[task.mode].models
    if kind == "shapes":
        return deeper(arms(task), task.depths), {}
    if kind == "lengths":
        models, problems = length_models(next(iter(arms(task).values())), task.lengths, task.depths.width)
        return models, problems
    layouts = swept_layouts(task.n, task.positions, task.scratch_counts) if kind == "scratch" else arms(task)
    return {label: Transformer(layout, task.depth, task.heads) for label, layout in layouts.items()}, {}


def footprint(config: Config[InversePermutationConfig]) -> Footprint:
    """Return the memory of the largest network of a run, and the arithmetic of all."""
    task, (models, _) = config.task, models_of(config.task)
    if not MODES[task.mode].trains:
        largest = max(construction_bytes(model.layout) for model in models.values())
        return Footprint(largest, {"one example": largest}, LIBRARIES)
    found = recipe_of(task).resolved(task.n)
    batch = max(found.batch, recipe_of(task).test_examples // 2)  # tests keep no activations
    sizes = {label: model.memory_bytes(task.seeds, batch) for label, model in models.items()}
    label = max(sizes, key=sizes.__getitem__)
    weights = 4.0 * task.seeds * models[label].size
    parts = {"weights": weights, "gradients": weights, "optimizer": 2 * weights}
    parts["activations"] = sizes[label] - sum(parts.values())
    macs = sum(step_macs(model, task.seeds * found.batch) for model in models.values())
    return Footprint(sizes[label], parts, LIBRARIES, found.steps * macs, found.steps * len(models))


LIBRARIES = 390e6
"""Resident bytes of Python and torch once a network of no size has been trained."""


def step_macs(model: Network, examples: int) -> float:
    """Multiply-accumulates of a training step: every weight meets every row, and every row all others."""
    length = model.layout.length
    return 3.0 * examples * (model.size * length + 2 * model.layout.n * length**2)


def plan_networks(config: Config[InversePermutationConfig]) -> dict[str, str]:
    """Return the lines of a dry run."""
    task, (models, _) = config.task, models_of(config.task)
    # First: the floor of a network that cannot fit would take as much.
    check_fits(footprint(config), config.hardware, LESS_MEMORY, config.run.force)
    lines = {}
    for label, model in list(models.items())[:6]:
        floor = mse_floor(model.layout, model.depth)
        lines[label] = f"{model.layout.describe()}; floor {floor:.4g}; {model.size:,} weights"
    if len(models) > len(lines):
        lines["networks"] = f"{len(models)} kinds"
    if MODES[task.mode].trains:
        found = recipe_of(task).resolved(task.n)
        lines["training"] = f"{found.steps} steps at most, batch {found.batch}, {task.seeds} seeds at once"
    return lines


def trained(config: Config[InversePermutationConfig], run: Run) -> Iterator[tuple[str, Training]]:
    """Yield every network once it is trained, with progress, metrics and checkpoints between; a stopped run goes on."""
    task, recipe = config.task, recipe_of(config.task)
    seeds = [run.seed + k for k in range(task.seeds)]
    models, problems = models_of(task)
    series = Series(models, recipe, seeds, run.device, problems, run.load_checkpoint())
    if run.resumed:
        run.rewind_metrics(series.steps)
    steps, labels = recipe.resolved(task.n).steps, list(models)
    with run.progress("training", steps * len(models), series.finished_steps) as bar:

        def on_test(label: str, training: Training, test: Evaluation) -> None:
            mse, rows = average(test.test_mse), average(test.row_accuracy)
            step = series.finished_steps + test.step
            prefix = f"{label}/" if len(models) > 1 else ""
            line = {"test_mse": mse, "row_accuracy": rows, "train_mse": average(test.train_mse)}
            run.log({**{f"{prefix}{key}": value for key, value in line.items()}, "arm_step": test.step}, step=step)
            bar.update(labels.index(label) * steps + test.step, test_mse=mse, row_accuracy=rows)
            if run.stopping or run.checkpoint_due(step):
                run.save_checkpoint(series.state)
            run.check_stop()

        yield from series.train(on_test)


def train(config: Config[InversePermutationConfig], run: Run) -> None:
    """Train the main arm and the arms to compare; report errors against exact floors."""
    task = config.task
    done = dict(trained(config, run))
    rows = [summary_row(label, training) for label, training in done.items()]
    shown = ["arm", "test_mse", "test_mse_worst", "mse_floor", "row_accuracy", "row_accuracy_ceiling"]
    shown += ["seeds_solved", "steps", "train_seconds", *(["possible"] if "possible" in rows[0] else [])]
    run.table("arms", rows, title=f"n = {task.n}, {counted(task.seeds, 'seed')}", columns=shown)
    seeds = [row for label, one in done.items() for row in seed_rows(label, one)]
    run.table("seeds", seeds, show=False)
    explain(run, seeds)
    run.table("curves", [row for label, one in done.items() for row in curve_rows(label, one)], show=False)
    for number, row in enumerate(rows):
        prefix = "" if number == 0 else str(row["arm"]).replace("/", "_") + "_"
        run.summary(**{f"{prefix}{key}": float(value) for key, value in row.items() if is_number(value)})
    run.summary(n=task.n)
    run.figure("error_curves", drawing.error_curves(done))
    for label, training in done.items():
        name = label.replace("/", "_")
        run.figure(f"attention_{name}", drawing.attention_maps(training))
        run.figure(f"weights_{name}", drawing.learned_matrices(training))
        save_weights(run.artifact(f"weights_{name}.safetensors"), training)


def explain(run: Run, seeds: list[Row], score: str = "row accuracy") -> None:
    """Table and figure of the mechanisms that the seeds found, each checked by ablation. `score`: what is measured."""
    rows = mechanism_rows(seeds)
    if not rows:
        return
    run.table("mechanisms", rows, title=f"mechanisms of layer 1; {score} without what it needs, and without the rest")
    run.figure("mechanisms", drawing.mechanisms(rows, score))
    run.summary(**mechanism_verdict(rows))


def scratch_sweep(config: Config[InversePermutationConfig], run: Run) -> None:
    """Train one network per number and position of scratch rows; compare with the exact floor and the construction."""
    task = config.task
    rows, seeds = [], []
    for label, training in trained(config, run):
        rows.append(swept_row(label, training, run.seed))
        seeds += seed_rows(label, training)
    shown = ["position", "scratch_rows", "test_mse", "mse_floor"]
    shown += ["row_accuracy", "row_accuracy_ceiling", "at_floor", "at_floor_restarted"]
    run.table(
        "scratch_sweep", rows, title=f"n = {task.n}, {counted(task.seeds, 'seed')}, last n rows read", columns=shown
    )
    run.table("seeds", seeds, show=False)
    explain(run, seeds)
    run.figure("scratch_sweep", drawing.scratch_sweep(rows, task.n))
    run.summary(n=task.n, **swept_verdict(rows, task.target_mse))


def construct(config: Config[InversePermutationConfig], run: Run) -> None:
    """Measure the explicit weights at every temperature; no training."""
    task, layouts = config.task, arms(config.task)
    rows: list[Row] = []
    with run.progress("constructing", len(layouts) * len(task.betas)) as bar:
        for row in construction_rows(layouts, task.betas, task.examples, run.seed):
            rows.append(row)
            bar.update(len(rows), beta=row["beta"], test_mse=row["test_mse"])
            run.check_stop()
    run.table("construction", rows, title=f"explicit two-layer weights, n = {task.n}")
    run.figure("construction", drawing.construction(rows, task.n))
    for number, label in enumerate(layouts):
        best = min((row for row in rows if row["arm"] == label), key=lambda row: row["test_mse"])
        prefix = "" if number == 0 else label.replace("/", "_") + "_"
        run.summary(**{f"{prefix}{key}": best[key] for key in ("test_mse", "mse_floor", "largest_error", "beta")})
    run.summary(n=task.n)
