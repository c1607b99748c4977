"""What an experiment is judged by is measured by its task: every experiment runs, made tiny, and has these numbers.

`experiment.reproduce.tiny` of its file says how it is made tiny; what holds for all of a task stands here.
"""

from __future__ import annotations

from pathlib import Path

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


def tiny(name: str, data: Path) -> list[str]:
    """The keys of the first job of an experiment, made tiny."""
    about = shipped_experiment(name)
    keys = TINY.get(name.partition("/")[0], {}) | about.reproduce.tiny if about.reproduce.tiny else {}
    swept = {key: str(values).split(",")[0] for key, values in about.sweep.items() if "[" not in str(values)}
    asked = {key: str(value).format(data=data) for key, value in about.reproduce.runs[0].keys.items()}
    return [f"{key}={value}" for key, value in (swept | asked | keys).items()]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_has_a_tiny_version(name):
    assert shipped_experiment(name).reproduce.tiny is not None, (
        f"{name}: experiment.reproduce.tiny, {{}} where none is needed"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_metrics_of_the_rules_are_measured(name, tmp_path, monkeypatch, shared_data, unsaved):
    monkeypatch.chdir(tmp_path)
    folders = [shared_data(folder) for folder in shipped_experiment(name).reproduce.runs[0].data]
    assert command(f"experiment={name}", *tiny(name, folders[0].parent if folders else tmp_path)) == 0
    rules = [parse_rule(text) for text in shipped_experiment(name).checks]
    missing = {metric for rule in rules for metric in rule.metrics} - set(metrics())
    assert not missing, f"{name} is judged by {sorted(missing)}, which its result.json does not have"
