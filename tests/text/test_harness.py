"""lm-evaluation-harness is an extra: refused in one line without it, and asked as its interface says with it."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import pytest

from permlab.compose import plan_jobs
from permlab.errors import UserError
from permlab.text.harness import harness_scores


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="lm-eval is installed")
def test_without_the_extra_the_tasks_are_refused_before_anything_runs():
    with pytest.raises(UserError, match=r"pip install 'permlab\[lm-eval\]'"):
        plan_jobs(["task.evaluation.harness=[arc_easy]"], False)


def test_scores_are_those_of_the_harness_without_its_errors(monkeypatch):
    """A stand-in for the package records what it is given and answers in its form."""
    calls = []

    def simple_evaluate(**keys):
        calls.append(keys)
        if keys["tasks"] == ["nowhere"]:
            raise KeyError("nowhere")
        values = {"alias": "arc_easy", "acc,none": 0.25, "acc_stderr,none": 0.01, "acc_norm,none": 0.5}
        return {"results": {"arc_easy": values}}

    package, models, loaded = ModuleType("lm_eval"), ModuleType("lm_eval.models"), ModuleType("x")
    package.simple_evaluate = simple_evaluate
    loaded.HFLM = lambda **keys: SimpleNamespace(**keys)
    for name, module in (("lm_eval", package), ("lm_eval.models", models), ("lm_eval.models.huggingface", loaded)):
        monkeypatch.setitem(sys.modules, name, module)
    model = SimpleNamespace(training=True, train=lambda mode: calls.append(mode))
    found = harness_scores(model, "tokenizer", ["arc_easy"], limit=5, seed=7)
    assert found == {"arc_easy_acc": 0.25, "arc_easy_acc_norm": 0.5}
    assert calls[0]["limit"] == 5 and calls[0]["random_seed"] == 7 and calls[0]["model"].pretrained is model
    assert calls[1] is True  # as it was
    with pytest.raises(UserError, match="nowhere"):
        harness_scores(model, "tokenizer", ["nowhere"])
