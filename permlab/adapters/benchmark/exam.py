"""Ask merged adapters the questions of all groups, each score as a share of the single adapter's.

>>> singles = ask_singles(base, benchmark, adapters)
>>> exam = make_exam(base, benchmark, singles, count=3)
>>> exam.ask(merged, "test")                     # (mean score / single score, score on the base's own questions)
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from permlab.adapters.apply import applied
from permlab.adapters.benchmark.questions import Benchmark, Group, Questions
from permlab.adapters.factors import AdapterSource, Factors, MemoryAdapter
from permlab.adapters.files import Adapter
from permlab.adapters.training import answer_probabilities, ask, score
from permlab.tables import Row

CONTROLS = ("best constant answer", "no adapter", "single adapters, each on its own", "output ensemble")
"""Rows that no merge gives."""


@dataclass(frozen=True)
class Exam:
    """A base model, the groups whose adapters are merged, and what each single adapter scores on its own group."""

    model: Any
    benchmark: Benchmark
    groups: list[Group]
    singles: dict[str, list[float]]

    def ask(self, adapter: AdapterSource | None, split: str) -> tuple[float, float | None]:
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


def ask_singles(base: Any, benchmark: Benchmark, adapters: Sequence[Adapter]) -> list[Row]:
    """Score of every adapter on its own group, on the base's questions, and of the base on that group."""
    rows = []
    for group, adapter in zip(benchmark.groups, adapters):
        row: Row = {"group": group.name, "rank": max(info.rank for info in adapter.modules.values())}
        for split in ("validation", "test"):
            row[f"without_{split}"] = ask(base, getattr(group, split), benchmark.metric)
        with applied(base, adapter):
            for split in ("validation", "test"):
                row[f"single_{split}"] = ask(base, getattr(group, split), benchmark.metric)
            kept = benchmark.kept
            row["kept"] = None if kept is None else ask(base, kept.test, benchmark.metric)
        rows.append(row | {"constant_answer": group.chance})
    return rows


def make_exam(base: Any, benchmark: Benchmark, singles: Sequence[Row], count: int) -> Exam:
    """The exam of the first `count` groups."""
    known = {split: [row[f"single_{split}"] for row in singles[:count]] for split in ("validation", "test")}
    return Exam(base, benchmark, benchmark.groups[:count], known)


def tune(merged: MemoryAdapter, exam: Exam, scales: Sequence[float]) -> float:
    """The scale with the best mean over the groups' and the base's validation questions; the one nearest 1 if tied."""

    def quality(scale: float) -> tuple[float, float]:
        value, kept = exam.ask(scaled(merged, scale), "validation")
        # The base counts as one group more: a scale that gains a task by ruining the base must not win.
        parts = [value] * len(exam.groups) + ([] if kept is None else [kept])
        return round(statistics.fmean(parts), 6), -abs(scale - 1)

    return max(scales, key=quality)


def controls(exam: Exam, adapters: Sequence[Adapter]) -> list[Row]:
    """A constant answer, no adapter, each adapter on its own group, the mean of all adapters' output probabilities."""

    def row(label: str, value: float, kept: float | None) -> Row:
        return {"method": label, "family": "ensemble", "scale_rule": "1", "scale": 1.0, "score": value, "kept": kept}

    metric, kept = exam.benchmark.metric, exam.benchmark.kept
    asked: list[Questions] = [group.test for group in exam.groups] + ([] if kept is None else [kept.test])
    total: list[torch.Tensor] = []
    alone: list[float] = []
    for adapter in adapters:
        with applied(exam.model, adapter):
            answers = [answer_probabilities(exam.model, questions) for questions in asked]
        # An upper reference and no merge: outputs are averaged and no unit is lost, at the cost of n forward passes.
        total = [left + right for left, right in zip(total, answers)] if total else answers
        if kept is not None:
            alone.append(score(answers[-1], kept.test, metric))
    found = [score(probabilities, questions, metric) for probabilities, questions in zip(total, asked)]
    constant = exam.normalised([group.chance for group in exam.groups], "test")
    scores: list[tuple[float, float | None]] = [
        (constant, None),
        exam.ask(None, "test"),
        (1.0, statistics.fmean(alone) if alone else None),
        (exam.normalised(found[: len(exam.groups)], "test"), found[-1] if kept is not None else None),
    ]
    return [row(label, *values) for label, values in zip(CONTROLS, scores)]


def scaled(adapter: MemoryAdapter, scale: float) -> MemoryAdapter:
    """The adapter with every update multiplied by `scale`."""
    tensors = {name: Factors(part.a, part.b, part.scaling * scale) for name, part in adapter.tensors.items()}
    return MemoryAdapter(adapter.name, tensors, adapter.info)
