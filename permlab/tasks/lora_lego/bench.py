"""Train adapters, merge them by every method, ask all groups: `permlab task=lora_lego`, `task.study=merge|prune`."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch

from permlab.adapters import Adapter, Factors, MemoryAdapter, MergeRule, applied, merge_adapters, write_merge
from permlab.adapters.diagnostics import norm_ratio, seed_spread
from permlab.adapters.training import answer_probabilities, ask, score
from permlab.config import Config
from permlab.data.adapter_tasks import Benchmark, Group, Questions
from permlab.errors import UserError
from permlab.runs.run import Run
from permlab.tasks.lora_lego import merge_rule
from permlab.tasks.lora_lego.arms import Arm, all_arms
from permlab.tasks.lora_lego.train import make_benchmark, prepare_adapters, prepare_base

CHOSEN = "the task's keys"


@dataclasses.dataclass(frozen=True)
class Exam:
    """A base model, the groups whose adapters are merged, and what each single adapter scores on its own group."""

    model: Any
    benchmark: Benchmark
    groups: list[Group]
    singles: dict[str, list[float]]

    def ask(self, adapter: MemoryAdapter | Adapter | None, split: str) -> tuple[float, float | None]:
        """Mean over groups of score / single score, and the score on the base's own questions."""
        if adapter is None:
            return self._ask(split)
        with applied(self.model, adapter):
            return self._ask(split)

    def _ask(self, split: str) -> tuple[float, float | None]:
        metric = self.benchmark.metric
        found = [ask(self.model, getattr(group, split), metric) for group in self.groups]
        kept = self.benchmark.kept
        return self.normalised(found, split), None if kept is None else ask(self.model, getattr(kept, split), metric)

    def normalised(self, found: Sequence[float], split: str) -> float:
        """Mean of the scores over the groups, each divided by that of the group's own adapter."""
        singles = self.singles[split]
        return statistics.fmean(value / single if single else 0.0 for value, single in zip(found, singles))


def run_benchmark(config: Config, run: Run) -> None:
    """All seeds and regimes; then tables, figures, metrics and the merged adapter."""
    from permlab.tasks.lora_lego.prune import prune_all
    from permlab.tasks.lora_lego.report import report_merges, report_prunes

    task = config.task
    rows: list[dict[str, Any]] = []
    singles: list[dict[str, Any]] = []
    diagnostics: list[dict[str, Any]] = []
    for seed in range(config.seed, config.seed + task.repeats):
        benchmark = make_benchmark(config, seed)
        base = prepare_base(config, run, benchmark, seed)
        for regime in task.regimes:
            adapters = prepare_adapters(config, run, benchmark, base, seed, regime)
            here = {"seed": seed, "regime": regime}
            found = ask_singles(base, benchmark, adapters)
            singles += [here | row for row in found]
            if task.study == "prune":
                rows += [here | row for row in prune_all(run, base, benchmark, adapters, seed)]
                continue
            for count in task.counts:
                exam = make_exam(base, benchmark, found, count)
                first = not rows
                rows += [here | row for row in compare(config, run, exam, adapters[:count], seed)]
                diagnostics += [here | row for row in diagnose(config, adapters[:count], seed)]
                if first:
                    write_merge(run.artifact("adapter"), adapters[:count], merge_rule(config), extra=task.extra)
                    write_merge_check(run, base, adapters[:count], merge_rule(config))
    if task.study == "prune":
        report_prunes(config, run, rows, singles)
    else:
        report_merges(config, run, rows, singles, diagnostics)


def ask_singles(base: Any, benchmark: Benchmark, adapters: Sequence[Adapter]) -> list[dict[str, Any]]:
    """Score of every adapter on its own group, on the base's questions, and of the base on that group."""
    rows = []
    for group, adapter in zip(benchmark.groups, adapters):
        row: dict[str, Any] = {"group": group.name, "rank": max(info.rank for info in adapter.modules.values())}
        for split in ("validation", "test"):
            row[f"without_{split}"] = ask(base, getattr(group, split), benchmark.metric)
        with applied(base, adapter):
            for split in ("validation", "test"):
                row[f"single_{split}"] = ask(base, getattr(group, split), benchmark.metric)
            kept = benchmark.kept
            row["kept"] = None if kept is None else ask(base, kept.test, benchmark.metric)
        rows.append(row | {"constant_answer": group.chance})
    return rows


def make_exam(base: Any, benchmark: Benchmark, singles: Sequence[dict[str, Any]], count: int) -> Exam:
    """The exam of the first `count` groups."""
    known = {split: [row[f"single_{split}"] for row in singles[:count]] for split in ("validation", "test")}
    return Exam(base, benchmark, benchmark.groups[:count], known)


def compare(config: Config, run: Run, exam: Exam, adapters: Sequence[Adapter], seed: int) -> list[dict[str, Any]]:
    """One row per method and scale rule: as it is ("1"), and the best of `task.scales` on the validation questions."""
    ranks = [max(info.rank for info in adapter.modules.values()) for adapter in adapters]
    chosen = dataclasses.replace(merge_rule(config), seed=seed)
    arms = [Arm(CHOSEN, chosen.method, chosen), *all_arms(config.task, ranks, seed)]
    rows = controls(exam, adapters)
    with run.progress(f"merging {len(adapters)} adapters", len(arms)) as bar:
        for done, arm in enumerate(arms, start=1):
            run.check_stop()
            rows += examine(arm, exam, adapters, config.task.scales)
            bar.update(done)
    return [{"adapters": len(adapters)} | row for row in rows]


