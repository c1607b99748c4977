"""Merged adapters asked in three domains, as the three tables of LoRA-LEGO (arXiv 2409.16167).

>>> exam = DomainExam(base, tasks, adapters, files=[])
>>> rows = exam.ask_merge(MergeRule("svd"), "svd", scales=[0.5, 1.0], seed=0)

in domain       every task's questions, the task told, all adapters merged
mixed           the questions of all tasks in one list, no task told, all adapters merged
out of domain   sentences whose own adapter is left out of the merge, asked in the words of a related task, and files of
                the user's under the merge of all
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from permlab.adapters.apply import applied
from permlab.adapters.benchmark.exam import scaled
from permlab.adapters.benchmark.questions import Questions
from permlab.adapters.benchmark.trials import Trial
from permlab.adapters.factors import AdapterSource, MemoryAdapter
from permlab.adapters.merge import merge_adapters
from permlab.adapters.merge_rule import MergeRule
from permlab.adapters.real.answers import Answers, answers_of
from permlab.adapters.real.questions import RELATED, WordTask
from permlab.adapters.training import answer_probabilities
from permlab.tables import Row

IN, MIXED, OUT = DOMAINS = ("in domain", "mixed", "out of domain")
SINGLE, ENSEMBLE, JOINT, NONE = CONTROLS = ("single adapters", "ensemble of outputs", "joint training", "no adapter")
SCORES = ("exact", "log_probability", "choice")
ALL = "all"
"""The task that stands for a whole domain."""


def word_trials(rank: int) -> list[Trial]:
    """The merges that the three tables compare, at the rank of the adapters where one can be chosen."""
    paper = MergeRule("lego", rank=rank, gauge="none")
    return [
        Trial("average of A and of B", MergeRule("linear"), tuned="average"),
        Trial("sum of updates", MergeRule("cat"), tuned="sum"),
        Trial("svd of the sum, k = r", MergeRule("svd", rank=rank), tuned="svd"),
        Trial("TIES on updates, density 0.5", MergeRule("ties"), tuned="ties"),
        Trial("LEGO as in the paper, k = r", paper, tuned="lego"),
        Trial("LEGO, balanced gauge, k = r", MergeRule("lego", rank=rank), tuned="lego_balanced"),
        Trial("LEGO, balanced gauge, k = 2r", MergeRule("lego", rank=2 * rank), tuned="lego_2r"),
        Trial("LEGO by matching, k = r", MergeRule("lego", rank=rank, clustering="matching"), tuned="lego_matching"),
    ]


@dataclass(frozen=True)
class Part:
    """One set of questions in one domain, whose task's adapter is `left_out` of the merge (None: of no adapter)."""

    domain: str
    task: str
    questions: Questions
    candidates: Tensor
    left_out: int | None = None


