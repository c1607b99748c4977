"""A LoRA extracted from a fine-tuned model: exact where the change has low rank, the best cut where it has not."""

from __future__ import annotations

import pytest
import torch
from checkpoints_made import network
from here import command
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from permlab.adapters.extract import ExtractedAdapter, linear_modules
from permlab.models.checkpoints import open_checkpoint


def merge(*arguments: str) -> int:
    return command("task=merge", *arguments)


def tuned(folder, name, change):
    """Folders base and tuned; the second is the first with every linear layer changed."""
    model = network(name, 0)
    model.save_pretrained(folder / "base")
    for module in linear_modules(model):
        weight = model.get_submodule(module).weight
        weight.data += change(weight)
    model.save_pretrained(folder / "tuned")
    return model


def low_rank(weight, rank=2):
    return 0.1 * torch.randn(weight.shape[0], rank) @ torch.randn(rank, weight.shape[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama-tied", "gpt2"])
def test_a_change_of_low_rank_comes_back_as_peft_loads_it(tmp_path, monkeypatch, name, capsys):
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    wanted = tuned(tmp_path, name, low_rank).eval()
    assert merge("task.models=[tuned]", "task.ancestor=base", "task.extract_rank=3") == 0
    assert "keeps 100.0%" in capsys.readouterr().out
    base = AutoModelForCausalLM.from_pretrained("base").eval()
    ids = torch.arange(12)[None] % base.config.vocab_size
    before = base(ids).logits
    found = PeftModel.from_pretrained(base, "run/artifacts/adapters/tuned").eval()
    with torch.no_grad():
        target = wanted(ids).logits
        assert (before - target).abs().max() > 1e-2
        torch.testing.assert_close(found(ids).logits, target, rtol=1e-4, atol=1e-4)


def test_what_is_kept_is_the_energy_of_the_leading_singular_values(tmp_path):
    torch.manual_seed(0)
    model = tuned(tmp_path, "llama-tied", lambda weight: 0.1 * torch.randn_like(weight))
    base, after = open_checkpoint(str(tmp_path / "base")), open_checkpoint(str(tmp_path / "tuned"))
    adapter = ExtractedAdapter(base, after, linear_modules(model), 3)
    before = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    for module in adapter.modules:
        adapter.load(module)
        change = model.get_submodule(module).weight - before.get_submodule(module).weight
        values = torch.linalg.svdvals(change.detach()).double() ** 2
        noted = adapter.changes[-1]
        assert noted.changed == pytest.approx(float(values.sum()), rel=1e-4)
        assert noted.kept == pytest.approx(float(values[:3].sum()), rel=1e-4)
    assert adapter.rest() == []


@pytest.mark.slow
def test_what_no_linear_layer_holds_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = network("llama-tied", 0)
    model.save_pretrained("base")
    get_peft_model(model, LoraConfig(r=1, target_modules=["q_proj"])).merge_and_unload()
    model.get_input_embeddings().weight.data += 1
    model.save_pretrained("tuned")
    assert merge("task.models=[tuned]", "task.ancestor=base", "task.extract_rank=1") == 0
    assert "in 1 other tensors, which it lacks" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["task.models=[a]", "task.extract_rank=4"], "task.ancestor=BASE"),
        (["task.models=[other]", "task.ancestor=a", "task.extract_rank=4"], "was not fine-tuned from a"),
        (["task.models=[a]", "task.ancestor=a", "task.extract_rank=0"], "task.extract_rank"),
        (["task.models=[nowhere]", "task.ancestor=a", "task.extract_rank=1"], "nowhere"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys, keys, words):
    monkeypatch.chdir(tmp_path)
    network("llama-tied", 0).save_pretrained("a")
    network("gpt2", 0).save_pretrained("other")
    assert merge(*keys) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert not (tmp_path / "run").exists()
