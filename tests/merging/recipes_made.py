"""Four tiny Llamas whose weights are sines, recipes over them, and what mergekit 0.1.5 makes of these.

A merge is told by one number: the sum of its entries, each times a cosine of its place. mergekit ran once, elsewhere.
"""

from __future__ import annotations

import json

import torch
from safetensors.torch import load_file, save_file

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16, "intermediate_size": 24,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 40, "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32, "tie_word_embeddings": False, "dtype": "float32", "head_dim": 4,
    "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
}  # fmt: skip
LAYER = {
    "input_layernorm": [16], "post_attention_layernorm": [16], "mlp.gate_proj": [24, 16], "mlp.up_proj": [24, 16],
    "mlp.down_proj": [16, 24], "self_attn.q_proj": [16, 16], "self_attn.k_proj": [8, 16], "self_attn.v_proj": [8, 16],
    "self_attn.o_proj": [16, 16],
}  # fmt: skip
NETWORKS = ("base", "a", "b", "c")


def shapes():
    names = {"model.embed_tokens.weight": [40, 16], "model.norm.weight": [16], "lm_head.weight": [40, 16]}
    return names | {f"model.layers.{k}.{n}.weight": shape for k in range(3) for n, shape in LAYER.items()}


def state(network):
    """Sines of the place, the tensor and the network; the others are the base and a change of a tenth of its size."""
    number, found = NETWORKS.index(network), {}
    for k, (name, shape) in enumerate(sorted(shapes().items())):
        place = torch.arange(torch.tensor(shape).prod(), dtype=torch.float64).reshape(shape)
        value = torch.sin(1.3 * place * place + 7 * k)
        if number:
            value = value + 0.1 * torch.sin((1.1 + number) * place * place + 3 * k + number)
        found[name] = value.float()
    return found


def save(folder):
    for name in NETWORKS:
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps(CONFIG))
        save_file(state(name), folder / name / "model.safetensors", metadata={"format": "pt"})


def projection(tensors):
    """The sum of all entries, each times a cosine of its place and its tensor."""
    total = 0.0
    for k, name in enumerate(sorted(tensors)):
        flat = tensors[name].double().flatten()
        total += float(flat @ torch.cos(0.37 * torch.arange(len(flat), dtype=torch.float64) + k))
    return total


def projection_of(folder):
    return projection(load_file(folder / "model.safetensors"))


def models(**parameters):
    """Entries for a, b and c; a list has one value each."""
    return [
        {"model": n, "parameters": {key: v[k] if isinstance(v, tuple) else v for key, v in parameters.items()}}
        for k, n in enumerate("abc")
    ]


def based(method, parameters=None, **own):
    found = {"merge_method": method, "base_model": "base", "models": models(weight=(1.0, 0.5, 0.25), **own)}
    return found | ({"parameters": parameters} if parameters else {})


GRADIENT = [
    {"filter": "self_attn", "value": [0, 0.5, 0.3]}, {"filter": "mlp", "value": [1, 0.5, 0.7]}, {"value": 0.4}
]  # fmt: skip
PAIR = [{"model": "a"}, {"model": "b"}]
WEIGHTED = models(weight=(1.0, 0.5, 0.25))
RECIPES = {
    "linear": {"merge_method": "linear", "models": WEIGHTED},
    "linear, not normalised": {"merge_method": "linear", "models": WEIGHTED, "parameters": {"normalize": False}},
    "task arithmetic": based("task_arithmetic", {"lambda": 0.8}),
    "task arithmetic, normalised": based("task_arithmetic", {"normalize": True}),
    "TIES": based("ties", {"lambda": 0.8}, density=(0.5, 0.25, 0.75)),
    "TIES, not normalised": based("ties", {"normalize": False}, density=0.5),
    "DARE, density 1": based("dare_linear", density=1.0),
    "DARE TIES, density 1": based("dare_ties", density=1.0),
    "DELLA, density 1": based("della", density=1.0, epsilon=0.0),
    "DELLA linear, density 1": based("della_linear", density=1.0, epsilon=0.0),
    "Breadcrumbs": based("breadcrumbs", density=0.75, gamma=0.1),
    "Breadcrumbs TIES": based("breadcrumbs_ties", density=0.7, gamma=(0.1, 0.05, 0.2)),
    "Model Stock": {"merge_method": "model_stock", "base_model": "base", "models": [{"model": n} for n in "abc"]},
    "SLERP": {"merge_method": "slerp", "base_model": "a", "models": PAIR, "parameters": {"t": 0.3}},
    "SLERP, gradients and filters": {
        "merge_method": "slerp", "base_model": "b", "models": PAIR, "parameters": {"t": GRADIENT},
    },
    "SLERP, one slice": {
        "merge_method": "slerp", "base_model": "a", "parameters": {"t": GRADIENT},
        "slices": [{"sources": [{"model": n, "layer_range": [0, 3]} for n in "ab"]}],
    },
    "NuSLERP": {"merge_method": "nuslerp", "models": models(weight=(0.7, 0.3, 0))[:2]},
    "multi-SLERP": {"merge_method": "multislerp", "models": WEIGHTED},
    "TIES, gradients and filters": {
        "merge_method": "ties", "base_model": "base", "parameters": {"normalize": True}, "models": [
            {"model": "a", "parameters": {"weight": [0.0, 1.0], "density": 0.5}},
            {"model": "b", "parameters": {"weight": [{"filter": "mlp", "value": 0.5}, {"value": 1.0}],
                                          "density": [1.0, 0.5, 0.25]}},
        ],
    },
    "stacked layers": {"merge_method": "passthrough", "slices": [
        {"sources": [{"model": "a", "layer_range": [0, 2]}]}, {"sources": [{"model": "b", "layer_range": [1, 3]}]},
    ]},
}  # fmt: skip
MERGEKIT = {
    "linear": -19.45324,
    "linear, not normalised": -34.04317,
    "task arithmetic": -20.39991,
    "task arithmetic, normalised": -19.45324,
    "TIES": -19.37466,
    "TIES, not normalised": -21.13636,
    "DARE, density 1": -21.22825,
    "DARE TIES, density 1": -22.73123,
    "DELLA, density 1": -22.43919,
    "DELLA linear, density 1": -21.22825,
    "Breadcrumbs": -21.94651,
    "Breadcrumbs TIES": -24.34959,
    "Model Stock": -17.40838,
    "SLERP": -20.17407,
    "SLERP, gradients and filters": -19.82252,
    "SLERP, one slice": -20.19371,
    "NuSLERP": -20.17407,
    "multi-SLERP": -19.49759,
    "TIES, gradients and filters": -17.55147,
    "stacked layers": -15.82329,
}
"""What mergekit 0.1.5 gives in float32."""
