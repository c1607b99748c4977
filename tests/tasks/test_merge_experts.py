"""`permlab task=merge task.study=experts` on tiny mixtures: tables, a network that loads, refusals."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from here import command, rows
from transformers import AutoModelForCausalLM, AutoTokenizer

from permlab.merging.studies.experts import ARMS, expert_metrics

sys.path.insert(0, str(Path(__file__).parents[1] / "merging"))
from test_vocabularies import WORDS, save

SMALL = ["task=merge", "task.study=experts", "task.experts.epochs=0.02", "task.experts.sequences=2", "run.root=outputs"]
pytestmark = pytest.mark.usefixtures("empty_folder")


def study(*arguments):
    return command(*SMALL, *arguments)


@pytest.mark.slow
def test_mixtures_trained_here_and_one_of_the_users(capsys):
    few = ["task.experts.kept=[8,4]", "task.experts.ranks=[64]", "task.experts.columns=8", "task.experts.rank=16"]
    assert study(*few) == 0
    found = rows("experts")
    assert len(found) == 1 + 2 * len(ARMS) and Path("run/figures/experts.svg").is_file()
    whole = {row["pair"]: float(row["loss"]) for row in found if row["arm"] == "all experts"}
    for row in found:  # with eight of eight every group is an expert
        if row["kept"] == "8":
            assert float(row["loss"]) == pytest.approx(whole[row["pair"]], abs=1e-5)
    used = rows("routing")
    for layer in ("model.layers.0.mlp", "model.layers.1.mlp"):
        own = [row for row in used if row["layer"] == layer and row["pair"] == "0"]
        assert len(own) == 8 and sum(float(row["used"]) for row in own) == pytest.approx(1)
        assert len({row["group"] for row in own}) == 4 and sum(float(row["weight"]) for row in own) == pytest.approx(4)
    ranks = {(row["rank"], row["columns"]): row for row in rows("ranks") if row["pair"] == "0"}
    # A matrix of 64 columns has no higher rank: what is scored is M-SMoE itself.
    (merged,) = [row for row in found if (row["pair"], row["kept"], row["arm"]) == ("0", "4", "M-SMoE")]
    assert float(ranks["64", "0"]["loss"]) == pytest.approx(float(merged["loss"]), abs=1e-4)
    metrics = json.loads(Path("run/result.json").read_text())["metrics"]
    assert metrics["m_smoe_perplexity_4"] > 1 and "no_permutation_above_least" in metrics
    # The network that is written has four experts, whose matrices have the rank asked for, and eight columns beside it.
    model = AutoModelForCausalLM.from_pretrained("run/artifacts/model")
    assert model.config.num_local_experts == 4 and len(AutoTokenizer.from_pretrained("run/artifacts/model")) > 100
    matrix = model.model.layers[0].mlp.experts.down_proj[0]
    assert torch.linalg.matrix_rank(matrix, rtol=1e-5) <= 24 < min(matrix.shape)
    (base,) = Path("outputs/bases").glob("base-*")
    assert study("task.experts.kept=[4]", "task.experts.ranks=[]", f"task.models=[{base}]", "run.dir=own") == 0
    assert "mixture of experts 1:" not in capsys.readouterr().out.split("run directory own")[1]
    assert json.loads(Path("own/result.json").read_text())["metrics"]["all_experts_perplexity_8"] in [
        pytest.approx(math.exp(loss), rel=1e-4) for loss in whole.values()
    ]


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (["task.experts.corpus=nowhere"], "task.experts.corpus=nowhere is no folder with .txt files"),
        (["task.experts.kept=[9,4]"], "task.experts.kept and written"),
        (["task.experts.written=5"], "is none of task.experts.kept=[6, 4, 2]"),
        (["task.experts.rank=0"], "task.experts.rank"),
        (["task.models=[a,b]"], "merges the experts of one network, not of 2"),
        (["task.models=[a]"], "which has no experts: give one of mixtral"),
        (["task.study=expert"], "did you mean 'experts'"),
    ],
)
def test_refusals_are_one_line_before_anything_is_written(keys, line, tmp_path, capsys):
    save(tmp_path / "a", WORDS)
    assert study(*keys) == 2
    assert line in capsys.readouterr().err and not Path("run").exists()


def test_a_dry_run_trains_nothing(capsys):
    assert study("run.dry_run=true", "dataset=none") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "1 mixtures of 8 experts, trained here" in told and not Path("outputs").exists()


def test_differences_are_those_of_the_same_network():
    measured = [
        {"pair": pair, "kept": 4, "arm": arm, "loss": loss + 0.1 * k, "perplexity": 1.0}
        for pair, loss in enumerate((1.0, 3.0))
        for k, arm in enumerate(ARMS)
    ]
    measured[1]["loss"] = 1.5
    metrics = expert_metrics(measured, 4)
    assert metrics["no_permutation_above"] == pytest.approx(0.3)
    assert metrics["no_permutation_above_least"] == pytest.approx(0.1)
