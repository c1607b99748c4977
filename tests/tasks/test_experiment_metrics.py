"""What an experiment is judged by is measured by its task: every experiment runs, made tiny, and has these numbers."""

from __future__ import annotations

import json

import pytest
import yaml

from permlab import cli, shipped
from permlab.rules import parse_rule

QUIET = ["tracker=none", "hardware=cpu", "hardware.threads=1", "run.dir=run"]
LLAMA = ["hidden_size=16", "layers=1", "heads=2", "kv_heads=2", "intermediate_size=32"]
SPT = [*(f"model.scratch.{key}" for key in LLAMA), "task.train.epochs=1", "task.evaluation.limit=2"]
SYMBOLIC = [*SPT, "dataset.pairs=4"]
PROBE = ["task.n=3", "task.train.steps=20", "task.seeds=1"]
LEGO = [
    *(f"model.scratch.{key}" for key in LLAMA),
    *("task.facts=16", "task.facts_per_adapter=4", "task.repeats=1", "task.regimes=[independent]"),
    *("task.train.base_steps=5", "task.train.adapter_steps=5", "task.scales=[1.0]"),
]
TWO = ["task.counts=[2]", "task.lora_ranks=[2]", "task.sweep=[1.0]"]
MERGE = ["task.pairs=1", "task.train.epochs=1", "model.width=8"]
TINY = {
    "inverse_permutation/architectures": ["task.n=3", "task.tokens.steps=2", "task.tokens.test_examples=8"],
    "inverse_permutation/construction": ["task.n=4"],
    "inverse_permutation/paper": PROBE,
    "inverse_permutation/quick_scratch": PROBE,
    "inverse_permutation/scaling": PROBE,
    "inverse_permutation/scratch_count": PROBE,
    "lora_lego/default": [*LEGO, *TWO],
    "lora_lego/identities": [],
    "lora_lego/lists": [*LEGO, *TWO],
    "lora_lego/prune": [*LEGO, "task.counts=[1]", "task.lora_ranks=[4]"],
    "lora_lego/quick": [*LEGO, *TWO],
    "lora_lego/ranks": [*LEGO, "task.counts=[2]", "task.lora_ranks=[2,4]", "task.sweep=[1.0]"],
    "lora_lego/text": [*LEGO, *TWO[1:], "task.counts=[2]", "task.questions=8"],
    "merge/batchnorm": [*MERGE[:2], "model.width=1", "task.images=64", "task.points=3", "task.compare=[]"],
    "merge/llama": ["task.pairs=1", "task.train.epochs=1"],
    "merge/lmc": MERGE,
    "merge/lmc_three": [*MERGE, "task.steps=2"],
    "merge/pleas": MERGE,
    "merge/pleas_domains": MERGE,
    "merge/pleas_resnet": [*MERGE[:2], "model.width=0.5", "task.images=64"],
    "merge/quick": MERGE,
    "merge/quick_lmc": MERGE,
    "merge/quick_pleas": MERGE,
    "merge/rebasin": [*MERGE, "task.steps=2"],
    "merge/width": [*MERGE[:2], "task.widths=[8]"],
    "ntk/figure1_left": ["task.replicates=2"],
    "ntk/figure1_right": ["task.k=[5]", "task.replicates=10"],
    "ntk/parameterization": ["task.k=[4]", "task.width=[16]", "task.members=40", "task.epochs=20"],
    "ntk/scaling": [],
    "ntk/width": ["task.k=[4,5]", "task.width=[32]", "task.members=400"],
    "spt/berglund": [*SPT[:-2], "task.train.epochs=0.05", "task.evaluation.limit=2"],
    "spt/order_matrix": SYMBOLIC,
    "spt/people": [*SPT, "dataset.people=6", "dataset.templates=2"],
    "spt/quick": [*SPT, "dataset.people=6", "dataset.templates=2"],
    "spt/quick_order_matrix": SYMBOLIC,
    "spt/symbolic": SYMBOLIC,
}
DATA = {"spt/berglund": ("dataset.path", "reversal_curse"), "lora_lego/text": ("task.folder", "text_classification")}


def about(name: str) -> dict:
    return yaml.safe_load((shipped.conf_dir() / "experiment" / f"{name}.yaml").read_text())["experiment"]


def first_values(name: str, given: list[str]) -> list[str]:
    """Turn the experiment's sweep into its first job."""
    keys = {text.partition("=")[0] for text in given}
    sweep = about(name).get("sweep", {})
    return [
        f"{key}={str(values).split(',')[0]}"
        for key, values in sweep.items()
        if key not in keys and "[" not in str(values)
    ]


def test_every_experiment_has_a_tiny_version():
    assert set(TINY) == set(shipped.names("experiment"))


@pytest.mark.parametrize("name", TINY)
def test_the_metrics_of_the_rules_are_measured(name, tmp_path, monkeypatch, shared_data):
    monkeypatch.chdir(tmp_path)
    keys = [f"experiment={name}", *TINY[name], *first_values(name, TINY[name]), *QUIET]
    if name in DATA:
        key, folder = DATA[name]
        keys.append(f"{key}={shared_data(folder)}")
    if name == "merge/pleas_domains":
        keys.append("task.domains=[original,inverted]")
    with pytest.raises(SystemExit) as ended:
        cli.main(keys)
    assert not ended.value.code
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    rules = [parse_rule(text) for text in about(name)["checks"]]
    missing = {metric for rule in rules for metric in rule.metrics} - set(result["metrics"])
    assert not missing, f"{name} is judged by {sorted(missing)}, which its result.json does not have"
