"""Does interference say beforehand what merging costs? Predicted against measured, merge by merge, and layer by layer.

>>> own = task_moments(model, tasks, adapters[0])
>>> rows = prediction_rows(exam, merges, asked, own)
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from permlab.adapters.apply import applied
from permlab.adapters.benchmark.exam import scaled
from permlab.adapters.benchmark.questions import PAD, Questions
from permlab.adapters.factors import AdapterSource, MemoryAdapter
from permlab.adapters.interference import module_errors, module_type, predicted_error
from permlab.adapters.moments import Moments, input_moments
from permlab.adapters.real.domains import IN, SINGLE, DomainExam
from permlab.adapters.real.questions import WordTask
from permlab.tables import Row

SHOWN = 48
"""Training questions of a task whose inputs are measured."""


def task_moments(model: Any, tasks: Sequence[WordTask], adapter: AdapterSource) -> list[dict[str, Moments]]:
    """Second moments of the modules' inputs on each task's training questions, in the base without adapters."""
    found = []
    for task in tasks:
        # Training rows stand in order of length: a few from everywhere.
        every = max(1, len(task.train) // SHOWN)
        ids = task.train.ids[::every][:SHOWN]
        found.append(input_moments(model, adapter.modules, [(ids, ids != PAD)]))
    return found


def prediction_rows(
    exam: DomainExam, merges: Mapping[str, MemoryAdapter], asked: Sequence[Row], own: Sequence[Mapping[str, Moments]]
) -> list[Row]:
    """One row per merge and scale: predicted from weights, predicted on inputs, and measured in domain.

    Args:
        exam: with the adapters.
        merges: method -> the merge of all adapters, as it is.
        asked: rows of `DomainExam.ask_merge` and `ask_controls`.
        own: moments of each adapter's task.
    """
    inside = [row for row in asked if row["domain"] == IN]
    single = {row["task"]: row for row in inside if row["method"] == SINGLE}
    rows: list[Row] = []
    for label, merged in merges.items():
        for rule in ("1", "tuned"):
            part = [row for row in inside if (row["method"], row["scale_rule"]) == (label, rule)]
            if not part or (rule == "tuned" and part[0]["scale"] == 1.0):
                continue
            scale = part[0]["scale"]
            at = scaled(merged, scale)
            lost = {name: statistics.fmean(single[r["task"]][name] - r[name] for r in part) for name in _MEASURED}
            line: Row = {"method": label, "scale_rule": rule, "scale": scale}
            line["predicted_plain"] = predicted_error(at, exam.adapters)
            line["predicted"] = predicted_error(at, exam.adapters, own)
            rows.append(line | {f"lost_{name}": value for name, value in lost.items()})
    return rows


_MEASURED = ("log_probability", "exact")


def type_rows(
    merges: Mapping[str, MemoryAdapter], adapters: Sequence[AdapterSource], own: Sequence[Mapping[str, Moments]]
) -> list[Row]:
    """Predicted error by type of module and merge: which modules lose most."""
    rows: list[Row] = []
    for label, merged in merges.items():
        errors: dict[str, list[float]] = {}
        for adapter, moments in zip(adapters, own):
            for module, error in module_errors(merged, adapter, moments).items():
                errors.setdefault(module_type(module), []).append(error)
        rows += [{"method": label, "type": kind, "predicted": statistics.fmean(e)} for kind, e in errors.items()]
    return rows


@torch.no_grad()
def drift_rows(exam: DomainExam, merges: Mapping[str, MemoryAdapter]) -> list[Row]:
    """How far each layer's output under a merge is from that under the task's own adapter.

    |h(merge) - h(own adapter)| / |h(own adapter) - h(base)| at the position that answers, mean over tasks: 0 where the
    merge does what the adapter does, 1 about where it does as little as the base.
    """
    asked = [task.told["validation"] for task in exam.tasks]
    base = [_states(exam.model, questions) for questions in asked]
    single = []
    for adapter, questions in zip(exam.adapters, asked):
        with applied(exam.model, adapter):
            single.append(_states(exam.model, questions))
    rows: list[Row] = []
    for label, merged in merges.items():
        with applied(exam.model, merged):
            found = [_states(exam.model, questions) for questions in asked]
        for layer in range(found[0].shape[0]):
            gaps = [_gap(f[layer], s[layer], b[layer]) for f, s, b in zip(found, single, base)]
            rows.append({"method": label, "layer": layer, "drift": statistics.fmean(gaps)})
    return rows


def _gap(merged: Tensor, single: Tensor, base: Tensor) -> float:
    moved = (single - base).norm(dim=-1).mean().clamp_min(1e-12)
    return float((merged - single).norm(dim=-1).mean() / moved)


def _states(model: Any, questions: Questions) -> Tensor:
    """Hidden states (layers + 1, questions, width) where the first token of each answer is predicted."""
    hidden = model.model(input_ids=questions.ids.to(model.device), output_hidden_states=True).hidden_states
    at = questions.answer.int().argmax(dim=1) - 1
    rows = torch.arange(len(questions))
    return torch.stack([layer[rows, at] for layer in hidden]).cpu()
