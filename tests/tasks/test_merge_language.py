"""`permlab task=merge` on language models that are trained here: every arm, the same seed, stopped and resumed."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from here import result, resume, rows
from language_runs import TINY, arms, merge
from transformers import AutoModelForCausalLM, AutoTokenizer

from permlab.merging.networks.language import LanguagePairs

pytestmark = pytest.mark.usefixtures("empty_folder")


@pytest.mark.slow
def test_pairs_trained_here(tmp_path):
    assert merge(*TINY, "task.pairs=2", "task.compare=[activation]") == 0
    table, metrics = arms(), result()["metrics"]
    labels = {
        "network A",
        "network B",
        "weight matching",
        "no permutation",
        "random permutation",
        "activation matching",
    }
    labels |= {"ensemble", "untrained network", "untrained networks, weight matching"}
    assert set(table) == {(arm, texts) for arm in labels for texts in ("test", "train")}
    for arm, prefix in (
        ("weight matching", ""),
        ("no permutation", "naive_"),
        ("activation matching", "activation_matching_"),
    ):
        losses = [float(row["midpoint_loss"]) for row in rows("arms") if row["arm"] == arm]
        assert len(losses) == 2 and losses[0] != losses[1]
        assert metrics[f"{prefix}midpoint_loss"] == pytest.approx(sum(losses) / 2)
        assert metrics[f"{prefix}midpoint_perplexity"] == pytest.approx(math.exp(sum(losses) / 2))
    assert metrics["largest_end_change"] < 1e-5
    assert 0 < metrics["l2_reduction"] < 1 and metrics["untrained_loss"] > metrics["endpoint_loss"]
    curve = [row for row in rows("curves") if (row["arm"], row["set"]) == ("weight matching", "test")]
    assert [float(row["position"]) for row in curve] == [0, 0.5, 1] * 2
    first = [float(row["loss"]) for row in curve[:3]]
    mine = next(row for row in rows("arms") if row["arm"] == "weight matching")
    assert float(mine["loss_barrier"]) == pytest.approx(first[1] - (first[0] + first[2]) / 2)
    for name in ("barriers.png", "arms.svg"):
        assert Path("run/figures", name).stat().st_size > 5000
    # What is written is a mean of the two networks that are written too, and says the words it was trained on.
    state = AutoModelForCausalLM.from_pretrained("run/artifacts/model").state_dict()
    ends = [AutoModelForCausalLM.from_pretrained(f"run/artifacts/networks/{k}").state_dict() for k in "ab"]
    assert torch.allclose(
        state["lm_head.weight"].sum(), (ends[0]["lm_head.weight"] + ends[1]["lm_head.weight"]).sum() / 2
    )
    assert state["lm_head.weight"].data_ptr() == state["model.embed_tokens.weight"].data_ptr()
    assert len(AutoTokenizer.from_pretrained("run/artifacts/model")) == state["lm_head.weight"].shape[0]


@pytest.mark.slow
def test_same_seed_gives_the_same_numbers():
    assert merge(*TINY, "task.train.epochs=1") == 0
    once = result()["metrics"]
    shutil.rmtree("run")
    assert merge(*TINY, "task.train.epochs=1") == 0
    again = result()["metrics"]
    del once["match_seconds"], again["match_seconds"]
    assert once == again


@pytest.mark.slow
def test_interrupted_pairs_are_resumed_with_the_same_numbers(monkeypatch):
    settings = [*TINY, "task.train.epochs=1", "task.pairs=2"]
    assert merge(*settings) == 0
    whole = arms()
    shutil.rmtree("run")
    trained, original = [], LanguagePairs.train

    def stopped(pairs, pair, member, *arguments):
        trained.append((pair, member))
        if len(trained) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return original(pairs, pair, member, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(LanguagePairs, "train", stopped)
        assert merge(*settings) == 130
    assert json.loads(Path("run/result.json").read_text())["status"] == "interrupted"
    with monkeypatch.context() as patch:
        patch.setattr(LanguagePairs, "train", stopped)
        assert resume() == 0
    assert trained == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 1)]
    assert result()["metrics"]["pairs"] == 2
    assert all(arms()[key]["loss"] == row["loss"] for key, row in whole.items())
