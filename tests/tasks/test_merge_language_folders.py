"""`permlab task=merge` on Hugging Face folders of the user: what is scored and what is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from checkpoints_made import inputs_of, network, save_pair
from here import result, resume
from language_runs import TEXTS, arms, merge, speakers
from transformers import AutoModelForCausalLM, AutoTokenizer, ViTForImageClassification

from permlab.merging import average
from permlab.merging.networks.loading import load_networks
from permlab.symmetry import apply

pytestmark = pytest.mark.usefixtures("empty_folder")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama-tied", "gpt2"])
def test_planted_permutation_keeps_the_perplexity_of_a(name, tmp_path):
    models, texts = speakers(
        tmp_path, name, lambda spec, state: apply(spec, state, spec.random(torch.Generator().manual_seed(2)))
    )
    assert merge(models, *texts, "task.compare=[activation]", "task.points=3") == 0
    table = arms()
    a = table["a", "test"]["loss"]
    assert table["weight matching", "test"]["midpoint_loss"] == pytest.approx(a, abs=1e-5)
    assert table["weight matching", "test"]["l2_reduction"] == 1
    assert table["activation matching", "test"]["midpoint_loss"] == pytest.approx(a, abs=1e-5)
    assert abs(table["no permutation", "test"]["midpoint_loss"] - a) > 0.01
    merged = AutoModelForCausalLM.from_pretrained("run/artifacts/model").eval()
    with torch.no_grad():
        expected = network(name)(**inputs_of(name)).logits
        assert torch.allclose(merged(**inputs_of(name)).logits, expected, atol=1e-5)


@pytest.mark.slow
def test_perplexity_is_that_of_transformers(tmp_path):
    models, texts = speakers(tmp_path)
    assert merge(models, *texts, "task.points=3") == 0
    model, tokenizer = AutoModelForCausalLM.from_pretrained("a").eval(), AutoTokenizer.from_pretrained("a")
    loss, count = 0.0, 0
    for text in TEXTS:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        assert ids[0, 0] == tokenizer.bos_token_id
        with torch.no_grad():
            loss += float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    assert result()["metrics"]["tokens"] == count
    assert arms()["a", "test"]["loss"] == pytest.approx(loss / count, abs=1e-5)
    both = [network("llama-tied", seed) for seed in (0, 1)]
    ids = tokenizer(TEXTS[0], return_tensors="pt")["input_ids"]
    assert arms()["ensemble", "test"]["loss"] < max(arms()[k, "test"]["loss"] for k in "ab")
    assert not torch.equal(both[0](ids).logits, both[1](ids).logits)


@pytest.mark.slow
def test_three_networks_and_weights(tmp_path):
    models, texts = speakers(tmp_path)
    network("llama-tied", 2).save_pretrained(tmp_path / "c")
    three = models.replace("]", f",{tmp_path}/c]")
    assert merge(three, *texts, "task.match=identity", "task.weights=[2,1,1]", "task.controls=false") == 0
    state = AutoModelForCausalLM.from_pretrained("run/artifacts/model").state_dict()
    loaded = load_networks([str(tmp_path / k) for k in "abc"])
    expected = average(loaded.stored, [2, 1, 1])
    assert all(torch.equal(state[name], value) for name, value in expected.items())
    table = arms()
    mean = sum(w * table[k, "test"]["loss"] for k, w in zip("abc", (0.5, 0.25, 0.25)))
    merged = table["no permutation", "test"]
    assert merged["loss_barrier"] == pytest.approx(merged["midpoint_loss"] - mean)
    assert json.loads(Path("run/artifacts/model/merge.json").read_text())["weights"] == [0.5, 0.25, 0.25]


@pytest.mark.slow
def test_task_vectors_of_a_common_ancestor(tmp_path):
    def tuned(spec, state):
        generator = torch.Generator().manual_seed(9)
        return {k: v + 0.01 * torch.randn(v.shape, generator=generator) for k, v in state.items()}

    models, texts = speakers(tmp_path, change=tuned)
    ancestor = f"task.ancestor={tmp_path}/a"
    assert merge(models, *texts, ancestor, "task.match=identity", "task.combine=task_arithmetic") == 0
    # A is the ancestor itself: its task vector is 0, so the sum of task vectors leads to B.
    state, b = (AutoModelForCausalLM.from_pretrained(p).state_dict() for p in ("run/artifacts/model", "b"))
    assert all(torch.allclose(state[name], value, atol=1e-6) for name, value in b.items())
    assert arms()["task arithmetic", "test"]["loss"] == pytest.approx(arms()["b", "test"]["loss"], abs=1e-5)
    shutil.rmtree("run")
    assert merge(models, ancestor, "task.match=identity", "task.combine=ties", "task.density=0.5", "dataset=none") == 0
    state = AutoModelForCausalLM.from_pretrained("run/artifacts/model").state_dict()
    changed = [
        float((state[n] != v).float().mean()) for n, v in AutoModelForCausalLM.from_pretrained("a").state_dict().items()
    ]
    assert 0.2 < sum(changed) / len(changed) < 0.8


@pytest.mark.slow
@pytest.mark.parametrize(
    "combine, weights, applied",
    [
        ("task_arithmetic", "[]", [1, 1]),
        ("task_arithmetic", "[1,0.5]", [1, 0.5]),
        ("ties", "[]", [0.5, 0.5]),
        ("ties", "[1,0.01]", [1 / 1.01, 0.01 / 1.01]),
    ],
)
def test_the_record_has_the_weights_that_were_applied(combine, weights, applied, tmp_path):
    save_pair(tmp_path)
    base = network("llama-tied", 7)
    base.save_pretrained(tmp_path / "base")
    given = [f"task.models=[{tmp_path}/a,{tmp_path}/b]", f"task.ancestor={tmp_path}/base", "task.density=1"]
    given += ["task.match=identity", f"task.combine={combine}", f"task.weights={weights}", "task.controls=false"]
    assert merge(*given) == 0
    assert json.loads(Path("run/artifacts/model/merge.json").read_text())["weights"] == pytest.approx(applied)
    card = Path("run/artifacts/model/README.md").read_text()
    assert [line.split("|")[2].strip() for line in card.splitlines() if str(tmp_path) in line and "|" in line] == [
        *(f"{weight:g}" for weight in applied),
        "ancestor",
    ]
    name = "model.norm.weight"
    start, *ends = (each.state_dict()[name] for each in (base, network("llama-tied", 0), network("llama-tied", 1)))
    changes = [w * (end - start) for w, end in zip(applied, ends)]
    if combine == "task_arithmetic":
        wanted = start + sum(changes)
    else:
        agree = [(change * sum(changes) > 0).float() for change in changes]
        wanted = start + sum(c * m for c, m in zip(changes, agree)) / sum(w * m for w, m in zip(applied, agree))
    merged = AutoModelForCausalLM.from_pretrained("run/artifacts/model").state_dict()[name]
    assert torch.allclose(merged, wanted, atol=1e-5)


def test_networks_without_texts_are_merged_and_not_scored(tmp_path, capsys):
    save_pair(tmp_path, "vit")
    assert merge(f"task.models=[{tmp_path}/a,{tmp_path}/b]") == 0
    assert "nothing was scored" in capsys.readouterr().out
    table = arms()
    assert table["weight matching", "test"]["l2_reduction"] > table["no permutation", "test"]["l2_reduction"] == 0
    ViTForImageClassification.from_pretrained("run/artifacts/model")
    assert "midpoint_loss" not in result()["metrics"]


@pytest.mark.slow
def test_half_precision_is_matched_and_merged_without_a_wide_copy(tmp_path, monkeypatch):
    for seed, letter in enumerate("ab"):
        network("llama-tied", seed).bfloat16().save_pretrained(tmp_path / letter)

    def copied(self, name):
        raise AssertionError(f"{name} was widened as a whole")

    monkeypatch.setattr("permlab.merging.networks.states.Widened.__getitem__", copied)
    assert merge(f"task.models=[{tmp_path}/a,{tmp_path}/b]", "task.memory_gb=1") == 0
    assert arms()["weight matching", "test"]["l2_reduction"] > 0


def test_matching_of_networks_on_disk_multiplies_on_the_gpu(monkeypatch):
    from types import SimpleNamespace

    from permlab.tasks.merge import language_run

    config = SimpleNamespace(task=SimpleNamespace(memory_gb=None))
    for kind, found in (("cuda", torch.device("cuda")), ("cpu", None)):
        monkeypatch.setattr(language_run, "device_of", lambda _, kind=kind: torch.device(kind))
        memory = language_run.memory_of(config)
        assert memory.device == found and memory.most == 3 * 2**30


@pytest.mark.slow
def test_a_merge_that_was_stopped_is_not_matched_again(tmp_path, monkeypatch):
    save_pair(tmp_path)
    models = f"task.models=[{tmp_path}/a,{tmp_path}/b]"

    def stopped(*_, **__):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("permlab.storage.tensors.SafetensorsStream.put_rows", stopped)
        assert merge(models) != 0
    matched = Path("run/artifacts/matching.safetensors").read_bytes()
    monkeypatch.setattr("permlab.matching.many.weight_matching", stopped)
    assert resume() == 0
    assert Path("run/artifacts/matching.safetensors").read_bytes() == matched
    assert result()["metrics"]["l2_reduction"] > 0
