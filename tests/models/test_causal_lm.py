"""Causal language models: tokenizers give the text back, folders load and save, mistakes are one line."""

from __future__ import annotations

import pytest
import torch

from permlab.data import people_corpus
from permlab.errors import UserError
from permlab.models.causal_lm import explain_loading, load_causal_lm, save_causal_lm
from permlab.models.causal_lm_config import CausalLMConfig, LoraConfig, ScratchConfig, validate_causal_lm
from permlab.models.needs import estimate_parameters
from permlab.models.tokenizers import train_tokenizer

TEXTS = [e.text for e in people_corpus(people=6, templates=3, held_out=0).examples]
TINY = ScratchConfig(hidden_size=32, layers=2, heads=2, kv_heads=1, intermediate_size=48)


def load(config, seed=0):
    return load_causal_lm(config, TEXTS, torch.float32, torch.device("cpu"), seed)


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_tokenizers_give_the_text_back_also_after_saving(kind, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = train_tokenizer([*TEXTS, "Is it 'A Journey', or 2nd-hand? Yes: (maybe)."], kind, 2000)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for text in [*TEXTS, "Is it 'A Journey', or 2nd-hand?"]:
        for each in (tokenizer, loaded):
            ids = each(text)["input_ids"]
            assert ids[0] == each.bos_token_id
            assert each.decode(ids, skip_special_tokens=True).strip() == text


def test_word_vocabularies_do_not_depend_on_the_order_of_the_texts():
    assert train_tokenizer(TEXTS).get_vocab() == train_tokenizer(TEXTS[::-1]).get_vocab()


def test_a_saved_model_loads_with_auto_classes_and_as_model_local(tmp_path):
    from transformers import AutoModelForCausalLM

    model, tokenizer = load(CausalLMConfig(scratch=TINY))
    save_causal_lm(model, tokenizer, tmp_path)
    ids = tokenizer(TEXTS[:1], return_tensors="pt")["input_ids"]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits)
    config = CausalLMConfig(name="local", path=str(tmp_path), weights="pretrained", tokenizer="pretrained")
    again, _ = load(config)
    torch.testing.assert_close(again(ids).logits, model(ids).logits)
    assert estimate_parameters(config) == sum(p.numel() for p in model.parameters())


def test_lora_trains_adapters_only_and_saves_them(tmp_path):
    model, tokenizer = load(CausalLMConfig(scratch=TINY, lora=LoraConfig(rank=2)))
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in name for name in trained)
    save_causal_lm(model, tokenizer, tmp_path)
    assert (tmp_path / "adapter_model.safetensors").is_file()
    with pytest.raises(UserError, match="target_modules"):
        load(CausalLMConfig(scratch=TINY, lora=LoraConfig(rank=2, target_modules=["no_such_layer"])))


def test_random_weights_depend_on_the_seed():
    first, again, other = (load(CausalLMConfig(scratch=TINY), seed)[0].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            OSError("You are trying to access a gated repo. 401 Client Error"),
            ["gated", "hf auth login", "path of a local copy"],
        ),
        (OSError("We couldn't connect to the hub"), ["not reachable", "model.path=DIR", "model=tiny-llama"]),
        (ValueError("loading this requires trust_remote_code=True"), ["trust_remote_code=true"]),
    ],
)
def test_what_cannot_be_loaded_has_a_remedy(error, words):
    message = explain_loading("meta-llama/Llama-3.2-1B", error)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.slow
def test_weights_out_of_reach_are_one_line(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=r"model\.path=DIR"):
        load(CausalLMConfig(name="gpt2", path="nobody/no-such-model", weights="pretrained", tokenizer="pretrained"))


def test_pickled_weights_are_refused(tmp_path):
    tmp_path = tmp_path / "gated-403"  # what a hub says of a model, in the name of a folder
    model, tokenizer = load(CausalLMConfig(scratch=TINY))
    save_causal_lm(model, tokenizer, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        load(CausalLMConfig(name="local", path=str(tmp_path), weights="pretrained", tokenizer="pretrained"))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (CausalLMConfig(weights="trained"), "pretrained, scratch"),
        (CausalLMConfig(tokenizer="words"), "did you mean 'word'"),
        (
            CausalLMConfig(name="local", weights="pretrained", tokenizer="pretrained"),
            "model=local needs model.path=DIR",
        ),
        (CausalLMConfig(weights="pretrained"), "model.path"),
        (CausalLMConfig(path="./nowhere"), "config.json"),
        (CausalLMConfig(scratch=ScratchConfig(hidden_size=30)), "multiple"),
        (CausalLMConfig(scratch=ScratchConfig(kv_heads=3)), "multiple of kv_heads"),
    ],
)
def test_bad_settings_are_refused(config, words):
    with pytest.raises(UserError, match=words):
        validate_causal_lm(config)


def test_names_of_tokenizers_and_weights_never_fall_through():
    """A misspelt kind was trained as BPE, and misspelt weights were random."""
    with pytest.raises(UserError, match="did you mean 'word'"):
        train_tokenizer(["a b"], "wrd")
    with pytest.raises(UserError, match="not trained"):
        train_tokenizer(["a b"], "pretrained")
    with pytest.raises(UserError, match="did you mean 'pretrained'"):
        load_causal_lm(CausalLMConfig(weights="pretraind"), ["a b"], torch.float32, torch.device("cpu"), 0)
