"""Train adapters, merge or prune them, write tables and figures: `permlab task=lora_lego task.study=merge`."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from permlab.adapters import Adapter, merge_adapters, write_merge
from permlab.adapters.benchmark import clusterings, identities
from permlab.adapters.benchmark.exam import ask_singles, make_exam
from permlab.adapters.benchmark.peft_check import peft_output_gap
from permlab.adapters.benchmark.prune import prune_all
from permlab.adapters.benchmark.questions import Benchmark
from permlab.adapters.benchmark.scores import half_rank_scores, headline, mean_scores, means
from permlab.adapters.benchmark.settings import questions_of
from permlab.adapters.benchmark.trials import Trial, all_trials, compare, diagnose
from permlab.adapters.merge_rule import rule_of
from permlab.config import Config
from permlab.runs.run import Run
from permlab.tables import Row
from permlab.tasks.lora_lego import figures
from permlab.tasks.lora_lego.training import adapters_of, base_of

if TYPE_CHECKING:
    from permlab.tasks.lora_lego import LoraLegoConfig

CHOSEN = "the task's keys"
SHOWN = ["regime", "adapters", "method", "k", "scale_rule", "scale", "score", "score_sd", "kept", "norm_ratio"]


@dataclass(frozen=True)
class Trained:
    """The models of one seed and one start of A, and what each adapter scores alone."""

    seed: int
    regime: str
    benchmark: Benchmark
    base: Any
    adapters: list[Adapter]
    singles: list[Row]

    def mark(self, rows: list[Row]) -> list[Row]:
        """Rows with seed and regime in front."""
        return [{"seed": self.seed, "regime": self.regime} | row for row in rows]


def trained(config: Config[LoraLegoConfig], run: Run) -> Iterator[Trained]:
    """All seeds and regimes, one after the other."""
    task = config.task
    for repeat in range(task.repeats):
        seed = config.seed + repeat
        benchmark = questions_of(task, seed, vocabulary=config.model.vocab_size)
        base = base_of(config, run, benchmark, repeat)
        for regime in task.regimes:
            adapters = adapters_of(config, run, benchmark, base, seed, regime)
            yield Trained(seed, regime, benchmark, base, adapters, ask_singles(base, benchmark, adapters))


def study_merges(config: Config[LoraLegoConfig], run: Run) -> None:
    """Every method on the adapters of all seeds and regimes; the merge of the task's keys is written."""
    task, rule = config.task, rule_of(config.task)
    rows: list[Row] = []
    singles: list[Row] = []
    clusters: list[Row] = []
    for here in trained(config, run):
        singles += here.mark(here.singles)
        for count in task.counts:
            adapters = here.adapters[:count]
            exam = make_exam(here.base, here.benchmark, here.singles, count)
            trials = trials_of(config, count)
            first = not rows
            with run.progress(f"merging {count} adapters", len(trials)) as bar:

                def show(done: int, bar: Any = bar) -> None:
                    bar.update(done)
                    run.check_stop()

                rows += here.mark(compare(exam, adapters, trials, task.scales, here.seed, show))
            clusters += here.mark(diagnose(adapters, task.ranks_of(count), task.sweep, rule, here.seed))
            if first:
                out = run.artifact("adapter")
                write_merge(out, adapters, rule, seed=config.seed, extra=task.extra)
                merged = merge_adapters(adapters, rule, seed=config.seed).adapter
                gap = peft_output_gap(here.base, out, merged)
                run.summary(peft_output_gap=gap)
                run.say(f"PEFT loads {out.name}; its logits differ from base + delta W by {gap:.1e} of the largest")
    run.table("scores", rows, show=False)
    run.table("singles", means(singles, ("regime", "group")), title="Each adapter alone")
    table = mean_scores(rows)
    said = f"{task.repeats} seed{'s' if task.repeats > 1 else ''}"
    run.table("methods", table, title=f"Merged adapters, score / single adapter ({said})", columns=SHOWN)
    spread = means(clusters, ("regime", "adapters", "k"))
    run.table("diagnostics", spread, title="LEGO's clusters, means over modules")
    for regime in task.regimes:
        for count in task.counts:
            part = [row for row in table if (row["regime"], row["adapters"]) == (regime, count)]
            title = f"{count} adapters, {regime} A"
            run.figure(f"methods_{regime}_{count}", figures.draw_methods(part, title, CHOSEN))
            run.figure(f"k_sweep_{regime}_{count}", figures.draw_sweep(part, title, CHOSEN))
    run.figure("diagnostics", figures.draw_diagnostics(spread))
    regime, count = task.regimes[0], task.counts[0]
    part = [row for row in table if (row["regime"], row["adapters"]) == (regime, count)]
    run.summary(**headline(part, singles, trials_of(config, count), CHOSEN))


def trials_of(config: Config[LoraLegoConfig], count: int) -> list[Trial]:
    """The merge of the task's keys, then every method."""
    task, rule = config.task, rule_of(config.task)
    return [Trial(CHOSEN, rule), *all_trials(task.sweep, task.ranks_of(count), rule)]


def study_pruning(config: Config[LoraLegoConfig], run: Run) -> None:
    """Every adapter of all seeds cut to fewer ranks."""
    task = config.task
    rows: list[Row] = []
    singles: list[Row] = []
    for here in trained(config, run):
        singles += here.mark(here.singles)
        with run.progress("pruning", len(here.adapters)) as bar:
            for done, part in enumerate(prune_all(here.base, here.benchmark, here.adapters, here.seed), start=1):
                run.check_stop()
                rows += here.mark(part)
                bar.update(done)
    run.table("singles", means(singles, ("regime", "group")), title="Each adapter at full rank")
    run.table("scores", rows, show=False)
    table = means(rows, ("regime", "method", "k"))
    run.table("pruning", table, title="One adapter at rank k, score / full rank")
    run.figure("pruning", figures.draw_pruning([row for row in table if row["regime"] == task.regimes[0]]))
    single = statistics.fmean(row["single_test"] for row in singles)
    run.summary(single_score=single, **half_rank_scores(table, max(task.lora_ranks)))


def study_identities(config: Config[LoraLegoConfig], run: Run) -> None:
    """Five tables and one figure; `identities_held` counts what holds to float32 precision."""
    seed = config.seed
    exact = identities.identity_rows(seed)
    run.table("identities", exact, title="Identities on random adapters, relative error of delta W")
    gauges = identities.gauge_rows(seed)
    run.table("gauges", gauges, title="Merge with a copy of the same function, k = r: relative error of delta W")
    norms = identities.norm_rows(seed)
    run.table("norms", norms, title="|merged| / mean |input| on random adapters")
    spread = identities.seed_rows(seed)
    run.table("seeds", spread, title="Five k-means seeds: difference of the merged delta W")
    groups = clusterings.clustering_rows(seed)
    said = f"{clusterings.COUNT} random adapters, k = r, {clusterings.SEEDS} seeds: groups by k-means and by matching"
    run.table("clusterings", groups, title=said)
    run.summary(**identities.headline(exact, gauges, norms, spread), **clusterings.recovery(groups))
    run.figure("gauges", figures.draw_gauges(gauges, [each.label for each in identities.REWRITINGS]))
