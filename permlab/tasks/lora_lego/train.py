"""Base model and adapters of a benchmark, trained once: what a killed run has finished is loaded again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from permlab.adapters import Adapter, open_adapter
from permlab.adapters.training import (
    LoraShape,
    Schedule,
    build_base,
    fit,
    spread_embeddings,
    train_adapter,
)
from permlab.config import Config
from permlab.data.adapter_tasks import Benchmark, knowledge, lists, sentences
from permlab.runs.run import Run
from permlab.storage.folders import replacing_folder

# benchmark: base steps, base batch, adapter steps, adapter batch (knowledge takes all facts of an adapter in a step)
PRESETS = {"knowledge": (400, 256, 300, 64), "lists": (1200, 128, 300, 64), "text": (400, 64, 300, 64)}

# What a word says about a label has to be learned per word, so the sentence tasks adapt the embedding too.
_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TARGETS = {"knowledge": _LINEAR, "lists": _LINEAR, "text": [*_LINEAR, "embed_tokens"]}


def make_benchmark(config: Config, seed: int) -> Benchmark:
    """Questions of `task.benchmark` drawn from `seed`."""
    task, groups = config.task, max(config.task.counts)
    if task.benchmark == "knowledge":
        return knowledge(groups, seed, task.facts, task.facts_per_adapter, task.validation)
    if task.benchmark == "lists":
        return lists(groups, seed)
    return sentences(task.folder, seed, vocabulary=config.model.vocab_size, asked=task.questions)


def schedules(config: Config) -> tuple[Schedule, Schedule]:
    """Training of the base and of an adapter."""
    task = config.task
    named = ("base_steps", "base_batch", "adapter_steps", "adapter_batch")
    values = [
        preset if (given := getattr(task.train, name)) is None else given
        for name, preset in zip(named, PRESETS[task.benchmark])
    ]
    rate = task.train.learning_rate
    return Schedule(values[0], values[1], rate), Schedule(values[2], values[3], rate)


def prepare_base(config: Config, run: Run, benchmark: Benchmark, seed: int) -> Any:
    """The base model of a seed, trained or loaded; in evaluation mode on the run's device."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    folder = trained_folder(run, seed) / "base"
    if not (folder / "config.json").is_file():
        schedule, _ = schedules(config)
        model = build_base(benchmark, config.model.scratch, seed).to(run.device)
        with run.progress(f"base model, seed {seed}", schedule.steps) as bar:

            def show(done: int, _total: int, loss: float) -> None:
                bar.update(done, loss=loss)
                run.log({"base_loss": loss, "repeat_seed": seed}, step=done)
                run.check_stop()

            fit(model, model.parameters(), schedule, benchmark.base, seed, progress=show)
        if benchmark.fresh is not None:
            spread_embeddings(model, benchmark.fresh, seed)
        with replacing_folder(folder, replace=True) as part:
            model.save_pretrained(part)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(run.device).eval()


def prepare_adapters(
    config: Config, run: Run, benchmark: Benchmark, base: Any, seed: int, regime: str
) -> list[Adapter]:
    """One adapter per group, trained or loaded. "shared" starts all of them from the same A."""
    _, schedule = schedules(config)
    ranks = config.task.lora_ranks
    opened = []
    for index, group in enumerate(benchmark.groups):
        folder = trained_folder(run, seed) / regime / f"adapter-{index + 1}"
        if not (folder / "adapter_config.json").is_file():
            shape = LoraShape(ranks[index % len(ranks)], config.task.lora_alpha, TARGETS[benchmark.name])
            init_seed = 7919 * (seed + 1) + (0 if regime == "shared" else index + 1)
            with run.progress(f"{regime} adapter {index + 1}: {group.name}", schedule.steps) as bar:

                def show(done: int, _total: int, loss: float, bar: Any = bar) -> None:
                    bar.update(done, loss=loss)
                    run.check_stop()

                train_adapter(base, group, schedule, shape, init_seed, 1000 * seed + index, folder, show)
        opened.append(open_adapter(folder))
    return opened


def trained_folder(run: Run, seed: int) -> Path:
    """Where the models of a seed are kept."""
    return run.artifact("trained") / f"seed-{seed}"
