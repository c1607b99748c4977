"""Six adapters on a base pretrained on other text, in three domains: `permlab experiment=lora_lego/real`."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from permlab.adapters import Adapter, open_adapter
from permlab.adapters.benchmark.prepare import is_trained
from permlab.adapters.benchmark.questions import Group, Questions
from permlab.adapters.benchmark.settings import schedules
from permlab.adapters.benchmark.table import BENCHMARKS
from permlab.adapters.interference import overlap_rows, rank_correlation
from permlab.adapters.real.domains import (
    ALL,
    DOMAINS,
    IN,
    NONE,
    SCORES,
    SINGLE,
    DomainExam,
    over_draws,
    with_totals,
    word_trials,
)
from permlab.adapters.real.prediction import drift_rows, prediction_rows, task_moments, type_rows
from permlab.adapters.real.questions import (
    FACT_TASKS,
    PIECE,
    WordTask,
    asked_at_random,
    joined,
    padded,
    questions_of_file,
    replayed_text,
    word_tasks,
)
from permlab.adapters.real.verdicts import PAPERS, leads
from permlab.adapters.training import LoraShape, Schedule, fit, train_adapter
from permlab.config import Config
from permlab.pretraining import BaseSettings, general_text, load_base, pretrained_base, read_record
from permlab.runs.run import Run
from permlab.seeding import derived_seed
from permlab.storage.folders import replacing_folder
from permlab.tables import Row, summarise
from permlab.tasks.lora_lego import figures_real as figures
from permlab.tasks.lora_lego.training import trained_folder

if TYPE_CHECKING:
    from permlab.tasks.lora_lego import LoraLegoConfig

FEWER = 2
"""A set of facts is learned in this part of the steps that sentences take: all of it stands in every third batch."""
FORMAT_STEPS, FORMAT_ROWS = 300, 300
"""Steps in which the base learns how questions are answered, where `train.base_steps` says nothing; rows per prompt."""


@dataclass(frozen=True)
class Learner:
    """What trains the adapters of one seed."""

    config: Config[LoraLegoConfig]
    run: Run
    base: Any
    seed: int
    replay: Questions | None

    def adapter(self, name: str, train: Questions, schedule: Schedule) -> Adapter:
        """The adapter of a task, trained or opened; what a killed run has finished is opened."""
        folder = trained_folder(self.run, self.seed) / name
        task = self.config.task
        with self.run.progress(f"seed {self.seed}, adapter {name}", schedule.steps) as bar:

            def show(done: int, _total: int, loss: float) -> None:
                bar.update(done, loss=loss)
                self.run.check_stop()

            if not is_trained(folder):
                group = Group(name, train, train, train)
                if self.replay is not None:
                    wide = max(part.ids.shape[1] for part in (train, self.replay))
                    group = dataclasses.replace(group, train=padded(train, wide), replay=padded(self.replay, wide))
                shape = LoraShape(task.lora_ranks[0], task.lora_alpha, list(BENCHMARKS["text"].modules))
                start, batches = derived_seed(self.seed, "start", name), derived_seed(self.seed, "batches", name)
                train_adapter(self.base, group, schedule, shape, start, batches, folder, show)
        return open_adapter(folder)


def study_real(config: Config[LoraLegoConfig], run: Run) -> None:
    """All seeds: train, merge, ask in three domains; interference, and whether it predicts the loss."""
    task = config.task
    folder = base_of_text(config, run)
    base, tokenizer = load_base(folder, run.device)
    said = read_record(folder)
    run.say(f"base {folder.name}: {said['loss_held_out']:.2f} nats per token of held-out text")
    texts, _ = general_text(task.corpus)
    # Text that the base has read: an adapter that never sees any learns "always my answers", and no merge can ask it.
    replay = replayed_text(texts, tokenizer) if task.train.replay else None
    base = answering(config, run, base, asked_at_random(texts, tokenizer, FORMAT_ROWS, config.seed), replay)
    scores: list[Row] = []
    predicted: list[Row] = []
    chances: list[Row] = []
    tables: dict[str, list[Row]] = {"overlap": [], "types": [], "drift": []}
    for repeat in range(task.repeats):
        seed = config.seed + repeat
        tasks = word_tasks(task.folder or "", tokenizer, seed, task.questions, task.facts_per_adapter)
        adapters, joint = adapters_of(Learner(config, run, base, seed, replay), tasks)
        files = [questions_of_file(path, tokenizer, task.questions, seed) for path in task.ood]
        exam = DomainExam(base, tasks, adapters, files)
        rows = exam.ask_controls(joint)
        trials = word_trials(task.lora_ranks[0])
        with run.progress(f"seed {seed}, merging", len(trials)) as bar:
            for done, trial in enumerate(trials, start=1):
                for draw in range(task.draws if "clustering" in trial.rule.row.reads else 1):
                    start = derived_seed(seed, "clusters", draw) if draw else seed
                    asked = exam.ask_merge(trial.rule, trial.label, task.scales, start)
                    rows += [row | {"draw": draw} for row in asked]
                bar.update(done)
                run.check_stop()
        merges = {trial.label: exam.merged(trial.rule, None, seed) for trial in trials}
        own = task_moments(base, tasks, adapters[0])
        scores += [{"seed": seed} | row for row in over_draws(with_totals(rows))]
        first = [row for row in rows if not row.get("draw")]
        predicted += [{"seed": seed} | row for row in prediction_rows(exam, merges, first, own)]
        found = {"overlap": overlap_rows(adapters), "types": type_rows(merges, adapters, own)}
        for name, part in (found | {"drift": drift_rows(exam, merges)}).items():
            tables[name] += [{"seed": seed} | row for row in part]
        chances += [{"seed": seed, "task": each.name, "chance": each.chance} for each in tasks]
    run.table("singles", singles(scores, chances), title="Each adapter alone, its task told")
    run.summary(single_gain_lowest=min(row["gain"] for row in singles(scores, chances)))
    write(run, scores, predicted, tables)
    run.summary(loss_held_out=said["loss_held_out"])


def base_of_text(config: Config[LoraLegoConfig], run: Run) -> Path:
    """The base under `run.root`, pretrained now or found."""
    settings = BaseSettings(corpus=config.task.corpus)
    with run.progress("base on general text", 1000) as bar:

        def show(done: int, total: int, loss: float) -> None:
            bar.update(1000 * done // total, loss=loss)
            run.check_stop()

        return pretrained_base(settings, Path(config.run.root) / "bases", device=run.device, progress=show)


def answering(config: Config[LoraLegoConfig], run: Run, base: Any, asked: Questions, replay: Questions | None) -> Any:
    """The base after it has learned which words answer which prompt, and nothing more; one for all seeds."""
    folder = trained_folder(run, config.seed) / "base"
    task = config.task
    rate, share = task.train.learning_rate, task.train.replay
    schedule = Schedule(task.train.base_steps or FORMAT_STEPS, schedules(task)[1].batch, rate, replayed=share)
    if not is_trained(folder):
        with run.progress("base, how questions are answered", schedule.steps) as bar:

            def show(done: int, _total: int, loss: float) -> None:
                bar.update(done, loss=loss)
                run.check_stop()

            wide = max(asked.ids.shape[1], PIECE)
            kept = None if replay is None else padded(replay, wide)
            seed = derived_seed(config.seed, "format")
            fit(base, base.parameters(), schedule, padded(asked, wide), seed, kept, progress=show)
        with replacing_folder(folder, replace=True) as part:
            base.save_pretrained(part)
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.to(run.device).eval()


def adapters_of(learner: Learner, tasks: Sequence[WordTask]) -> tuple[list[Adapter], Adapter]:
    """One adapter per task, and one of all tasks together."""
    _, schedule = schedules(learner.config.task)
    schedule = dataclasses.replace(schedule, replayed=learner.config.task.train.replay)
    short = dataclasses.replace(schedule, steps=max(1, schedule.steps // FEWER))
    own = [short if task.name in FACT_TASKS else schedule for task in tasks]
    adapters = [learner.adapter(task.name, task.train, each) for task, each in zip(tasks, own)]
    every = joined(tasks, max(len(task.train) for task in tasks), learner.seed)
    longer = dataclasses.replace(schedule, steps=2 * schedule.steps)
    return adapters, learner.adapter("all", every, longer)


def singles(scores: Sequence[Row], chances: Sequence[Row]) -> list[Row]:
    """Means over seeds of what every adapter answers of its own task, and of the best constant answer."""
    own = [row for row in scores if (row["domain"], row["method"]) == (IN, SINGLE) and row["task"] != ALL]
    rows = summarise(own, ("task",), SCORES, count="repeats")
    for row in rows:
        row["constant_answer"] = statistics.fmean(each["chance"] for each in chances if each["task"] == row["task"])
        row["gain"] = row["exact"] - row["constant_answer"]
    return rows


def write(run: Run, scores: list[Row], predicted: list[Row], tables: dict[str, list[Row]]) -> None:
    """Tables, figures and the numbers of the result."""
    run.table("scores", scores, show=False)
    keys = ("domain", "task", "method", "family", "scale_rule")
    means = summarise(scores, keys, (*SCORES, "scale", "draw_sd"), count="repeats")
    run.table("tasks", means, show=False)
    for domain in DOMAINS:
        whole = [row for row in means if row["domain"] == domain and row["task"] == ALL]
        # What is the same in every row of this table stands in its title.
        rows = [{name: value for name, value in row.items() if name not in keys[:2]} for row in whole]
        shown = ["method", "scale_rule", "scale", "exact", "exact_sd", "draw_sd", "choice", "log_probability"]
        run.table(domain.replace(" ", "_"), rows, title=f"{domain.capitalize()}: all tasks", columns=shown)
    run.figure("domains", figures.draw_domains(means))
    compared = leads(scores)
    run.table("leads", compared, title="LEGO as in the paper, against each: difference of exact match, 95 % interval")
    run.table("predictions", predicted, show=False)
    correlation: dict[str, float] = {}
    for name, column in (("correlation", "predicted"), ("correlation_plain", "predicted_plain")):
        value, low, high = rank_correlation(predicted, column, "lost_log_probability", within="seed", cluster="method")
        correlation |= {name: value, f"{name}_low": low, f"{name}_high": high}
    kinds = summarise(tables["overlap"], ("type",), None, count="modules", aside=("seed",))
    run.table("interference", kinds, title="Interference by type of module, means over modules and seeds")
    types = summarise(tables["types"], ("method", "type"), ("predicted",), count="repeats")
    drift = summarise(tables["drift"], ("method", "layer"), ("drift",), count="repeats")
    run.table("types", types, show=False)
    run.table("drift", drift, show=False)
    run.figure("interference", figures.draw_interference(types, drift, predicted, correlation))
    numbers: dict[str, float] = {}
    inside = [row for row in scores if (row["domain"], row["task"], row["scale_rule"]) == (IN, ALL, "1")]
    for name, method in (("single_score", SINGLE), ("average_score", PAPERS)):
        numbers[name] = statistics.fmean(row["exact"] for row in inside if row["method"] == method)
    for row in compared:
        stem = f"{row['domain'].replace(' ', '_')}_{row['rule']}_lead"
        numbers[stem] = min(numbers.get(stem, row["lead"]), row["lead"])
    run.summary(**numbers, **correlation, over_base_lowest=over_base(scores))


def over_base(scores: Sequence[Row]) -> float:
    """What LEGO as in the paper answers more than the base without an adapter, in its worst domain and seed.

    A merge that harms less than others do is ahead of them; it has merged something where it is ahead of this too.
    """
    found = {
        (row["method"], row["domain"], row["seed"]): row["exact"]
        for row in scores
        if row["task"] == ALL and row["scale_rule"] == "1"
    }
    ahead = [value - found[NONE, domain, seed] for (method, domain, seed), value in found.items() if method == PAPERS]
    return float(min(ahead))
