"""Networks of the user that cannot be merged: one line each, and nothing written."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest
import torch
from checkpoints_made import edit, network, save_pair, weights
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, BertConfig, BertForSequenceClassification, OPTConfig, OPTForCausalLM

from permlab.errors import UserError
from permlab.matching import identity_matching
from permlab.merging import align, average
from permlab.merging.networks.loading import load_networks
from permlab.merging.networks.saving import save_network
from permlab.models.checkpoints import open_checkpoint


def narrow(folders):
    shutil.rmtree(folders[1])
    config = network("llama-tied").config
    config.intermediate_size, config.num_hidden_layers = 64, 1
    AutoModelForCausalLM.from_config(config).save_pretrained(folders[1])


def rope(folders):
    edit(folders[1], rope_parameters={"rope_theta": 500000.0, "rope_type": "default"})


def truncate(folders):
    path = Path(folders[1], "model.safetensors")
    path.write_bytes(path.read_bytes()[:20_000])


def garbage(folders):
    Path(folders[1], "model.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"x" * 100)


def pickled(folders):
    torch.save({}, f"{folders[1]}/pytorch_model.bin")
    Path(folders[1], "model.safetensors").unlink()


def outside(folders):
    Path(folders[1], "model.safetensors").rename(Path(folders[1]).parent / "model.safetensors")
    index = {"weight_map": {"model.norm.weight": "../model.safetensors"}}
    Path(folders[1], "model.safetensors.index.json").write_text(json.dumps(index))


def lost_shard(folders):
    Path(folders[1], "model.safetensors").unlink()
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00001.safetensors"}}
    Path(folders[1], "model.safetensors.index.json").write_text(json.dumps(index))


def poison(folders):
    weights(folders[1], lambda tensors: tensors["model.norm.weight"][3:4].fill_(float("nan")))


def infinite(folders):
    weights(folders[0], lambda tensors: tensors["model.layers.1.mlp.up_proj.weight"][0, :1].fill_(float("inf")))


def incomplete(folders):
    for folder in folders:
        weights(folder, lambda tensors: tensors.pop("model.norm.weight"))


def foreign(folders):
    shutil.rmtree(folders[1])
    sizes = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, ffn_dim=48, vocab_size=101)
    OPTForCausalLM(OPTConfig(**sizes, word_embed_proj_dim=32)).save_pretrained(folders[1])


def adapter(folders):
    Path(folders[1], "config.json").unlink()
    Path(folders[1], "adapter_config.json").write_text("{}")


def untied(folders):
    weights(folders[0], lambda tensors: tensors.update({"lm_head.weight": torch.zeros(101, 32)}))
    weights(folders[1], lambda tensors: tensors.update({"lm_head.weight": torch.zeros(101, 32)}))


def words(folders):
    for folder, vocabulary in zip(folders, ({"a": 0, "b": 1}, {"b": 0, "a": 1})):
        Path(folder, "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))


def added(folders, tokens=("<user>", "<bot>")):
    """Equal vocabularies, one further token each with the same number."""
    for folder, token in zip(folders, tokens):
        extra = [{"id": 0, "content": "a"}, {"id": 2, "content": token, "special": True}]
        found = {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": extra}
        Path(folder, "tokenizer.json").write_text(json.dumps(found))


def added_elsewhere(folders):
    words([folders[0], folders[0]])
    shutil.copyfile(Path(folders[0], "tokenizer.json"), Path(folders[1], "tokenizer.json"))
    for folder, token in zip(folders, ("<user>", "<bot>")):
        settings = {"added_tokens_decoder": {"2": {"content": token}}}
        Path(folder, "tokenizer_config.json").write_text(json.dumps(settings))


REFUSED = {
    "missing": (lambda f: shutil.rmtree(f[1]), r"b does not exist: give a Hugging Face folder"),
    "shapes": (
        narrow,
        r"different architectures.*num_hidden_layers: 2 \| 1.*12 tensors differ: .*proj.weight \[\d+, \d+\] \| "
        r"\[\d+, \d+\] and 11 more$",
    ),
    "rope": (rope, r"different architectures.*rope_parameters: .*10000.0.* \| .*500000.0"),
    "truncated": (truncate, r"model.safetensors is truncated or no safetensors file: copy or download it again"),
    "garbage": (garbage, r"truncated or no safetensors file"),
    "pickle": (pickled, r"has pickled weights only \(pytorch_model.bin\): it can run any code .* convert it once"),
    "outside": (outside, r"points to \.\./model.safetensors, which is no .safetensors file of its own folder"),
    "shard": (lost_shard, r"names model-00001-of-00001.safetensors, which is missing: copy all shards"),
    "nan": (poison, r"b: model.norm.weight holds NaN or infinite values"),
    "inf": (infinite, r"a: model.layers.1.mlp.up_proj.weight holds NaN or infinite values"),
    "incomplete": (incomplete, r"lacks 1 tensors of a LlamaForCausalLM \(model.norm.weight\)"),
    "type": (foreign, r"b is of model type 'opt', whose permutations are not declared; supported are llama, .*, vit"),
    "adapter": (adapter, r"is a LoRA adapter, not a whole network: merge adapters with task=lora_lego"),
    "json": (lambda f: Path(f[1], "config.json").write_text("{"), r"config.json is not a JSON object"),
    "config": (lambda f: Path(f[1], "config.json").unlink(), r"has no config.json"),
    "quantised": (lambda f: edit(f[1], quantization_config={"bits": 4}), r"holds quantised weights.*dequantise"),
    "class": (
        lambda f: [edit(each, architectures=["LlamaForever"]) for each in f],
        r"names LlamaForever architecture, which transformers does not have",
    ),
    "tied": (untied, r"ties .* but the files hold two different tensors: set tie_word_embeddings to false"),
    "added": (added, r"different added tokens: row 2 of the embeddings is '<user>' \| '<bot>'"),
    "added elsewhere": (added_elsewhere, r"different added tokens: row 2 of the embeddings is '<user>' \| '<bot>'"),
    "words": (words, r"have different vocabularies \(2 \| 2 tokens\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_networks_are_refused_in_one_line(case, tmp_path):
    folders = save_pair(tmp_path, "llama-tied")
    spoil, line = REFUSED[case]
    spoil(folders)
    with pytest.raises(UserError, match=line) as refusal:
        load_networks(folders)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt"])
def test_pickles_are_refused_unread(suffix, tmp_path):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"anything")
    with pytest.raises(UserError, match=r"is a pickle: it can run any code when it is opened and is never read"):
        open_checkpoint(str(path))


def test_fewer_than_two_and_other_files_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"1 network given: merging needs two or more"):
        load_networks(save_pair(tmp_path)[:1])
    (tmp_path / "notes.gguf").write_text("x")
    with pytest.raises(UserError, match=r"neither a folder nor a .safetensors file"):
        open_checkpoint(str(tmp_path / "notes.gguf"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"has no config.json"):
        open_checkpoint(str(tmp_path / "empty"))
    save_file({"steps": torch.tensor([1])}, str(tmp_path / "counter.safetensors"))
    with pytest.raises(UserError, match=r"holds no floating-point tensor"):
        open_checkpoint(str(tmp_path / "counter.safetensors"))


def test_hub_ids_without_a_network_are_one_line(monkeypatch, tmp_path):
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError

    def fail(error):
        def download(*_, **__):
            raise error

        monkeypatch.setattr("huggingface_hub.snapshot_download", download)

    monkeypatch.chdir(tmp_path)
    fail(LocalEntryNotFoundError("offline"))
    with pytest.raises(UserError, match=r"^owner/name is neither in the cache nor reachable.*path of a local copy$"):
        open_checkpoint("owner/name")
    fail(GatedRepoError("gated", response=type("R", (), {"headers": {}, "request": None})()))
    with pytest.raises(UserError, match=r"is gated: accept its licence"):
        open_checkpoint("owner/name")


def test_different_classes_are_refused(tmp_path):
    sizes = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48, vocab_size=101)
    for name, labels in (("a", ("cat", "dog")), ("b", ("dog", "cat"))):
        config = BertConfig(**sizes, id2label=dict(enumerate(labels)), label2id={v: k for k, v in enumerate(labels)})
        BertForSequenceClassification(config).save_pretrained(tmp_path / name)
    with pytest.raises(UserError, match=r"have different classes .* train them with the same id2label"):
        load_networks([str(tmp_path / "a"), str(tmp_path / "b")])


def test_nothing_is_left_of_a_merge_that_fails(tmp_path, monkeypatch):
    loaded = load_networks(save_pair(tmp_path))
    mean = average(align(loaded.spec, loaded.stored, identity_matching(loaded.spec)))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("keep")
    with pytest.raises(UserError, match=r"exists already and is not overwritten"):
        save_network(tmp_path / "full", mean, loaded, {})

    def full_disk(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr("permlab.storage.tensors.SafetensorsStream.put_rows", full_disk)
    with pytest.raises(OSError, match=r"no space"):
        save_network(tmp_path / "m", mean, loaded, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "full"]


def test_a_run_that_goes_on_replaces_the_merge_it_had_written(tmp_path):
    loaded = load_networks(save_pair(tmp_path))
    mean = average(align(loaded.spec, loaded.stored, identity_matching(loaded.spec)))
    for method in ("first", "second"):
        save_network(tmp_path / "m", mean, loaded, {"method": method})
    assert json.loads((tmp_path / "m" / "merge.json").read_text())["method"] == "second"
