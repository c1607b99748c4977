"""The modes that use disentangled networks: train, construct and scratch_sweep of `task=inverse_permutation`."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from permlab.config import Config
from permlab.probes import (
    Evaluation,
    Layout,
    Recipe,
    Training,
    Transformer,
    construction_error,
    construction_output,
    mse_floor,
    reachable,
    routes,
    row_accuracy_ceiling,
    squared_error,
)
from permlab.probes.construction import check_construction_memory
from permlab.probes.problem import heldout_batch
from permlab.probes.transformer import check_memory
from permlab.tasks.inverse_permutation import InversePermutationConfig, arms, sweep_layout
from permlab.tasks.inverse_permutation import figures as drawing

if TYPE_CHECKING:
    from permlab.runs.run import Run

_COUNTED_UP_TO = 14  # largest n for which n! is printed as a number of permutations


def available_memory() -> int:
    """Return the bytes this process may still take: free memory where the system says it, else half of all memory."""
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def recipe_of(task: InversePermutationConfig) -> Recipe:
    """Return the training recipe with the defaults that depend on the mode and on n filled in."""
    train = task.train
    steps = 400 if task.mode == "scratch_sweep" else max(600, 25 * task.n)
    return Recipe(
        steps=train.steps or steps,
        batch=train.batch or (256 if task.n < 12 else 128 if task.n < 24 else 64 if task.n < 48 else 32),
        learning_rate=train.learning_rate,
        optimizer=train.optimizer,
        schedule=train.schedule,
        betas=(train.betas[0], train.betas[1]),
        weight_decay=train.weight_decay,
        init_std=train.init_std,
        clip=train.clip,
        target_mse=task.target_mse,
        test_every=train.test_every,
        test_examples=train.test_examples,
    )


def layouts_of(task: InversePermutationConfig) -> dict[str, Layout]:
    """Return label -> layout of everything a run trains or measures."""
    if task.mode != "scratch_sweep":
        return arms(task)
    counts = task.scratch_counts or list(range(2 * task.n + 1))
    return {f"{side}/{k}": sweep_layout(task.n, side, k) for side in task.positions for k in counts}


def check_networks(config: Config) -> int:
    """Return the bytes of the largest network of a run.

    Raises:
        UserError: it does not fit.
    """
    task, free = config.task, available_memory()
    if task.mode == "construct":
        return max(check_construction_memory(layout, free) for layout in layouts_of(task).values())
    recipe = recipe_of(task)
    examples = max(recipe.batch, recipe.test_examples // 2)  # tests keep no activations
    models = [Transformer(layout, task.depth, task.heads) for layout in layouts_of(task).values()]
    return max(check_memory(model, task.seeds, examples, free) for model in models)


def plan_networks(config: Config) -> dict[str, str]:
    """Return the lines of a dry run."""
    task, layouts = config.task, layouts_of(config.task)
    need = check_networks(config)
    lines = {"memory": f"about {need / 2**20:,.0f} MiB of {available_memory() / 2**20:,.0f} free"}
    for label, layout in list(layouts.items())[:6]:
        size = Transformer(layout, task.depth, task.heads).size
        lines[label] = f"{layout.describe()}; floor {mse_floor(layout, task.depth):.4g}; {size:,} weights"
    if task.mode != "construct":
        recipe = recipe_of(task)
        lines["training"] = f"{recipe.steps} steps at most, batch {recipe.batch}, {task.seeds} seeds at once"
    return lines


class Sequence:
    """Trains networks one after another; a stopped run goes on where it was, with the same numbers."""

    def __init__(self, config: Config, run: Run, recipe: Recipe) -> None:
        self.task, self.run, self.recipe = config.task, run, recipe
        self.seeds = [run.seed + k for k in range(config.task.seeds)]
        self.state: dict[str, Any] = run.load_checkpoint() or {"done": {}, "label": None, "training": None}
        if run.resumed:
            run.rewind_metrics(self._steps_done() + (self.state["training"] or {"step": 0})["step"])

    def _steps_done(self) -> int:
        return sum(state["step"] for state in self.state["done"].values())

    def train(self, layouts: dict[str, Layout]) -> Iterator[tuple[str, Training]]:
        """Yield every arm once it is trained; arms finished before a stop are only loaded."""
        total = self.recipe.steps * len(layouts)
        with self.run.progress("training", total, self._steps_done()) as bar:
            for number, (label, layout) in enumerate(layouts.items()):
                model = Transformer(layout, self.task.depth, self.task.heads)
                training = Training(model, self.recipe, self.seeds, self.run.device)
                if label in self.state["done"]:
                    training.load_state_dict(self.state["done"][label])
                else:
                    if self.state["label"] == label:
                        training.load_state_dict(self.state["training"])
                    training.run(self._after_test(label, number, layouts, bar.update))
                    self.state = {**self.state, "label": None, "training": None}
                    self.state["done"][label] = training.state_dict()
                yield label, training

    def _after_test(
        self, label: str, number: int, layouts: dict[str, Layout], update: Callable[..., None]
    ) -> Callable[[Training, Evaluation], None]:
        prefix = f"{label}/" if len(layouts) > 1 else ""

        def callback(training: Training, test: Evaluation) -> None:
            mse, rows = mean(test.test_mse), mean(test.row_accuracy)
            step = self._steps_done() + test.step
            line = {f"{prefix}test_mse": mse, f"{prefix}row_accuracy": rows, f"{prefix}train_mse": mean(test.train_mse)}
            self.run.log({**line, "arm_step": test.step}, step=step)
            update(number * self.recipe.steps + test.step, test_mse=mse, row_accuracy=rows)
            if self.run.stopping or self.run.checkpoint_due(step):
                self.state = {**self.state, "label": label, "training": training.state_dict()}
                self.run.save_checkpoint(self.state)
            self.run.check_stop()

        return callback


def train(config: Config, run: Run) -> None:
    """Train the main arm and the arms to compare; report errors against exact floors."""
    check_networks(config)
    task, recipe = config.task, recipe_of(config.task)
    layouts = arms(task)
    trained = dict(Sequence(config, run, recipe).train(layouts))
    rows = [arm_row(label, layouts[label], training) for label, training in trained.items()]
    run.table("arms", rows, title=f"n = {task.n}, {task.seeds} seeds")
    run.table("seeds", [row for label, one in trained.items() for row in seed_rows(label, one)], show=False)
    run.table("curves", [row for label, one in trained.items() for row in curve_rows(label, one)], show=False)
    for number, row in enumerate(rows):
        numbers = {key: value for key, value in row.items() if isinstance(value, (int, float)) and key != "arm"}
        prefix = "" if number == 0 else str(row["arm"]).replace("/", "_") + "_"
        run.summary(**{f"{prefix}{key}": float(value) for key, value in numbers.items()})
    run.summary(n=task.n)
    run.figure("error_curves", drawing.error_curves(trained))
    for label, training in trained.items():
        name = label.replace("/", "_")
        run.figure(f"attention_{name}", drawing.attention_maps(training))
        run.figure(f"weights_{name}", drawing.learned_matrices(training))
        save_weights(run.artifact(f"weights_{name}.safetensors"), training)


def arm_row(label: str, layout: Layout, training: Training) -> dict[str, Any]:
    """Return the numbers of one arm: means over seeds, the worst seed, and the lowest error of any seed at any time."""
    last, hits = training.curve[-1], training.steps_to_target()
    floor = mse_floor(layout, training.model.depth)
    reach = reachable(layout, training.model.depth)
    n, solved = layout.n, training.solved(last)
    total = math.factorial(n)
    row: dict[str, Any] = {
        "arm": label,
        "test_mse": mean(last.test_mse),
        "test_mse_worst": max(last.test_mse),
        "test_mse_lowest": min(mse for test in training.curve for mse in test.test_mse),
        "mse_floor": floor,
        "row_accuracy": mean(last.row_accuracy),
        "row_accuracy_worst": min(last.row_accuracy),
        "row_accuracy_ceiling": row_accuracy_ceiling(layout),
        "seeds_solved": sum(solved),
        "steps": last.step,
        "steps_to_target": mean([float(h) for h in hits if h]) if any(hits) else None,
        "train_seconds": training.seconds,
        "possible_share": reach.possible_count() / total,
    }
    if training.model.depth > 1:
        row |= {name: mean(shares) for name, shares in routes(training.model, training.weights.detach()).items()}
    if n <= _COUNTED_UP_TO:
        row["possible"] = f"{reach.possible_count()} of {total}"
    return row


def seed_rows(label: str, training: Training) -> list[dict[str, Any]]:
    """Return one row per seed."""
    last, hits = training.curve[-1], training.steps_to_target()
    values = {"test_mse": last.test_mse, "row_accuracy": last.row_accuracy, "steps_to_target": hits}
    if training.model.depth > 1:
        values |= routes(training.model, training.weights.detach())
    return [
        {"arm": label, "seed": seed, "steps": last.step, **{name: value[k] for name, value in values.items()}}
        for k, seed in enumerate(training.seeds)
    ]


def curve_rows(label: str, training: Training) -> list[dict[str, Any]]:
    """Return every test of every seed."""
    return [
        {
            "arm": label,
            "seed": seed,
            "step": test.step,
            "test_mse": test.test_mse[k],
            "row_accuracy": test.row_accuracy[k],
        }
        for test in training.curve
        for k, seed in enumerate(training.seeds)
    ]


def save_weights(path: Path, training: Training) -> None:
    """Write the matrices A of each layer and W of every seed: `seed0.layer1`, ..., `seed0.readout`."""
    from safetensors.torch import save_file

    parts = training.model.unpack(training.weights.detach().cpu())
    names = [f"layer{k + 1}" for k in range(training.model.depth)] + ["readout"]
    tensors = {
        f"seed{seed}.{name}": part[k].contiguous()
        for k, seed in enumerate(training.seeds)
        for name, part in zip(names, parts)
    }
    save_file(tensors, str(path))


def scratch_sweep(config: Config, run: Run) -> None:
    """Train one network per number and position of scratch rows; compare with the exact floor and the construction."""
    check_networks(config)
    task = config.task
    layouts = layouts_of(task)
    rows = []
    for label, training in Sequence(config, run, recipe_of(task)).train(layouts):
        layout, last = layouts[label], training.curve[-1]
        position, _, count = label.partition("/")
        rows.append(
            {
                "position": position,
                "scratch_rows": int(count),
                "test_mse": mean(last.test_mse),
                "test_mse_best": min(last.test_mse),
                "test_mse_worst": max(last.test_mse),
                "mse_floor": mse_floor(layout, task.depth),
                "construction_mse": construction_floor(layout, run.seed),
                "row_accuracy": mean(last.row_accuracy),
                "row_accuracy_best": max(last.row_accuracy),
                "row_accuracy_ceiling": row_accuracy_ceiling(layout),
                "possible_share": reachable(layout, task.depth).possible_count() / math.factorial(task.n),
                "steps": last.step,
                "train_seconds": training.seconds,
            }
        )
    shown = (
        "position",
        "scratch_rows",
        "test_mse",
        "mse_floor",
        "row_accuracy",
        "row_accuracy_ceiling",
        "possible_share",
    )
    run.table("scratch_sweep", rows, title=f"n = {task.n}, {task.seeds} seeds, last n rows read", columns=list(shown))
    run.figure("scratch_sweep", drawing.scratch_sweep(rows, task.n))
    exact = [row for row in rows if row["mse_floor"] == 0]
    run.summary(
        n=task.n,
        points=len(rows),
        train_seconds=sum(row["train_seconds"] for row in rows),
        below_floor=sum(row["test_mse_best"] < row["mse_floor"] - 0.01 for row in rows),
        solved_where_floor_is_zero=sum(row["test_mse"] <= task.target_mse for row in exact) / max(1, len(exact)),
        least_row_accuracy_where_floor_is_zero=min((row["row_accuracy"] for row in exact), default=0.0),
        least_rows_solved=min([r["scratch_rows"] for r in exact if r["test_mse"] <= task.target_mse], default=-1),
        construction_excess=max(abs(row["construction_mse"] - row["mse_floor"]) for row in rows),
    )


def construction_floor(layout: Layout, seed: int) -> float:
    """Error of the explicit weights in the limit of low temperature, on balanced test problems."""
    x, y = heldout_batch(layout, 64, seed)
    return float(squared_error(construction_output(layout, x.double(), beta=200.0), y.double()))


def construct(config: Config, run: Run) -> None:
    """Measure the explicit weights at every temperature; no training."""
    check_networks(config)
    task, rows = config.task, []
    layouts = arms(task)
    with run.progress("constructing", len(layouts) * len(task.betas)) as bar:
        for label, layout in layouts.items():
            for beta in task.betas:
                mse, largest = construction_error(layout, beta, task.examples, run.seed)
                rows.append(
                    {"arm": label, "beta": beta, "temperature": 1 / beta, "test_mse": mse, "largest_error": largest}
                )
                rows[-1]["mse_floor"] = mse_floor(layout)
                bar.update(len(rows), beta=beta, test_mse=mse)
                run.check_stop()
    run.table("construction", rows, title=f"explicit two-layer weights, n = {task.n}")
    run.figure("construction", drawing.construction(rows, task.n))
    best = {label: min((r for r in rows if r["arm"] == label), key=lambda r: r["test_mse"]) for label in layouts}
    for number, (label, row) in enumerate(best.items()):
        prefix = "" if number == 0 else label.replace("/", "_") + "_"
        keys = ("test_mse", "mse_floor", "largest_error", "beta")
        run.summary(**{f"{prefix}{key}": row[key] for key in keys})
    run.summary(n=task.n)


def mean(values: list[float]) -> float:
    """Arithmetic mean of a list that is not empty."""
    return sum(values) / len(values)
