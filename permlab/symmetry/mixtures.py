"""Permutation symmetries of mixtures of experts: `declare_huggingface(config, flat_experts(model).state_dict())`.

Experts are matrices (`permlab.symmetry.experts`): whole ones move with their rows of the router, units move inside an
expert. Where a router chooses among groups of experts, experts keep their places and only their units move.
"""

from __future__ import annotations

from permlab.errors import UserError
from permlab.symmetry.builder import Builder, finish, gated
from permlab.symmetry.experts import expert_group
from permlab.symmetry.spec import Block

GROUPED = "the router chooses groups of experts first, so that an expert keeps its place; its units move"


def routed(b: Builder, name: str, group: str, stream: str) -> None:
    """The experts of one layer and their router, where it has any."""
    router, down = f"{name}.gate.weight", f"{name}.experts.down_proj.weight"
    if router not in b.state:
        return
    if down not in b.state:
        raise UserError(
            f"the {b.config.model_type} model has stacked experts: make them matrices with "
            "permlab.symmetry.flat_experts(model) before its symmetry is declared"
        )
    count = len(b.state[router])
    units = b.state[down].shape[1] // count
    b.use(router, 1, stream)
    if grouped(b):
        b.spec.pinned[group] = GROUPED
        names = [b.spec.channel(f"{group}.{each}", units) for each in range(count)]
        inside = outside = tuple(Block(each, offset=at * units) for at, each in enumerate(names))
    else:
        experts = b.spec.heads(expert_group(group, count, units))
        inside, outside = (Block(experts, "value"),), (Block(experts, "output"),)
        b.use(router, 0, Block(experts, "head"))
        b.use(f"{name}.gate.e_score_correction_bias", 0, Block(experts, "head"))
    for part in ("gate_proj", "up_proj"):
        b.use(f"{name}.experts.{part}.weight", 0, *inside)
        b.use(f"{name}.experts.{part}.weight", 1, stream)
    b.use(f"{name}.experts.down_proj.weight", 0, stream)
    b.use(f"{name}.experts.down_proj.weight", 1, *outside)


def grouped(b: Builder) -> bool:
    """Whether the router chooses among groups of experts before it chooses experts."""
    return (getattr(b.config, "n_group", None) or 1) > 1 and getattr(b.config, "topk_method", "") != "greedy"


def declare_deepseek(b: Builder) -> None:
    """DeepSeek V2 and V3: latent attention, dense layers first, then experts beside shared ones (arXiv 2405.04434).

    Heads move whole, since rotary positions bind a part of their dims and keys and values of a head are in one matrix;
    the two latents, which queries and which keys and values are expanded from, are groups of their own.
    """
    config, spec = b.config, b.spec
    root = b.prefix("embed_tokens.weight")
    stream = spec.channel("residual", config.hidden_size)
    b.use(f"{root}embed_tokens.weight", 1, stream)
    for number in range(config.num_hidden_layers):
        name = f"{root}layers.{number}"
        _latent_attention(b, f"{name}.self_attn", f"layers.{number}.attention", stream)
        gated(b, f"{name}.mlp", f"layers.{number}.mlp", stream)
        gated(b, f"{name}.mlp.shared_experts", f"layers.{number}.shared_experts", stream)
        routed(b, f"{name}.mlp", f"layers.{number}.experts", stream)
        for norm in ("input", "post_attention"):
            b.vector(f"{name}.{norm}_layernorm", stream)
    finish(b, root, stream)


def _latent_attention(b: Builder, name: str, group: str, stream: str) -> None:
    config, spec = b.config, b.spec
    heads = spec.channel(f"{group}.heads", config.num_attention_heads)
    # A head takes its neighbouring dims along, as a channel does in a flattened map.
    query = Block(heads, inner=config.qk_nope_head_dim + config.qk_rope_head_dim)
    if config.q_lora_rank is None:
        b.linear(f"{name}.q_proj", stream, query)
    else:
        latent = spec.channel(f"{group}.query_latent", config.q_lora_rank)
        b.linear(f"{name}.q_a_proj", stream, latent)
        b.vector(f"{name}.q_a_layernorm", latent)
        b.linear(f"{name}.q_b_proj", latent, query)
    latent = spec.channel(f"{group}.latent", config.kv_lora_rank)
    # The rows behind the latent are the rotary part of the keys, one for all heads.
    b.linear(f"{name}.kv_a_proj_with_mqa", stream, Block(latent))
    b.vector(f"{name}.kv_a_layernorm", latent)
    b.linear(f"{name}.kv_b_proj", latent, Block(heads, inner=config.qk_nope_head_dim + config.v_head_dim))
    b.linear(f"{name}.o_proj", Block(heads, inner=config.v_head_dim), stream)
