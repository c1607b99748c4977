"""A merge of language models is asked whether it still speaks, beside what it was made of."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from checkpoints_made import network
from here import command, result, rows
from language_runs import TEXTS
from transformers import AutoModelForCausalLM, AutoTokenizer

from permlab.models.tokenizers import train_tokenizer


@pytest.fixture(autouse=True)
def speakers(tmp_path, monkeypatch):
    """Folders a and b: a network that learnt its sentences a little, and the same with a little noise."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    tokenizer = train_tokenizer(TEXTS, "word", 101)
    model = network("llama-tied", 0)
    batch = tokenizer(TEXTS, return_tensors="pt", padding=True)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(30):
        loss = model(**batch, labels=batch["input_ids"]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for letter in "ab":
        model.save_pretrained(letter)
        tokenizer.save_pretrained(letter)
        with torch.no_grad():
            for each in model.parameters():
                each += 0.001 * torch.randn_like(each)
    Path("general.txt").write_text("\n".join(TEXTS * 6))


def merge(*arguments: str) -> int:
    return command("task=merge", "task.models=[a,b]", *arguments)


def health() -> tuple[dict[str, dict[str, str]], dict]:
    return {row["network"]: row for row in rows("health")}, result()


@pytest.mark.slow
def test_losses_are_those_of_transformers_and_a_sound_merge_is_no_warning(capsys):
    assert merge("task.general.path=general.txt", "task.general.tokens=8") == 0
    found, told = health()
    tokenizer = AutoTokenizer.from_pretrained("a")
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    ids = [each for text in TEXTS * 6 for each in tokenizer(f"{text}\n", add_special_tokens=False)["input_ids"]]
    size = 8 - len(start)
    pieces = [start + ids[n : n + size] for n in range(0, len(ids) - size + 1, size)][:64]
    tokens = torch.tensor(pieces)
    for name, folder in (("a", "a"), ("b", "b"), ("the merge", "run/artifacts/model")):
        model = AutoModelForCausalLM.from_pretrained(folder)
        with torch.no_grad():
            expected = float(model(input_ids=tokens, labels=tokens).loss)
        assert float(found[name]["loss"]) == pytest.approx(expected, rel=1e-5)
        assert float(found[name]["perplexity"]) == pytest.approx(math.exp(expected), rel=1e-4)
    assert 0.9 < told["metrics"]["perplexity_ratio"] < 1.1 and not told.get("warnings")


@pytest.mark.slow
def test_a_collapse_is_a_warning_also_on_text_of_the_networks(capsys):
    """A change taken 4,000 times is far from any network that learnt something."""
    keys = ["task.combine=task_arithmetic", "task.ancestor=a", "task.scale=4000"]
    assert merge(*keys, "task.match=identity", "task.general.tokens=8", "task.general.sequences=4") == 0
    found, told = health()
    assert [row["role"] for row in found.values()] == ["ancestor", "merged", "merge"]  # a is also the ancestor
    assert told["metrics"]["perplexity_ratio"] > 2
    assert any("may have collapsed" in line for line in told["warnings"])


@pytest.mark.slow
def test_it_is_left_out_where_it_is_not_wanted_or_takes_minutes(monkeypatch, capsys):
    assert merge("task.general.sequences=0") == 0
    assert not Path("run/tables/health.csv").exists()
    monkeypatch.setattr("permlab.tasks.merge.health.MOST", 10)
    assert merge("run.dir=second") == 0
    assert "not asked whether it still speaks" in capsys.readouterr().out
    assert not Path("second/tables/health.csv").exists()


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("task.general.path=nowhere.txt", "nowhere.txt"),
        ("task.general.factor=0.5", "task.general.factor"),
        ("task.general.harness=[arc_easy]", "permlab[lm-eval]"),
    ],
)
def test_bad_input_is_one_line(capsys, key, words):
    assert merge(key) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
