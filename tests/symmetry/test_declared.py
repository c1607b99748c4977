from __future__ import annotations

import pytest
import torch
from architectures import EXPERTS, HUGGINGFACE, LLAMA, VISION, build
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model, LlamaConfig, LlamaModel, OPTConfig

from permlab.errors import UserError
from permlab.models.vision import build_vision_model
from permlab.symmetry import SYMMETRIES, Block, HeadGroup, Spec, apply, declare, declare_huggingface, verify


@pytest.mark.parametrize("name", [*VISION, *HUGGINGFACE, *EXPERTS])
def test_declared_groups_leave_the_function_alone(name):
    model, inputs, spec = build(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    changes = verify(spec, model, inputs)
    assert set(changes) == {*spec.groups, "all groups"}
    assert max(changes.values()) < 1e-12
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_group_counts_follow_the_architectures():
    count = {name: len(build(name)[2].groups) for name in ("mlp", "vgg11", "resnet20", "vit-tiny", "llama", "gpt2")}
    # ResNet-20: 3 residual streams and 9 inner groups; transformers: one stream, heads and hidden layer per block
    assert count == {"mlp": 3, "vgg11": 9, "resnet20": 12, "vit-tiny": 5, "llama": 5, "gpt2": 5}


def test_permuted_llama_gives_the_same_logits_and_stays_tied():
    model, inputs, spec = build("llama-tied")
    with torch.no_grad():
        before = model(**inputs).logits
        model.load_state_dict(apply(spec, model.state_dict(), spec.random(torch.Generator().manual_seed(1))))
        after = model(**inputs).logits
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.allclose(before, after, atol=1e-5)


def forget(spec, tensor):
    del spec.axes[tensor]


def swap_rotary(spec):
    name = "layers.0.attention"
    spec.groups[name] = HeadGroup(name, 2, 2, 8, 8, rotary=False)


def query_heads_for_values(spec):
    name = "layers.0.attention"
    spec.groups[name] = HeadGroup(name, 4, 1, 8, 8, rotary=True)
    spec.axes["model.layers.0.self_attn.k_proj.weight"].pop(0)
    spec.axes["model.layers.0.self_attn.v_proj.weight"].pop(0)


@pytest.mark.parametrize(
    "name, damage, message",
    [
        ("mlp-batch", lambda spec: forget(spec, "norms.1.running_var"), "layers.1"),
        ("resnet20", lambda spec: forget(spec, "stages.1.0.project_norm.bias"), "stage1"),
        ("resnet20", lambda spec: forget(spec, "stages.0.1.norm1.running_mean"), "stages.0.1.conv1"),
        ("vit-tiny", lambda spec: forget(spec, "position"), "residual"),
        ("llama", lambda spec: forget(spec, "model.norm.weight"), "residual"),
        ("llama", swap_rotary, "layers.0.attention"),
        ("llama", query_heads_for_values, "layers.0.attention"),
        ("gpt2", lambda spec: forget(spec, "transformer.h.1.attn.c_attn.bias"), "h.1.attention"),
    ],
)
def test_verify_refuses_a_damaged_spec(name, damage, message):
    model, inputs, spec = build(name)
    damage(spec)
    with pytest.raises(UserError, match=message):
        verify(spec, model, inputs)


def test_verify_refuses_a_group_that_reaches_the_output():
    model, inputs, spec = build("mlp")
    spec.channel("classes", 10)
    spec.use("head.weight", 0, "classes")
    spec.use("head.bias", 0, "classes")
    with pytest.raises(UserError, match="classes"):
        verify(spec, model, inputs)


@pytest.mark.parametrize(
    "model",
    [
        lambda: LlamaModel(LlamaConfig(**LLAMA)),
        lambda: GPT2Model(GPT2Config(n_embd=32, n_layer=1, n_head=4, vocab_size=50, n_positions=16)),
        lambda: BertModel(BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, vocab_size=50)),
    ],
    ids=["llama", "gpt2", "bert"],
)
def test_headless_models_pin_the_stream_they_return(model):
    model = model().eval()
    spec = declare_huggingface(model.config, model.state_dict())
    assert "outputs" in spec.pinned["residual"]
    assert max(verify(spec, model, {"input_ids": torch.randint(3, 50, (2, 7))}).values()) < 1e-12


def test_spec_from_a_checkpoint_without_the_tied_head():
    model, _inputs, spec = build("llama-tied")
    state = {name: value for name, value in model.state_dict().items() if name != "lm_head.weight"}
    again = declare_huggingface(model.config, state)
    assert again.signature() == spec.signature() and again.tied == spec.tied


def test_vit_files_keep_the_older_layer_names(tmp_path):
    model, _, spec = build("vit")
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    again = declare_huggingface(model.config, state)
    assert {name: len(again.members(name)) for name in again.groups} == {
        name: len(spec.members(name)) for name in spec.groups
    }
    permuted = apply(again, state, again.random(torch.Generator().manual_seed(1)))
    save_file({name: value.contiguous() for name, value in permuted.items()}, tmp_path / "model.safetensors")
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.allclose(
            model(images).logits, type(model).from_pretrained(tmp_path).eval()(images).logits, atol=1e-5
        )


def test_unknown_kinds_are_refused_with_what_is_covered():
    with pytest.raises(UserError, match=r"'opt'.*llama"):
        declare_huggingface(OPTConfig(), {})
    with pytest.raises(UserError, match="infer"):
        declare(torch.nn.Linear(2, 2))


def test_flattened_features_are_moved_channel_by_channel():
    model = build_vision_model("vgg11", shape=(1, 8, 8), classes=10, width=0.05)
    block = declare(model).axes["hidden.weight"][1][0]
    assert isinstance(block, Block) and block.inner == 4  # 2 x 2 positions per channel
    assert Spec().signature() == frozenset()


def test_a_typo_in_the_model_type_gets_the_nearest_name():
    from types import SimpleNamespace

    with pytest.raises(UserError, match="did you mean 'qwen2'"):
        declare_huggingface(SimpleNamespace(model_type="qwen22"), {})
    rooms = {row.target.partition(":")[0] for row in SYMMETRIES.values()}
    assert rooms == {"permlab.symmetry.huggingface", "permlab.symmetry.mixtures"}
    assert all(callable(row.load()) for row in SYMMETRIES.values())
