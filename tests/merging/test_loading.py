"""Networks of the user: what is opened, how it is verified, and what a saved merge looks like."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from architectures import HUGGINGFACE
from checkpoints_made import edit, inputs_of, network, save_pair, weights
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from permlab.data.images import load_digits_images
from permlab.errors import UserError
from permlab.matching import weight_matching
from permlab.merging import align, average, save_merged
from permlab.merging.networks.loading import load_networks
from permlab.merging.networks.saving import save_network
from permlab.merging.networks.states import Permuted, Widened
from permlab.merging.networks.verification import VERIFIED_WHOLE, empty_module, small_twin, verify_huggingface
from permlab.merging.networks.vision import vision_record
from permlab.models.checkpoints import open_checkpoint
from permlab.models.vision import build_vision_model
from permlab.models.vision_config import VisionConfig
from permlab.symmetry import apply, declare_huggingface
from permlab.symmetry.functional import call


@pytest.mark.parametrize("name", ["llama-tied", "llama", "qwen3", "gpt2", "bert-mlm", "vit"])
def test_planted_permutation_gives_a_back_from_disk(name, tmp_path):
    a = network(name)
    spec = declare_huggingface(a.config, a.state_dict())
    b = HUGGINGFACE[name]()
    b.load_state_dict(apply(spec, a.state_dict(), spec.random(torch.Generator().manual_seed(3))))
    a.save_pretrained(tmp_path / "a")
    b.save_pretrained(tmp_path / "b")
    loaded = load_networks([str(tmp_path / "a"), str(tmp_path / "b")])
    matching = weight_matching(loaded.spec, *loaded.states)
    moved = [Permuted(loaded.spec, *each) for each in zip(loaded.stored, matching.permutations)]
    out = save_network(
        tmp_path / "merged", average(moved, tied=loaded.spec.tied), loaded, {"method": "weight matching"}
    )
    merged = type(a).from_pretrained(out).eval()
    with torch.no_grad():
        expected, found = a(**inputs_of(name)).logits, merged(**inputs_of(name)).logits
    assert matching.moved() > 0.5
    assert torch.allclose(expected, found, atol=1e-5)
    assert max(loaded.checks.values()) < 1e-12 and loaded.verified_on == "the network itself"


@pytest.mark.parametrize("name", ["llama-tied", "gpt2", "vit"])
def test_saved_merge_is_the_average_of_the_aligned_networks(name, tmp_path):
    loaded = load_networks(save_pair(tmp_path, name))
    matching = weight_matching(loaded.spec, *loaded.states)
    mean = average(align(loaded.spec, loaded.stored, matching), [1, 3], tied=loaded.spec.tied)
    out = save_network(tmp_path / "m", mean, loaded, {"method": "weight matching", "weights": [0.25, 0.75]})
    state = type(network(name)).from_pretrained(out).state_dict()
    assert all(torch.equal(state[key], value) for key, value in mean.items())
    one, other = align(loaded.spec, loaded.stored, matching)
    key = next(iter(loaded.spec.axes))
    assert torch.allclose(state[key], 0.25 * one[key] + 0.75 * other[key], atol=1e-6)
    card = (out / "README.md").read_text()
    record = json.loads((out / "merge.json").read_text())
    assert record["inputs"][1]["sha256"] == open_checkpoint(loaded.checkpoints[1].path).sha256() in card
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "m"]


def test_module_runs_every_state_without_holding_weights(tmp_path):
    folders = save_pair(tmp_path, "llama-tied")
    loaded = load_networks(folders)
    assert all(parameter.is_meta for parameter in loaded.module.parameters())
    for folder, state in zip(folders, loaded.states):
        with torch.no_grad():
            expected = AutoModelForCausalLM.from_pretrained(folder)(**inputs_of("llama-tied")).logits
            assert torch.allclose(call(loaded.module, state, inputs_of("llama-tied")).logits, expected, atol=1e-6)


def test_bfloat16_is_averaged_in_float32_and_stays_bfloat16(tmp_path):
    for seed in (0, 1):
        network("llama-tied", seed).to(torch.bfloat16).save_pretrained(tmp_path / "ab"[seed])
    loaded = load_networks([str(tmp_path / "a"), str(tmp_path / "b")])
    assert isinstance(loaded.states[0], Widened)
    assert {value.dtype for value in loaded.states[0].values()} == {torch.float32}
    mean = average(loaded.stored, tied=loaded.spec.tied)
    out = save_network(tmp_path / "m", mean, loaded, {"method": "no permutation"})
    for name, value in load_file(out / "model.safetensors").items():
        exact = (loaded.stored[0][name].float() + loaded.stored[1][name].float()) / 2
        assert value.dtype == torch.bfloat16 and torch.equal(value, exact.to(torch.bfloat16))


def test_sharded_files_are_read_and_written(tmp_path):
    loaded = load_networks(save_pair(tmp_path, "llama", max_shard_size="20KB"))
    assert len(loaded.checkpoints[0].files) > 2
    mean = average(loaded.stored)
    out = save_network(tmp_path / "m", mean, loaded, {"method": "average"}, shard_size="20KB")
    assert (out / "model.safetensors.index.json").is_file() and not (out / "model.safetensors").exists()
    state = AutoModelForCausalLM.from_pretrained(out).state_dict()
    assert all(torch.equal(state[key], value) for key, value in mean.items())


def test_bare_and_old_names_are_understood(tmp_path):
    folders = save_pair(tmp_path, "gpt2")
    for folder in folders:  # as gpt2 lies on the hub: no prefix, and masks that nobody needs
        weights(folder, lambda t: t.update({k.removeprefix("transformer."): t.pop(k) for k in list(t)}))
        weights(folder, lambda t: t.update({"h.0.attn.bias": torch.ones(1, 1, 32, 32)}))
    loaded = load_networks(folders)
    assert "residual" not in loaded.spec.pinned and "transformer.wte.weight" in loaded.stored[0]
    assert loaded.file_names["transformer.wte.weight"] == "wte.weight"
    assert "1 tensors that GPT2LMHeadModel does not use are left out (h.0.attn.bias)" in loaded.notes


def test_larger_networks_are_verified_on_a_twin(monkeypatch):
    model = network("llama-tied")
    monkeypatch.setattr("permlab.merging.networks.verification.VERIFIED_WHOLE", 10)
    changes, where = verify_huggingface(model.config, type(model))
    assert where == "a small twin of the architecture" and max(changes.values()) < 1e-12
    large = model.config.__class__(
        num_attention_heads=32, num_key_value_heads=8, hidden_size=4096, num_hidden_layers=32
    )
    twin = small_twin(large)
    assert (twin.num_attention_heads, twin.num_key_value_heads, twin.hidden_size) == (4, 2, 512)
    assert empty_module(twin, type(model)).num_parameters() < VERIFIED_WHOLE


def test_differences_that_do_no_harm_are_told(tmp_path):
    folders = save_pair(tmp_path, "llama-tied")
    edit(
        folders[1],
        max_position_embeddings=64,
        _name_or_path="elsewhere",
        transformers_version="4.30.0",
        use_cache=False,
    )
    notes = load_networks(folders).notes
    assert notes == ["a and b differ in max_position_embeddings: 32 | 64; a's is kept"]


def test_tokens_that_one_network_has_more_are_told(tmp_path):
    folders = save_pair(tmp_path, "llama-tied")
    for folder, extra in zip(folders, ([], ["<user>", "<bot>"])):
        tokens = [{"id": 99 + at, "content": token} for at, token in enumerate(extra)]
        Path(folder, "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0}}, "added_tokens": tokens}))
    assert load_networks(folders).notes == [
        "only b knows '<user>' and 1 more: these rows of the embeddings are averaged with rows that mean nothing"
    ]


def test_run_directories_and_merged_networks_of_ours(tmp_path):
    data, model = load_digits_images(), VisionConfig(width=16, depth=2)
    folders = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        state = build_vision_model("mlp", shape=data.shape, classes=10, width=16, depth=2).state_dict()
        folder = tmp_path / f"run{seed}" / "artifacts" / "model"
        save_merged(folder, state, vision_record(model, data))
        (tmp_path / f"run{seed}" / "result.json").write_text("{}")
        folders.append(folder)
    runs = load_networks([str(tmp_path / "run0"), str(folders[1])])
    files = [str(folder / "model.safetensors") for folder in folders]
    copies = [shutil.copy(file, tmp_path / f"{at}.safetensors") for at, file in enumerate(files)]
    bare = load_networks(list(map(str, copies)), model, data)
    for loaded in (runs, load_networks(files), bare):
        assert loaded.kind == "vision" and len(loaded.spec.groups) == 2
        assert all(torch.equal(loaded.stored[0][name], value) for name, value in bare.stored[0].items())
    with pytest.raises(UserError, match=r"is no mlp of width 24: layers.0.weight has shape .*set model=, model.width"):
        load_networks(list(map(str, copies)), VisionConfig(width=24, depth=2), data)
    with pytest.raises(UserError, match=r"without a configuration: say which network it is with model="):
        load_networks(list(map(str, copies)))


def test_ancestor_is_loaded_beside_the_networks(tmp_path):
    folders = save_pair(tmp_path, "gpt2")
    loaded = load_networks(folders, ancestor=folders[0])
    assert len(loaded.states) == len(loaded.names) == 2
    assert all(torch.equal(loaded.ancestor[name], value) for name, value in loaded.stored[0].items())
