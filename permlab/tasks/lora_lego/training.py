"""Base model and adapters of a run, trained with progress and stops: what a killed run has finished is loaded again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from permlab.adapters import Adapter
from permlab.adapters.benchmark.prepare import is_trained, prepare_adapter, prepare_base
from permlab.adapters.benchmark.questions import Benchmark
from permlab.adapters.benchmark.settings import schedules
from permlab.adapters.benchmark.table import BENCHMARKS
from permlab.adapters.training import LoraShape
from permlab.config import Config
from permlab.runs.run import Run

if TYPE_CHECKING:
    from permlab.tasks.lora_lego import LoraLegoConfig


def base_of(config: Config[LoraLegoConfig], run: Run, benchmark: Benchmark, repeat: int) -> Any:
    """The base model of a repeat; its steps go on from those of the repeats before, so that they count once."""
    seed = config.seed + repeat
    folder = trained_folder(run, seed) / "base"
    schedule, _ = schedules(config.task)
    before = repeat * schedule.steps
    if not is_trained(folder):
        run.rewind_metrics(before)
    with run.progress(f"base model, seed {seed}", schedule.steps) as bar:

        def show(done: int, _total: int, loss: float) -> None:
            bar.update(done, loss=loss)
            run.log({"base_loss": loss, "repeat_seed": seed}, step=before + done)
            run.check_stop()

        sizes = config.model.scratch
        return prepare_base(folder, benchmark, sizes, schedule, seed, device=run.device, progress=show)


def adapters_of(
    config: Config[LoraLegoConfig], run: Run, benchmark: Benchmark, base: Any, seed: int, regime: str
) -> list[Adapter]:
    """One adapter per group of questions, trained or loaded."""
    task = config.task
    _, schedule = schedules(task)
    modules = list(BENCHMARKS[task.benchmark].modules)
    opened = []
    for index, (group, rank) in enumerate(zip(benchmark.groups, task.ranks_of(len(benchmark.groups)))):
        folder = trained_folder(run, seed) / regime / f"adapter-{index + 1}"
        shape = LoraShape(rank, task.lora_alpha, modules)
        with run.progress(f"{regime} adapter {index + 1}: {group.name}", schedule.steps) as bar:

            def show(done: int, _total: int, loss: float, bar: Any = bar) -> None:
                bar.update(done, loss=loss)
                run.check_stop()

            opened.append(prepare_adapter(folder, base, benchmark, index, schedule, shape, seed, regime, show))
    return opened


def trained_folder(run: Run, seed: int) -> Path:
    """Where the models of a seed are kept."""
    return run.artifact("trained") / f"seed-{seed}"
