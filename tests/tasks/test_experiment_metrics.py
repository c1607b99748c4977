"""What an experiment is judged by is measured by its task: every experiment runs, made tiny, and has these numbers.

`experiment.reproduce.tiny` of its file says how it is made tiny; what holds for all of a task stands here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from here import command, metrics

from permlab import shipped
from permlab.config import shipped_experiment
from permlab.rules import parse_rule

LLAMA = {
    "model.scratch.hidden_size": 16,
    "model.scratch.layers": 1,
    "model.scratch.heads": 2,
    "model.scratch.kv_heads": 2,
    "model.scratch.intermediate_size": 32,
}
TINY = {
    "merge": {"task.pairs": 1, "task.train.epochs": 1},
    "spt": {**LLAMA, "task.train.epochs": 1, "task.evaluation.limit": 2},
    "lora_lego": {
        **LLAMA,
        **{"task.facts": 16, "task.facts_per_adapter": 4, "task.repeats": 1, "task.regimes": "[independent]"},
        **{"task.train.base_steps": 5, "task.train.adapter_steps": 5, "task.scales": "[1.0]"},
    },
}
"""task -> keys that make its experiments smaller, but for those that are tiny as they are: `tiny: {}`."""
EXPERIMENTS = shipped.names("experiment")


def tiny(name: str, asked: dict[str, Any], data: Path) -> list[str]:
    """The keys of the first job of one way to start an experiment, made tiny."""
    about = shipped_experiment(name)
    keys = TINY.get(name.partition("/")[0], {}) | about.reproduce.tiny if about.reproduce.tiny else {}
    first = {k: str(v).format(data=data).split(",")[0] for k, v in (about.sweep | asked).items() if "[" not in str(v)}
    return [f"{key}={value}" for key, value in (first | keys).items()]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_has_a_tiny_version(name):
    assert shipped_experiment(name).reproduce.tiny is not None, (
        f"{name}: experiment.reproduce.tiny, {{}} where none is needed"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_metrics_of_the_rules_are_measured(name, tmp_path, monkeypatch, shared_data, unsaved):
    """In the first of the ways to start it, and where that has not all of them, in the others."""
    monkeypatch.chdir(tmp_path)
    about = shipped_experiment(name)
    missing = {metric for text in about.checks for metric in parse_rule(text).metrics}
    for number, each in enumerate(about.reproduce.runs):
        if number and not missing:
            break
        folders = [shared_data(folder) for folder in each.data]
        keys = tiny(name, each.keys, folders[0].parent if folders else tmp_path)
        assert command(f"experiment={name}", *keys, f"run.dir=run{number}") == 0
        missing -= set(metrics(f"run{number}"))
    assert not missing, f"{name} is judged by {sorted(missing)}, which its result.json does not have"
