"""Configuration of causal language models: `permlab model=llama-1b model.lora.rank=16`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from permlab.errors import UserError, check_range
from permlab.keys import choice
from permlab.models.table import OBJECTIVES, TOKENIZERS, WEIGHTS


@dataclass
class LoraConfig:
    """LoRA adapters with PEFT in place of training all weights."""

    rank: int = 0
    """0 trains all weights."""
    alpha: float = 32.0
    """The update is multiplied by alpha / rank."""
    dropout: float = 0.0
    """Share of the adapters' inputs that is dropped in training."""
    target_modules: list[str] = field(default_factory=lambda: ["all-linear"])
    """Module name endings, or [all-linear]."""


@dataclass
class ScratchConfig:
    """Size of the Llama that model=tiny-llama or one-block-llama builds from scratch."""

    hidden_size: int = 96
    """Width of the residual stream; a multiple of 2 x heads."""
    layers: int = 3
    """Blocks of attention and MLP."""
    heads: int = 4
    """Attention heads per layer."""
    kv_heads: int = 4
    """Heads of keys and values; fewer than heads is grouped-query attention."""
    intermediate_size: int = 256
    """Width of the MLP."""


@dataclass
class CausalLMConfig:
    """A causal language model: a Hugging Face id or directory, or a small Llama built here."""

    name: str = "tiny-llama"
    kind: str = "causal_lm"
    path: str | None = None
    """Hub id or local directory; null builds `scratch` from its sizes."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    weights: str = choice("scratch", WEIGHTS)
    """scratch: random weights, with the architecture of `path` when it is set."""
    objective: str = choice("causal", OBJECTIVES)
    """masked: a BERT of the sizes in `scratch`, as a control that reads both ways; task=spt alone trains one."""
    tokenizer: str = choice("word", TOKENIZERS)
    """word and bpe are trained on the corpus in seconds, pretrained is that of `path`."""
    vocab_size: int = 8192
    """Largest vocabulary of a tokenizer trained here."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, more time."""
    trust_remote_code: bool = False
    """Run the code that comes with the model."""
    scratch: ScratchConfig = field(default_factory=ScratchConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)


def validate_causal_lm(model: CausalLMConfig, masked: bool = False) -> None:
    """Check ranges and combinations; looks at local paths, never at the network.

    Args:
        model: what is checked.
        masked: the caller can work with a masked model too.

    Raises:
        UserError: naming the key and the remedy.
    """
    weights = WEIGHTS.check("model.weights", model.weights)
    tokenizer = TOKENIZERS.check("model.tokenizer", model.tokenizer)
    if OBJECTIVES.check("model.objective", model.objective).masked:
        if not masked:
            raise UserError(f"model.objective={model.objective} is for task=spt alone: use model.objective=causal")
        if model.path is not None or model.lora.rank or tokenizer.needs:
            raise UserError(
                f"model.objective={model.objective} is trained from scratch, whole: leave model.path, model.lora.rank "
                "and model.tokenizer=pretrained out"
            )
    check_range("model.vocab_size", model.vocab_size, 300)
    check_range("model.lora.rank", model.lora.rank, 0)
    check_range("model.lora.alpha", model.lora.alpha, 0, open_interval=True)
    check_range("model.lora.dropout", model.lora.dropout, 0, 0.99)
    for key in ("hidden_size", "layers", "heads", "kv_heads", "intermediate_size"):
        check_range(f"model.scratch.{key}", getattr(model.scratch, key), 1)
    sizes = model.scratch
    if sizes.hidden_size % (2 * sizes.heads):
        raise UserError(
            f"model.scratch.hidden_size={sizes.hidden_size} must be a multiple of 2 x heads ({2 * sizes.heads}): "
            "rotary positions turn pairs of dimensions"
        )
    if sizes.heads % sizes.kv_heads:
        raise UserError(f"model.scratch.heads={sizes.heads} must be a multiple of kv_heads={sizes.kv_heads}")
    if model.path is None:
        if "path" in (*weights.needs, *tokenizer.needs):
            raise UserError(
                f"model={model.name} needs model.path=DIR_OR_ID, a Hugging Face model: model.weights=pretrained and "
                "model.tokenizer=pretrained come from there; without one use model.weights=scratch model.tokenizer=word"
            )
    elif is_local(model.path) and not (Path(model.path) / "config.json").is_file():
        raise UserError(f"model.path={model.path} is not a Hugging Face model directory: it has no config.json")
    if weights.needs and not tokenizer.needs:
        raise UserError("pretrained weights need their own tokenizer: set model.tokenizer=pretrained")


def is_local(path: str) -> bool:
    """Return whether a model path means a folder rather than a hub id (`owner/name`)."""
    return Path(path).exists() or path.startswith((".", "/", "~")) or path.count("/") > 1
