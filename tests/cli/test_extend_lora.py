"""A way to merge LoRA adapters is one file and one row: the task, sweeps, the lists, figures and the report have it."""

from __future__ import annotations

import csv
import json

import pytest
from overlay import overlay

from permlab.adapters import open_adapter, random_adapter, write_adapter

METHOD = '''"""The larger of all updates, by Frobenius norm; the others are left out."""

from __future__ import annotations

from collections.abc import Sequence

from permlab.adapters.factors import Factors, norm
from permlab.adapters.merge_rule import MergeRule
from permlab.adapters.units import singular_form


def merge_largest(
    updates: Sequence[Factors], weights: Sequence[float], rank: int, rule: MergeRule, seed: int
) -> Factors:
    """The update with the largest norm, at the merged rank."""
    return singular_form(max((update.folded(weight) for update, weight in zip(updates, weights)), key=norm), rank)
'''
TABLE = 'LORA_METHODS = Table(\n    "way to merge adapters",\n    [\n'
ROW = """
        LoraRow(
            "largest",
            "keeps the largest update and leaves out the others",
            label="largest update",
            target="permlab.adapters.methods.largest:merge_largest",
            color="black",
            default_rank="permlab.adapters.ranks:largest",
        )"""
TINY = [
    "task=lora_lego", "task.facts=16", "task.facts_per_adapter=4", "task.counts=[2]", "task.lora_ranks=[2]",
    "task.train.base_steps=20", "task.train.adapter_steps=10", "task.scales=[0.5,1.0]", "task.sweep=[1.0]",
    "model.scratch.hidden_size=16", "model.scratch.layers=1", "model.scratch.heads=2", "model.scratch.kv_heads=2",
    "model.scratch.intermediate_size=32", "tracker=none", "hardware=cpu", "hardware.threads=1",
]  # fmt: skip
SHAPES = {"model.layers.0.q_proj": (16, 12)}


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    files = {"permlab/adapters/methods/largest.py": METHOD}
    return overlay(tmp_path_factory.mktemp("overlay"), files, {"permlab/adapters/table.py": (TABLE, ROW)})


@pytest.mark.slow
def test_a_new_method_is_listed_compared_drawn_and_reported(permlab, copy, tmp_path):
    path = {"PYTHONPATH": str(copy)}
    listed = permlab("ls", "methods", **path)
    assert "keeps the largest update and leaves out the others" in " ".join(listed.stdout.split())
    done = permlab(*TINY, "task.method=largest", "run.dir=run", **path)
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]
    table = list(csv.DictReader((tmp_path / "run" / "tables" / "methods.csv").open()))
    scores = {(row["method"], row["scale_rule"]): float(row["score"]) for row in table if row["family"] == "largest"}
    assert metrics["average_score"] == pytest.approx(scores["the task's keys", "1"])
    assert metrics["tuned_largest"] == pytest.approx(scores["largest update", "tuned"])
    figure = (tmp_path / "run" / "figures" / "methods_independent_2.svg").read_text()
    assert "largest update" in figure and "#222222" in figure
    done = permlab("task=report", "report.runs=[run]", "run.dir=report", "tracker=none", **path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "largest update" in (tmp_path / "report" / "report.md").read_text()


@pytest.mark.slow
def test_a_new_method_merges_adapters_of_the_user_in_a_sweep(permlab, copy, tmp_path):
    path = {"PYTHONPATH": str(copy)}
    sizes = {"A": 1.0, "B": 5.0}
    for seed, (name, alpha) in enumerate(sizes.items()):
        write_adapter(tmp_path / name, random_adapter(name, SHAPES, 3, seed, alpha=3 * alpha))
    keys = ["task=lora_lego", "task.adapters=[A,B]", "task.method=largest,cat", "tracker=none", "hardware=cpu"]
    done = permlab("-m", *keys, **path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {}
    for folder in tmp_path.glob("outputs/**/artifacts/adapter"):
        record = json.loads((folder / "merge.json").read_text())
        found[record["rule"]["method"]] = open_adapter(folder).load(*SHAPES)
    assert found["largest"].rank == 3 and found["cat"].rank == 6
    wanted = open_adapter(tmp_path / "B").load(*SHAPES).delta()
    assert float((found["largest"].delta() - wanted).norm() / wanted.norm()) < 1e-5
    typo = permlab("task=lora_lego", "task.adapters=[A,B]", "task.method=lagest", **path)
    assert typo.returncode == 2 and "did you mean 'largest'" in typo.stderr
    assert "task.method=largest is not known" in permlab(*keys[:2], "task.method=largest").stderr
