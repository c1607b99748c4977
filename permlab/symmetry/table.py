"""The `transformers` architectures whose permutation symmetry is written down: `SYMMETRIES["qwen2"].load()`.

Another architecture is one function that attaches its tensors to groups (`builder.Builder`) and one row.
"""

from __future__ import annotations

from dataclasses import dataclass

from permlab.registry import Row, Table


@dataclass(frozen=True)
class SymmetryRow(Row):
    """A `model_type` of a configuration; `target`: (builder) -> None, which fills the builder's spec.

    Attributes:
        experts: its layers are mixtures of experts, which `permlab.symmetry.flat_experts` makes matrices.
    """

    experts: bool = False


_HERE = "permlab.symmetry.huggingface"
_LLAMA = f"{_HERE}:declare_llama"
_DEEPSEEK = "permlab.symmetry.mixtures:declare_deepseek"
SYMMETRIES = Table(
    "declared symmetry of model type",
    [
        SymmetryRow("llama", "rotary, gated, RMS norms", target=_LLAMA, paper="2302.13971"),
        SymmetryRow("mistral", "as llama", target=_LLAMA, paper="2310.06825"),
        SymmetryRow("qwen2", "as llama, with biases", target=_LLAMA, paper="2407.10671"),
        SymmetryRow("qwen3", "as llama, with norms of queries and keys", target=_LLAMA, paper="2505.09388"),
        SymmetryRow("gemma", "as llama, tied head", target=_LLAMA, paper="2403.08295"),
        SymmetryRow("gemma2", "as gemma, with norms after the blocks", target=_LLAMA, paper="2408.00118"),
        SymmetryRow("gemma3_text", "as gemma2, with norms of queries and keys", target=_LLAMA, paper="2503.19786"),
        SymmetryRow(
            "olmo2", "as llama, norms after the blocks, of all queries and keys", target=_LLAMA, paper="2501.00656"
        ),
        SymmetryRow("mixtral", "as llama, with experts", target=_LLAMA, paper="2401.04088", experts=True),
        SymmetryRow("qwen2_moe", "as qwen2, experts and a shared one", target=_LLAMA, paper="2407.10671", experts=True),
        SymmetryRow("qwen3_moe", "as qwen3, with experts", target=_LLAMA, paper="2505.09388", experts=True),
        SymmetryRow(
            "deepseek_v2",
            "latent attention, experts and shared ones",
            target=_DEEPSEEK,
            paper="2405.04434",
            experts=True,
        ),
        SymmetryRow("deepseek_v3", "as deepseek_v2", target=_DEEPSEEK, paper="2412.19437", experts=True),
        SymmetryRow("phi3", "as llama, with packed matrices", target=_LLAMA, paper="2404.14219"),
        SymmetryRow("gpt2", "learned positions, packed queries, keys and values", target=f"{_HERE}:declare_gpt2"),
        SymmetryRow("bert", "encoder with norms after the blocks", target=f"{_HERE}:declare_bert", paper="1810.04805"),
        SymmetryRow("vit", "encoder of image patches", target=f"{_HERE}:declare_vit", paper="2010.11929"),
    ],
)
