"""The `transformers` architectures whose permutation symmetry is written down: `SYMMETRIES["qwen2"].load()`.

Another architecture is one function that attaches its tensors to groups (`huggingface.Builder`) and one row.
"""

from __future__ import annotations

from dataclasses import dataclass

from permlab.registry import Row, Table


@dataclass(frozen=True)
class SymmetryRow(Row):
    """A `model_type` of a configuration; `target`: (builder) -> None, which fills the builder's spec."""


_HERE = "permlab.symmetry.huggingface"
_LLAMA = f"{_HERE}:declare_llama"
SYMMETRIES = Table(
    "declared symmetry of model type",
    [
        SymmetryRow("llama", "rotary, gated, RMS norms", target=_LLAMA, paper="2302.13971"),
        SymmetryRow("mistral", "as llama", target=_LLAMA, paper="2310.06825"),
        SymmetryRow("qwen2", "as llama, with biases", target=_LLAMA, paper="2407.10671"),
        SymmetryRow("qwen3", "as llama, with norms of queries and keys", target=_LLAMA, paper="2505.09388"),
        SymmetryRow("gemma", "as llama, tied head", target=_LLAMA, paper="2403.08295"),
        SymmetryRow("gemma2", "as gemma, with norms after the blocks", target=_LLAMA, paper="2408.00118"),
        SymmetryRow("phi3", "as llama, with packed matrices", target=_LLAMA, paper="2404.14219"),
        SymmetryRow("gpt2", "learned positions, packed queries, keys and values", target=f"{_HERE}:declare_gpt2"),
        SymmetryRow("bert", "encoder with norms after the blocks", target=f"{_HERE}:declare_bert", paper="1810.04805"),
        SymmetryRow("vit", "encoder of image patches", target=f"{_HERE}:declare_vit", paper="2010.11929"),
    ],
)