class DomainExam:
    """A base, six tasks, their adapters, and the questions of the three domains."""

    def __init__(
        self, model: Any, tasks: Sequence[WordTask], adapters: Sequence[AdapterSource], files: Sequence[WordTask] = ()
    ) -> None:
        self.model, self.tasks, self.adapters = model, list(tasks), list(adapters)
        every = torch.cat([task.candidates for task in tasks]).unique()
        self.parts = [Part(IN, task.name, task.told["test"], task.candidates) for task in tasks]
        self.parts += [Part(MIXED, task.name, task.untold, every) for task in tasks]
        names = [task.name for task in tasks]
        for at, task in enumerate(tasks):
            if task.related is not None:
                asked_as = tasks[names.index(RELATED[task.name])]
                self.parts.append(Part(OUT, task.name, task.related, asked_as.candidates, at))
        self.parts += [Part(OUT, task.name, task.told["test"], task.candidates) for task in files]

    @property
    def left_out(self) -> list[int | None]:
        """The merges that are needed: of all adapters, and without each task of `RELATED`."""
        return list(dict.fromkeys(part.left_out for part in self.parts))

    def merged(self, rule: MergeRule, left_out: int | None, seed: int) -> MemoryAdapter:
        """The merge of all adapters but one."""
        chosen = [adapter for at, adapter in enumerate(self.adapters) if at != left_out]
        return merge_adapters(chosen, rule, seed=seed).adapter

    def tune(self, merged: MemoryAdapter, left_out: int | None, scales: Sequence[float]) -> float:
        """The scale with the largest mean log-probability of the validation answers; the one nearest 1 if tied."""
        tasks = [task for at, task in enumerate(self.tasks) if at != left_out]

        def quality(scale: float) -> tuple[float, float]:
            with applied(self.model, scaled(merged, scale)):
                found = [self._answers(task.told["validation"], task.candidates) for task in tasks]
            return round(statistics.fmean(each.log_probability for each in found), 6), -abs(scale - 1)

        return max(scales, key=quality)

    def ask_merge(self, rule: MergeRule, label: str, scales: Sequence[float], seed: int) -> list[Row]:
        """Rows (method, scale_rule, scale, domain, task, scores) of a merge as it is and at its tuned scale."""
        rows: list[Row] = []
        for left_out in self.left_out:
            merged = self.merged(rule, left_out, seed)
            tuned = self.tune(merged, left_out, scales)
            for name, scale in (("1", 1.0), ("tuned", tuned)):
                about = {"method": label, "family": rule.method, "scale_rule": name, "scale": scale}
                if name == "tuned" and scale == 1.0:
                    same = [row for row in rows if row["scale_rule"] == "1" and row["left_out"] == left_out]
                    rows += [row | about for row in same]
                    continue
                with applied(self.model, scaled(merged, scale)):
                    rows += [about | self._row(part) for part in self.parts if part.left_out == left_out]
        return rows

    def ask_controls(self, joint: AdapterSource) -> list[Row]:
        """Rows of the references: every task's own adapter, the mean of all adapters' outputs, one joint adapter.

        Out of domain no adapter is a task's own: the first reference is the mean over the other adapters, and joint
        training, which has read these tasks, has none.
        """
        found: list[list[Tensor]] = []
        for adapter in self.adapters:
            with applied(self.model, adapter):
                found.append([answer_probabilities(self.model, part.questions) for part in self.parts])
        rows: list[Row] = []
        for place, part in enumerate(self.parts):
            having = [at for at in range(len(self.adapters)) if at != part.left_out]
            scores = [answers_of(found[at][place], part.questions, part.candidates) for at in having]
            names = [self.tasks[at].name for at in having]
            if part.domain != OUT:
                rows.append(_control(SINGLE, part, scores[names.index(part.task)]))
            else:
                means = {name: statistics.fmean(getattr(each, name) for each in scores) for name in SCORES}
                rows.append(_control(SINGLE, part, Answers(**means, count=scores[0].count)))
            together = torch.stack([found[at][place] for at in having]).mean(dim=0)
            rows.append(_control(ENSEMBLE, part, answers_of(together, part.questions, part.candidates)))
        with applied(self.model, joint):
            rows += [
                _control(JOINT, p, self._answers(p.questions, p.candidates)) for p in self.parts if p.left_out is None
            ]
        rows += [_control("no adapter", p, self._answers(p.questions, p.candidates)) for p in self.parts]
        return rows

    def _answers(self, questions: Questions, candidates: Tensor) -> Answers:
        return answers_of(answer_probabilities(self.model, questions), questions, candidates)

    def _row(self, part: Part) -> Row:
        return _columns(part, self._answers(part.questions, part.candidates))


def _columns(part: Part, answers: Answers) -> Row:
    named: Row = {"domain": part.domain, "task": part.task, "left_out": part.left_out}
    return named | dataclasses.asdict(answers)


def _control(label: str, part: Part, answers: Answers) -> Row:
    return {"method": label, "family": "ensemble", "scale_rule": "1", "scale": 1.0} | _columns(part, answers)


def with_totals(rows: Sequence[Row]) -> list[Row]:
    """The rows, and one of each method, scale rule and domain for all its tasks.

    In domain and out of it the mean over tasks, as the paper's tables; mixed, the mean over the questions of the list.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        which = (row.get("seed"), row.get("draw"), row["method"], row["scale_rule"], row["domain"])
        groups.setdefault(which, []).append(row)
    made = list(rows)
    for (*_, domain), members in groups.items():
        weights = [row["count"] if domain == MIXED else 1 for row in members]
        line = dict(members[0]) | {"task": ALL, "count": sum(row["count"] for row in members), "left_out": None}
        for name in SCORES:
            line[name] = sum(row[name] * weight for row, weight in zip(members, weights)) / sum(weights)
        made.append(line)
    return made


def over_draws(rows: Sequence[Row]) -> list[Row]:
    """The rows with every merge's draws of its clusters as one, their mean: what a user with one draw may expect.

    `draw_sd` is the deviation of `exact` between the draws of a seed, None where there is one draw.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        which = (row.get("seed"), row["method"], row["scale_rule"], row["domain"], row["task"])
        groups.setdefault(which, []).append(row)
    made: list[Row] = []
    for members in groups.values():
        line = {name: value for name, value in members[0].items() if name != "draw"}
        line |= {name: statistics.fmean(row[name] for row in members) for name in (*SCORES, "scale")}
        exact = [row["exact"] for row in members]
        made.append(line | {"draws": len(members), "draw_sd": statistics.stdev(exact) if len(exact) > 1 else None})
    return made
