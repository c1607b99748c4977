"""Permutation symmetries of `transformers` models, from their config: `declare_huggingface(config, state)`.

Covers the Llama family (llama, mistral, qwen2, qwen3, gemma, gemma2, gemma3, olmo2, phi3), its mixtures of experts
(mixtral, qwen2_moe, qwen3_moe; `mixtures` has DeepSeek's; made matrices by `flat_experts`), GPT-2, BERT and ViT, bare
or with a head.
The tensor names come from the state dict, so that plain safetensors files do. Under rotary position embeddings no
permutation inside a q/k head is free; heads that share a key/value head move with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from permlab.errors import UserError, did_you_mean
from permlab.symmetry.builder import HEADLESS, Builder, finish, gated
from permlab.symmetry.declared import use_attention
from permlab.symmetry.groups import HeadGroup
from permlab.symmetry.mixtures import routed
from permlab.symmetry.spec import Block, Spec
from permlab.symmetry.table import SYMMETRIES


def declare_huggingface(config: Any, state: Mapping[str, Tensor]) -> Spec:
    """The spec of a `transformers` model.

    Args:
        config: a `PretrainedConfig` (or any object with the same attributes).
        state: the model's state dict, or the tensors of its safetensors files.

    Raises:
        UserError: the model type is not covered.
    """
    kind = str(getattr(config, "model_type", ""))
    if kind not in SYMMETRIES:
        raise UserError(
            f"no declared symmetry for model type '{kind}'{did_you_mean(kind, SYMMETRIES)}: covered are "
            f"{', '.join(SYMMETRIES)}; "
            "permlab.symmetry.infer covers modules that torch.fx can trace"
        )
    builder = Builder(config, state, Spec(source=f"declared {kind}"))
    SYMMETRIES[kind].load()(builder)
    return builder.spec


def declare_llama(b: Builder) -> None:
    """The Llama family: rotary positions pin what is inside q/k heads, gated MLPs share one group of hidden units."""
    config, spec = b.config, b.spec
    root = b.prefix("embed_tokens.weight")
    stream = spec.channel("residual", config.hidden_size)
    heads = config.num_attention_heads
    # Grouped queries: the k/v heads are what is matched, and their queries go with them.
    kv = getattr(config, "num_key_value_heads", None) or heads
    dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    b.use(f"{root}embed_tokens.weight", 1, stream)
    for number in range(config.num_hidden_layers):
        name = f"{root}layers.{number}"
        group = spec.heads(HeadGroup(f"layers.{number}.attention", kv, heads // kv, dim, dim, rotary=True))
        for space in ("query", "key", "value"):
            b.linear(f"{name}.self_attn.{space[0]}_proj", stream, Block(group, space))
        # Some members of the family store q, k and v in one matrix, in this order.
        packed = (
            Block(group, "query"),
            Block(group, "key", offset=heads * dim),
            Block(group, "value", offset=(heads + kv) * dim),
        )
        b.use(f"{name}.self_attn.qkv_proj.weight", 0, *packed)
        b.use(f"{name}.self_attn.qkv_proj.weight", 1, stream)
        b.linear(f"{name}.self_attn.o_proj", Block(group, "output"), stream)
        # Norms over all heads at once follow them (OLMo 2); those inside a head are in its fixed order.
        for space, count in (("query", heads), ("key", kv)):
            if len(b.state.get(f"{name}.self_attn.{space[0]}_norm.weight", ())) == count * dim > dim:
                b.use(f"{name}.self_attn.{space[0]}_norm.weight", 0, Block(group, space))
        gated(b, f"{name}.mlp", f"layers.{number}.mlp", stream)
        gated(b, f"{name}.mlp.shared_expert", f"layers.{number}.shared_expert", stream)
        b.use(f"{name}.mlp.shared_expert_gate.weight", 1, stream)
        routed(b, f"{name}.mlp", f"layers.{number}.experts", stream)
        for norm in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
            b.vector(f"{name}.{norm}_layernorm", stream)
    finish(b, root, stream)


def declare_gpt2(b: Builder) -> None:
    """GPT-2: Conv1D weights are transposed, queries, keys and values stand in one matrix."""
    config, spec = b.config, b.spec
    root = b.prefix("wte.weight")
    width, heads = config.n_embd, config.n_head
    stream = spec.channel("residual", width)
    # Rows of the embedding are tokens; its columns write the residual stream that all blocks add to.
    b.use(f"{root}wte.weight", 1, stream)
    b.use(f"{root}wpe.weight", 1, stream)
    for number in range(config.n_layer):
        name = f"{root}h.{number}"
        group = spec.heads(HeadGroup(f"h.{number}.attention", heads, 1, width // heads, width // heads))
        # Conv1D keeps its weight as [in, out]; c_attn packs q, k and v side by side on the output axis.
        packed = tuple(Block(group, space, offset=i * width) for i, space in enumerate(("query", "key", "value")))
        b.use(f"{name}.attn.c_attn.weight", 0, stream)
        b.use(f"{name}.attn.c_attn.weight", 1, *packed)
        b.use(f"{name}.attn.c_attn.bias", 0, *packed)
        b.use(f"{name}.attn.c_proj.weight", 0, Block(group, "output"))
        b.use(f"{name}.attn.c_proj.weight", 1, stream)
        b.use(f"{name}.attn.c_proj.bias", 0, stream)
        hidden = spec.channel(f"h.{number}.mlp", config.n_inner or 4 * width)
        b.use(f"{name}.mlp.c_fc.weight", 0, stream)
        b.use(f"{name}.mlp.c_fc.weight", 1, hidden)
        b.use(f"{name}.mlp.c_fc.bias", 0, hidden)
        b.use(f"{name}.mlp.c_proj.weight", 0, hidden)
        b.use(f"{name}.mlp.c_proj.weight", 1, stream)
        b.use(f"{name}.mlp.c_proj.bias", 0, stream)
        b.vector(f"{name}.ln_1", stream)
        b.vector(f"{name}.ln_2", stream)
    b.vector(f"{root}ln_f", stream)
    classifier = "score.weight" in b.state
    b.use("score.weight", 1, stream)
    if not classifier and not (root and b.head(stream, "lm_head.weight", f"{root}wte.weight")):
        spec.pin(stream, HEADLESS)


def declare_bert(b: Builder) -> None:
    """BERT, bare or with one of its heads."""
    config, spec = b.config, b.spec
    root = b.prefix("embeddings.word_embeddings.weight")
    width, heads = config.hidden_size, config.num_attention_heads
    stream = spec.channel("residual", width)
    for table in ("word", "position", "token_type"):
        b.use(f"{root}embeddings.{table}_embeddings.weight", 1, stream)
    b.vector(f"{root}embeddings.LayerNorm", stream)
    for number in range(config.num_hidden_layers):
        name = f"{root}encoder.layer.{number}"
        group = spec.heads(HeadGroup(f"layer.{number}.attention", heads, 1, width // heads, width // heads))
        query, key, value = (f"{name}.attention.self.{space}" for space in ("query", "key", "value"))
        use_attention(spec, group, stream, (query, key, value, f"{name}.attention.output.dense"))
        b.vector(f"{name}.attention.output.LayerNorm", stream)
        hidden = spec.channel(f"layer.{number}.mlp", config.intermediate_size)
        b.linear(f"{name}.intermediate.dense", stream, hidden)
        b.linear(f"{name}.output.dense", hidden, stream)
        b.vector(f"{name}.output.LayerNorm", stream)
    _bert_head(b, root, stream)


def _bert_head(b: Builder, root: str, stream: str) -> None:
    """Pooler, classifiers and the masked-language-model head; what is returned to the user stays in place."""
    spec, width = b.spec, b.config.hidden_size
    decoder = "cls.predictions.decoder.weight"
    masked = "cls.predictions.transform.dense.weight" in b.state
    tied = masked and bool(getattr(b.config, "tie_word_embeddings", True))
    pooled = f"{root}pooler.dense.weight" in b.state
    if pooled:
        pooler = spec.channel("pooler", width)
        b.linear(f"{root}pooler.dense", stream, pooler)
        b.use("cls.seq_relationship.weight", 1, pooler)
        b.use("classifier.weight", 1, pooler)
    else:
        b.use("classifier.weight", 1, stream)
    b.use("qa_outputs.weight", 1, stream)
    if masked:
        # A tied decoder reads through the embedding's columns, whose order is that of the stream.
        transform = stream if tied else spec.channel("transform", width)
        b.linear("cls.predictions.transform.dense", stream, transform)
        b.vector("cls.predictions.transform.LayerNorm", transform)
        if tied:
            spec.tied[decoder] = f"{root}embeddings.word_embeddings.weight"
        else:
            b.use(decoder, 1, transform)
    if not root:
        spec.pin(stream, HEADLESS)
        if pooled:
            spec.pin("pooler", "the pooled vector is an output of the model, so its units keep their places")


def declare_vit(b: Builder) -> None:
    """ViT, bare or with a classifier."""
    config, spec = b.config, b.spec
    root = b.prefix("embeddings.cls_token")
    width, heads = config.hidden_size, config.num_attention_heads
    stream = spec.channel("residual", width)
    # Class token and positions are added to the patches, so they write the stream as well.
    b.use(f"{root}embeddings.cls_token", 2, stream)
    b.use(f"{root}embeddings.position_embeddings", 2, stream)
    b.linear(f"{root}embeddings.patch_embeddings.projection", None, stream)
    # transformers 5 renamed the layers; files written before keep the old names.
    old = f"{root}encoder.layer.0.layernorm_before.weight" in b.state
    for number in range(config.num_hidden_layers):
        name = f"{root}encoder.layer.{number}" if old else f"{root}layers.{number}"
        group = spec.heads(HeadGroup(f"layers.{number}.attention", heads, 1, width // heads, width // heads))
        hidden = spec.channel(f"layers.{number}.mlp", config.intermediate_size)
        for space in ("query", "key", "value"):
            layer = f"attention.attention.{space}" if old else f"attention.{space[0]}_proj"
            b.linear(f"{name}.{layer}", stream, Block(group, space))
        b.linear(f"{name}.attention.{'output.dense' if old else 'o_proj'}", Block(group, "output"), stream)
        b.linear(f"{name}.{'intermediate.dense' if old else 'mlp.fc1'}", stream, hidden)
        b.linear(f"{name}.{'output.dense' if old else 'mlp.fc2'}", hidden, stream)
        b.vector(f"{name}.layernorm_before", stream)
        b.vector(f"{name}.layernorm_after", stream)
    b.vector(f"{root}layernorm", stream)
    b.use("classifier.weight", 1, stream)
    if not root:
        spec.pin(stream, HEADLESS)
        b.spec.pinned.setdefault(
            "pooler", "the pooled vector is an output of the model, so its units keep their places"
        )
