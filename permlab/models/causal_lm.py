"""Load, build and save causal language models: `model, tokenizer = load_causal_lm(config, texts, dtype, device,
seed)`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from permlab.errors import UserError, first_line
from permlab.models.availability import check_headers, explain_loading
from permlab.models.causal_lm_config import CausalLMConfig
from permlab.models.quiet import quiet_transformers
from permlab.models.table import OBJECTIVES, TOKENIZERS, WEIGHTS

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


MASK = "<mask>"


def load_causal_lm(
    config: CausalLMConfig,
    texts: Iterable[str],
    dtype: torch.dtype,
    device: torch.device,
    seed: int,
    max_tokens: int = 512,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return (model, tokenizer): pretrained, or random weights from `seed`, with LoRA adapters when asked for.

    Args:
        config: what to load.
        texts: corpus for a tokenizer trained here; not touched otherwise.
        dtype: number type of the weights.
        device: where the model goes.
        seed: seed of random weights and of LoRA's initial A.
        max_tokens: longest sequence of a model built here.

    Raises:
        UserError: when weights are gated, unreachable or broken, with the remedy; an unknown kind of weights.
    """
    import torch

    quiet_transformers()
    tokenizer = load_tokenizer(config, texts)
    torch.manual_seed(seed)
    model: Any  # of transformers, whose decorated `to` no type checker reads
    if WEIGHTS[config.weights].needs:
        model = load_pretrained(config, dtype)
    else:
        model = build_scratch(config, len(tokenizer), max_tokens, tokenizer)
        model = model.to(dtype)
    if config.lora.rank:
        model = add_lora(model, config)
    elif config.gradient_checkpointing:
        save_memory(model)
    return model.to(device), tokenizer


def load_tokenizer(config: CausalLMConfig, texts: Iterable[str]) -> PreTrainedTokenizerBase:
    """Return the tokenizer of `config.path`, or one trained on the texts; it pads on the left."""
    from permlab.models.tokenizers import train_tokenizer

    if TOKENIZERS[config.tokenizer].target:
        trained = train_tokenizer(texts, config.tokenizer, config.vocab_size)
        if OBJECTIVES[config.objective].masked:
            trained.add_special_tokens({"mask_token": MASK})
        return trained
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = from_hub(AutoTokenizer.from_pretrained, config)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer


def load_pretrained(config: CausalLMConfig, dtype: torch.dtype) -> PreTrainedModel:
    """Load weights from the hub or a folder; pickled weights are refused."""
    from transformers import AutoModelForCausalLM

    load = AutoModelForCausalLM.from_pretrained
    model: PreTrainedModel = from_hub(load, config, dtype=dtype, use_safetensors=True)
    return model


def build_scratch(
    config: CausalLMConfig, vocabulary: int, max_tokens: int, tokenizer: PreTrainedTokenizerBase
) -> PreTrainedModel:
    """Build random weights: the architecture of `config.path`, or one of the sizes in `config.scratch`."""
    from transformers import AutoConfig, AutoModelForCausalLM

    if config.path is not None:
        architecture = from_hub(AutoConfig.from_pretrained, config)
        # The tokenizer may be trained here, with fewer words than the architecture was published with.
        ids = token_options(vocabulary, max_tokens, tokenizer)
        for key in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(architecture, key, ids[key])
    else:
        row = OBJECTIVES[config.objective]
        made: PreTrainedModel = row.load()(config.scratch, token_options(vocabulary, max_tokens, tokenizer))
        return made
    model: PreTrainedModel = AutoModelForCausalLM.from_config(architecture, trust_remote_code=config.trust_remote_code)
    return model


def token_options(vocabulary: int, max_tokens: int, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What a configuration says of tokens: how many there are, positions, and ids of special ones."""
    ids = {key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {"vocab_size": vocabulary, "max_position_embeddings": max_tokens, **ids}


def save_memory(model: PreTrainedModel) -> None:
    """Recompute activations in the backward pass; transformers renamed the call within version 5."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()


def add_lora(model: PreTrainedModel, config: CausalLMConfig) -> Any:
    """Freeze the model and add LoRA adapters.

    Raises:
        UserError: when no module has one of the target names.
    """
    from peft import LoraConfig, get_peft_model

    targets: Any = config.lora.target_modules
    lora = LoraConfig(
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,  # type: ignore[arg-type]  # PEFT scales by alpha / rank: any number will do
        lora_dropout=config.lora.dropout,
        target_modules=targets[0] if targets == ["all-linear"] else list(targets),
        task_type="CAUSAL_LM",
    )
    if config.gradient_checkpointing:
        save_memory(model)
        # Frozen embeddings give checkpointed blocks no input that needs a gradient, and the adapters would get none.
        model.enable_input_require_grads()
    try:
        return get_peft_model(model, lora)
    except ValueError as error:
        raise UserError(f"target_modules={list(targets)}: {first_line(error)}") from error


def from_hub(load: Any, config: CausalLMConfig, **options: Any) -> Any:
    """Call a `from_pretrained`, and turn what can go wrong into one line with the remedy."""
    quiet_transformers()
    path = config.path
    options |= {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    if path and (Path(path) / "config.json").exists():
        check_headers(Path(path))
    try:
        return load(path, **{key: value for key, value in options.items() if value is not None})
    except Exception as error:  # what a broken file makes transformers raise, nobody has listed
        raise UserError(explain_loading(str(path), error)) from error


def save_causal_lm(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save as a Hugging Face directory that `from_pretrained` loads; LoRA adapters are saved as a PEFT directory."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