def examine(arm: Arm, exam: Exam, adapters: Sequence[Adapter], scales: Sequence[float]) -> list[dict[str, Any]]:
    """Rows of one method, or one row that says why it cannot be applied."""
    start = time.perf_counter()
    try:
        merged = merge_adapters(adapters, arm.rule, device=exam.model.device).adapter
    except UserError as refusal:
        return [arm.describe() | {"scale_rule": "1", "note": str(refusal).split(";")[0]}]
    seconds = time.perf_counter() - start
    shared = arm.describe() | {
        "k": max(info.rank for info in merged.modules.values()),
        "sweep": arm.sweep,
        "norm_ratio": norm_ratio(merged, adapters),
        "seconds": seconds,
    }
    tuned = tune(merged, exam, scales)
    rows = []
    for rule, scale in (("1", 1.0), ("tuned", tuned)):
        value, kept = exam.ask(scaled(merged, scale), "test")
        rows.append(shared | {"scale_rule": rule, "scale": scale, "score": value, "kept": kept})
    return rows


def tune(merged: MemoryAdapter, exam: Exam, scales: Sequence[float]) -> float:
    """The scale with the best mean over the groups' and the base's validation questions; the one nearest 1 if tied."""

    def quality(scale: float) -> tuple[float, float]:
        value, kept = exam.ask(scaled(merged, scale), "validation")
        parts = [value] * len(exam.groups) + ([] if kept is None else [kept])
        return round(statistics.fmean(parts), 6), -abs(scale - 1)

    return max(scales, key=quality)


def controls(exam: Exam, adapters: Sequence[Adapter]) -> list[dict[str, Any]]:
    """A constant answer, no adapter, each adapter on its own group, the mean of all adapters' output probabilities."""

    def row(label: str, value: float, kept: float | None) -> dict[str, Any]:
        return {"method": label, "family": "ensemble", "scale_rule": "1", "scale": 1.0, "score": value, "kept": kept}

    metric, kept = exam.benchmark.metric, exam.benchmark.kept
    asked: list[Questions] = [group.test for group in exam.groups] + ([] if kept is None else [kept.test])
    total: list[torch.Tensor] = []
    alone: list[float] = []
    for adapter in adapters:
        with applied(exam.model, adapter):
            answers = [answer_probabilities(exam.model, questions) for questions in asked]
        total = [left + right for left, right in zip(total, answers)] if total else answers
        if kept is not None:
            alone.append(score(answers[-1], kept.test, metric))
    found = [score(probabilities, questions, metric) for probabilities, questions in zip(total, asked)]
    ensemble = exam.normalised(found[: len(exam.groups)], "test")
    return [
        row("best constant answer", exam.normalised([group.chance for group in exam.groups], "test"), None),
        row("no adapter", *exam.ask(None, "test")),
        row("single adapters, each on its own", 1.0, statistics.fmean(alone) if alone else None),
        row("output ensemble", ensemble, found[-1] if kept is not None else None),
    ]


def diagnose(config: Config, adapters: Sequence[Adapter], seed: int) -> list[dict[str, Any]]:
    """Clustering by k, means over modules, and how far two k-means seeds lie apart."""
    from permlab.tasks.lora_lego.arms import lego_arms

    ranks = [max(info.rank for info in adapter.modules.values()) for adapter in adapters]
    rows = []
    for arm in lego_arms(config.task, ranks, seed):
        if not (arm.sweep and arm.label.endswith("both")):
            continue
        reports = list(merge_adapters(adapters, arm.rule).reports.values())
        columns = ("inertia_share", "smallest", "largest", "singletons", "mixed_share", "norm_ratio")
        means = {name: statistics.fmean(float(getattr(report, name)) for report in reports) for name in columns}
        rows.append(
            {
                "adapters": len(adapters),
                "k": arm.rule.rank,
                **means,
                "seed_spread": seed_spread(adapters, arm.rule, (seed + 101, seed + 202)),
            }
        )
    return rows


def write_merge_check(run: Run, base: Any, adapters: Sequence[Adapter], rule: MergeRule) -> None:
    """Load artifacts/adapter with PEFT and compare its logits with those of base + delta W."""
    import copy
    import warnings

    import peft

    ids = torch.arange(4, 12, device=base.device)[None]
    merged = merge_adapters(adapters, rule, device=base.device).adapter
    with torch.no_grad(), applied(base, merged):
        wanted = base(ids).logits
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about names inside transformers and tied embeddings, see train_adapter
        loaded = peft.PeftModel.from_pretrained(copy.deepcopy(base), run.dir / "artifacts" / "adapter").eval()
    with torch.no_grad():
        gap = float((loaded(ids).logits - wanted).abs().max() / wanted.abs().max())
    run.summary(peft_output_gap=gap)
    run.say(f"PEFT loads artifacts/adapter; its logits differ from base + delta W by {gap:.1e} of the largest")


def scaled(adapter: MemoryAdapter, scale: float) -> MemoryAdapter:
    """The adapter with every update multiplied by `scale`."""
    tensors = {name: Factors(part.a, part.b, part.scaling * scale) for name, part in adapter.tensors.items()}
    return MemoryAdapter(adapter.name, tensors, adapter.info)
