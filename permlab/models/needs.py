"""What a causal language model needs of memory, from its sizes alone; nothing is built and torch is not loaded.

    shape = shape_of(config)                                  # or None, where no config.json is at hand
    training_bytes(config, shape, batch=64, length=18)        # {"weights": ..., "optimizer": ..., "activations": ...}

Counts of what the backward pass keeps are those of transformers' Llama with scaled dot product attention, taken from
its saved tensors: a block keeps 10 h + 4 f + T + heads + 2 numbers a token (hidden size h, inner size f, length T), and
with frozen weights 8 h in place of 10 h.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from permlab.models.causal_lm_config import CausalLMConfig
from permlab.models.sizes import check_config
from permlab.storage.files import read_object

KEPT, KEPT_FROZEN = 10, 8
"""Numbers as wide as the residual stream that a block keeps of a token; frozen weights need no inputs of theirs."""
LOGITS = 3
"""Numbers as long as the vocabulary for a token: logits, their logarithmic softmax, its gradient."""


GAPS, GAPS_FROZEN, MAPPED = 1.3, 2.5, 2**25
"""What the heap of a CPU makes of activations: tensors that come and go leave gaps between those that stay, above all
around adapters; larger ones than `MAPPED` bytes are given back at once. Measured, see scripts/bench_memory.py."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama; `keys` is the width of all keys together."""

    hidden: int
    inner: int
    layers: int
    heads: int
    keys: int
    vocabulary: int
    tied: bool

    @property
    def parameters(self) -> int:
        """All weights."""
        block = 2 * self.hidden**2 + 2 * self.hidden * self.keys + 3 * self.hidden * self.inner + 2 * self.hidden
        ends = (1 if self.tied else 2) * self.vocabulary * self.hidden
        return self.layers * block + ends + self.hidden

    def adapters(self, rank: int) -> int:
        """Weights of LoRA adapters of all linear layers."""
        square, narrow, wide = 2 * self.hidden, self.hidden + self.keys, self.hidden + self.inner
        return self.layers * rank * (2 * square + 2 * narrow + 3 * wide)


def shape_of(config: CausalLMConfig, vocabulary: int | None = None) -> Shape | None:
    """Return the sizes of a model: of `scratch`, or of a local config.json; None where it is not at hand.

    Args:
        config: of the model.
        vocabulary: of a tokenizer that is trained here; default the largest that it may have.

    Raises:
        UserError: sizes in config.json that no network has.
    """
    if config.path is None:
        sizes = config.scratch
        keys = sizes.hidden_size * sizes.kv_heads // sizes.heads
        words = min(vocabulary or config.vocab_size, config.vocab_size)
        return Shape(sizes.hidden_size, sizes.intermediate_size, sizes.layers, sizes.heads, keys, words, True)
    path = Path(config.path) / "config.json"
    if not path.is_file():
        return None
    described = check_config(read_object(path), path)
    try:
        hidden, layers, words = (described[key] for key in ("hidden_size", "num_hidden_layers", "vocab_size"))
        inner, heads = described["intermediate_size"], described["num_attention_heads"]
        keys = hidden * described.get("num_key_value_heads", heads) // heads
    except (KeyError, TypeError, ZeroDivisionError):
        return None
    return Shape(hidden, inner, layers, heads, keys, words, bool(described.get("tie_word_embeddings", False)))


def estimate_parameters(config: CausalLMConfig) -> int | None:
    """Return the parameter count from sizes or a local config.json; None when unknown."""
    shape = shape_of(config)
    return None if shape is None else shape.parameters


def training_bytes(
    config: CausalLMConfig,
    shape: Shape,
    batch: int,
    length: float,
    *,
    width: int = 4,
    stored: int = 4,
    heap: bool = False,
) -> dict[str, float]:
    """Return the bytes of a training step with AdamW by what takes them.

    Args:
        config: adapters and recomputed activations.
        shape: sizes.
        batch: texts per forward pass.
        length: tokens of the longest of them.
        width: bytes of a number in the forward and backward pass.
        stored: bytes of a weight.
        heap: on a CPU, whose memory has gaps.
    """
    rank, tokens = config.lora.rank, batch * length
    trained = shape.adapters(rank) if rank else shape.parameters
    weights = shape.parameters * stored + (trained * 4 if rank else 0)
    gradient = 4 if rank else stored
    kept = KEPT_FROZEN if rank else KEPT
    block = kept * shape.hidden + 4 * shape.inner + length + shape.heads + 2 + 7 * rank
    blocks = shape.layers * shape.hidden + block if config.gradient_checkpointing else shape.layers * block
    ends = 0 if rank else 3 * shape.hidden
    gaps = (GAPS_FROZEN if rank else GAPS) if heap and tokens * shape.hidden * width < MAPPED else 1.0
    return {
        "weights": weights,
        "gradients": trained * gradient,
        "optimizer": 2 * trained * gradient,
        "activations": gaps * tokens * ((blocks + ends) * width + LOGITS * shape.vocabulary * 4),
    }


def training_peak(parts: dict[str, float], shape: Shape) -> float:
    """Return the bytes at the fullest moment of a step, from `training_bytes`.

    Activations go as gradients come: at the end of the forward pass all activations are there, and soon the gradient of
    the embedding; at the end of the backward pass all gradients.
    """
    first = parts["activations"] + min(parts["gradients"], 4.0 * shape.vocabulary * shape.hidden)
    return parts["weights"] + parts["optimizer"] + max(first, parts["gradients"])


def asking_bytes(shape: Shape, batch: int, length: float, width: int = 4) -> dict[str, float]:
    """Return the bytes of asking a batch of questions: the cache of keys and values, and what one step computes.

    Args:
        shape: sizes.
        batch: questions at a time.
        length: tokens of the longest question with its answer.
        width: bytes of a number.
    """
    tokens = batch * length
    return {
        "KV cache": 2.0 * shape.layers * shape.keys * tokens * width,
        "answers": tokens * (LOGITS * shape.vocabulary * 4 + (6 * shape.hidden + 3 * shape.inner) * width),
    }
