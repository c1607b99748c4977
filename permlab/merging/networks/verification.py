"""The declared symmetry of a Hugging Face architecture, tried out: `verify_huggingface(config, LlamaForCausalLM)`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from permlab.symmetry import declare_huggingface, flat_experts, verify

VERIFIED_WHOLE = 10_000_000
"""Networks of up to this many parameters are verified themselves, larger ones on a smaller twin."""


def empty_module(config: Any, architecture: type) -> nn.Module:
    """The architecture with parameters that take no memory and real buffers: it can be `call`ed with a state.

    Experts are matrices (`permlab.symmetry.experts`).
    """
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        module: Any = architecture(config)
    module.tie_weights()  # the context replaces parameters one by one, which parts tied ones
    found: nn.Module = flat_experts(module.eval())
    return found


def verify_huggingface(
    config: Any, architecture: type, state: Mapping[str, Tensor] | None = None
) -> tuple[dict[str, float], str]:
    """`verify` of the declared symmetry, in float64: (changes by group, what it ran on).

    Up to 10 million parameters it is the network itself. A larger one is stood for by a twin of the same architecture
    and options with two layers, at most four heads (grouped as they are) and a small vocabulary.

    Raises:
        UserError: a group changes the outputs.
    """
    shapes = empty_module(config, architecture).state_dict().values()
    whole = sum(value.numel() for value in shapes) <= VERIFIED_WHOLE
    config = config if whole else small_twin(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = flat_experts(architecture(config).float().eval())
    if whole and state is not None:
        module.load_state_dict({name: value.float() for name, value in state.items()}, strict=False)
    spec = declare_huggingface(config, module.state_dict())
    generator = torch.Generator().manual_seed(0)
    if config.model_type == "vit":
        size = config.image_size if isinstance(config.image_size, int) else config.image_size[0]
        inputs = {"pixel_values": torch.randn(2, config.num_channels, size, size, generator=generator)}
    else:
        inputs = {"input_ids": torch.randint(config.vocab_size, (2, 8), generator=generator)}
    return verify(spec, module, inputs), "the network itself" if whole else "a small twin of the architecture"


def small_twin(config: Any) -> Any:
    """A copy of a configuration with everything that only makes a network large cut down."""
    twin = copy.deepcopy(config)
    layers, heads, width, inner = "num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size"
    if config.model_type == "gpt2":
        layers, heads, width, inner = "n_layer", "n_head", "n_embd", "n_inner"
    count = getattr(config, heads)
    dim = getattr(config, "head_dim", None) or getattr(config, width) // count
    kv = getattr(config, "num_key_value_heads", None)
    groups = min(kv or count, 4 if (kv or count) == count else 2)
    kept = groups * min(count // (kv or count), 2)
    for key, value in ((heads, kept), (width, kept * dim), (inner, 96), (layers, 2)):
        setattr(twin, key, value)
    if kv:
        twin.num_key_value_heads = groups
    if getattr(twin, "layer_types", None):
        twin.layer_types = twin.layer_types[:2]
    for key, value in (("vocab_size", 128), ("max_position_embeddings", 64), ("n_positions", 64)):
        if isinstance(getattr(twin, key, None), int):
            setattr(twin, key, value)
    for key in ("pad_token_id", "bos_token_id", "eos_token_id"):
        if hasattr(twin, key):
            setattr(twin, key, None)
    for key in ("moe_intermediate_size", "shared_expert_intermediate_size"):
        if hasattr(twin, key):
            setattr(twin, key, 48)
    for key in ("num_local_experts", "num_experts", "n_routed_experts"):
        if isinstance(getattr(config, key, None), int):  # enough for two of every group that a router chooses from
            setattr(twin, key, min(getattr(config, key), 4 * (getattr(config, "n_group", None) or 2)))
    if hasattr(twin, "first_k_dense_replace"):
        twin.first_k_dense_replace = min(1, twin.first_k_dense_replace)
    if config.model_type == "vit":
        patch = twin.patch_size if isinstance(twin.patch_size, int) else twin.patch_size[0]
        twin.image_size = 2 * patch
    return twin
