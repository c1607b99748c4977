"""Every declared architecture, small, with inputs."""

from __future__ import annotations

import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    DeepseekV2Config,
    DeepseekV2ForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)

from permlab.matching import random_matching
from permlab.merging import align
from permlab.models.vision import build_vision_model
from permlab.symmetry import declare, declare_huggingface, flat_experts

VISION = {
    "mlp": dict(name="mlp", width=24),
    "mlp-batch": dict(name="mlp", width=24, norm="batch"),
    "vgg11": dict(name="vgg11", width=0.05),
    "vgg11-layer": dict(name="vgg11", width=0.05, norm="layer"),
    "resnet20": dict(name="resnet20"),
    "resnet20-layer": dict(name="resnet20", norm="layer"),
    "vit-tiny": dict(name="vit-tiny", depth=2),
}
SHARED = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
LLAMA = dict(**SHARED, num_key_value_heads=2, vocab_size=101, max_position_embeddings=32, pad_token_id=None)
SPECIAL = dict(bos_token_id=1, eos_token_id=2)
GPT2 = dict(n_embd=32, n_layer=2, n_head=4, vocab_size=101, n_positions=32, **SPECIAL)
BERT = dict(**SHARED, vocab_size=101, max_position_embeddings=32)
HUGGINGFACE = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**LLAMA)),
    "llama-tied": lambda: LlamaForCausalLM(LlamaConfig(**LLAMA, tie_word_embeddings=True)),
    "llama-bias": lambda: LlamaForCausalLM(LlamaConfig(**LLAMA, attention_bias=True, mlp_bias=True)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**LLAMA, head_dim=8)),
    "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**LLAMA, head_dim=8, **SPECIAL)),
    "olmo2": lambda: Olmo2ForCausalLM(Olmo2Config(**LLAMA, **SPECIAL)),
    "phi3": lambda: Phi3ForCausalLM(Phi3Config(**LLAMA, **SPECIAL)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**GPT2)),
    "bert": lambda: BertForSequenceClassification(BertConfig(**BERT)),
    "bert-mlm": lambda: BertForMaskedLM(BertConfig(**BERT)),
    "vit": lambda: ViTForImageClassification(ViTConfig(**SHARED, image_size=16, patch_size=4)),
}

ROUTED = dict(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=12)
LATENT = dict(
    **SHARED, vocab_size=101, pad_token_id=None, num_key_value_heads=4, moe_intermediate_size=12, n_routed_experts=8,
    n_shared_experts=2, num_experts_per_tok=2, first_k_dense_replace=1, kv_lora_rank=16, qk_rope_head_dim=4,
    qk_nope_head_dim=6, v_head_dim=10,
)  # fmt: skip
EXPERTS = {
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**LLAMA, num_local_experts=8)),
    "qwen2-moe": lambda: Qwen2MoeForCausalLM(
        Qwen2MoeConfig(**LLAMA, **ROUTED, shared_expert_intermediate_size=20, mlp_only_layers=[0])
    ),
    "qwen3-moe": lambda: Qwen3MoeForCausalLM(Qwen3MoeConfig(**LLAMA, **ROUTED, head_dim=8)),
    "deepseek-v2": lambda: DeepseekV2ForCausalLM(DeepseekV2Config(**LATENT, topk_method="greedy", q_lora_rank=None)),
    "deepseek-v3": lambda: DeepseekV3ForCausalLM(DeepseekV3Config(**LATENT, n_group=1, topk_group=1, q_lora_rank=12)),
}
GROUPED = DeepseekV3Config(**LATENT, n_group=2, topk_group=1, q_lora_rank=12)


def build(name, seed=0):
    """(model, inputs, declared spec) of one architecture."""
    torch.manual_seed(seed)
    if name in VISION:
        model = build_vision_model(shape=(1, 8, 8), classes=10, **VISION[name]).eval()
        return model, (torch.randn(3, 1, 8, 8),), declare(model)
    model = HUGGINGFACE[name]().eval() if name in HUGGINGFACE else experts(name)
    if name == "vit":
        inputs = {"pixel_values": torch.randn(2, 3, 16, 16)}
    else:
        inputs = {"input_ids": torch.randint(3, 101, (2, 9))}
    return model, inputs, declare_huggingface(model.config, model.state_dict())


def pair(name):
    """(model, spec, states) of two networks, the second in a random order of units."""
    model, _, spec = build(name, seed=0)
    states = [{k: v.detach().clone() for k, v in build(name, seed=seed)[0].state_dict().items()} for seed in (0, 1)]
    return model, spec, align(spec, states, random_matching(spec, 2, seed=2))


def experts(name):
    """A mixture of experts whose routers and experts are all different, as matrices."""
    return flat_experts(shaken(EXPERTS[name]()))


def shaken(model):
    """The model in evaluation mode with weights that are all different, biases of routers too."""
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if "inv_freq" not in name:
                value.add_(0.1 * torch.randn_like(value))
    return model.eval()
