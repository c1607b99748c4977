"""Whether a language model can be loaded, without loading it: `check_available(config)` is "cached".

Folders are read as far as JSON, safetensors headers and the tokenizer's file; of the hub one small answer is asked.
"""

from __future__ import annotations

from pathlib import Path

from permlab.errors import UserError, first_line
from permlab.models.causal_lm_config import CausalLMConfig, is_local
from permlab.models.sizes import check_config, check_files, check_sizes
from permlab.models.table import TOKENIZERS, WEIGHTS
from permlab.storage.files import read_object
from permlab.storage.hub import look_up
from permlab.storage.shards import read_weights

CONFIG, STORED, STORED_INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_FILES = (
    *(TOKENIZER, "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt"),
    *("tekken.json", "tokenizer_config.json"),
)
"""One of these is with every tokenizer of transformers."""
REMEDY = "give the path of a local copy (model.path=DIR), or train a model from scratch (model=tiny-llama)"
NO_TOKENIZER = (
    f"has no tokenizer that can be read ({TOKENIZER}); put that of the model beside it: "
    "AutoTokenizer.from_pretrained(ORIGINAL).save_pretrained(FOLDER)"
)


def check_available(config: CausalLMConfig) -> str:
    """Refuse a model whose configuration, weights or tokenizer cannot be had.

    Returns:
        Where it is: "built here", "local", "cached" or "on the hub".

    Raises:
        UserError: with the remedy.
    """
    if config.path is None:
        return "built here"
    weights, tokenizer = (bool(row.needs) for row in (WEIGHTS[config.weights], TOKENIZERS[config.tokenizer]))
    return check_path(config.path, config.revision, weights=weights, tokenizer=tokenizer)


def check_path(path: str, revision: str | None = None, *, weights: bool = True, tokenizer: bool = True) -> str:
    """The same for a folder or a hub id, of which `weights` and `tokenizer` are wanted.

    Raises:
        UserError: with the remedy.
    """
    if is_local(path):
        check_folder(Path(path).expanduser(), weights=weights, tokenizer=tokenizer)
        return "local"
    wanted: list[tuple[str, ...]] = [(CONFIG,)]
    wanted += [(STORED, STORED_INDEX)] if weights else []
    wanted += [TOKENIZER_FILES] if tokenizer else []
    try:
        return look_up(path, wanted, revision)
    except UserError as error:
        kept_away = "is gated" in str(error) or "revision" in str(error)
        raise error if kept_away else UserError(explain_missing(path)) from None


def check_folder(folder: Path, *, weights: bool, tokenizer: bool) -> None:
    """Refuse a folder without configuration, safetensors or a tokenizer, or with damaged ones; nothing is loaded.

    Raises:
        UserError: naming the file.
    """
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} is not a Hugging Face model directory: it has no {CONFIG}")
    check_headers(folder)
    if weights and read_weights(folder, STORED) is None:
        raise UserError(
            f"{folder} has no safetensors weights (pickled weights are refused); save it with safe_serialization"
        )
    if not tokenizer:
        return
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(f"{folder} {NO_TOKENIZER}")
    if (folder / TOKENIZER).is_file():
        from tokenizers import Tokenizer

        try:
            Tokenizer.from_file(str(folder / TOKENIZER))
        except Exception as error:  # the library raises plain exceptions
            raise UserError(f"{folder / TOKENIZER} cannot be read ({first_line(error, 100)}); get it again") from None
    elif [name for name in TOKENIZER_FILES if (folder / name).is_file()] == ["tokenizer_config.json"]:
        raise UserError(f"{folder} {NO_TOKENIZER}")


def check_headers(folder: Path) -> None:
    """Refuse a model folder whose configuration or weights are absurd, by their headers.

    Raises:
        UserError: a size that no network has or that the weights do not hold; an object that is none; torn weights.
    """
    check_files(folder)
    path = folder / CONFIG
    config = check_config(read_object(path), path)
    for name in ("tokenizer_config.json", "generation_config.json", "special_tokens_map.json"):
        if (folder / name).exists():
            read_object(folder / name)
    tensors = read_weights(folder, STORED)
    if tensors is not None:
        check_sizes(config, path, tensors)


def explain_loading(path: str, error: Exception) -> str:
    """Say in one line why a model could not be loaded and what to do."""
    text = str(error).replace(path, "")  # a folder may be called anything, 403 too
    folded = text.lower()
    here = is_local(path) or Path(path).exists()
    if not here and ("gated" in folded or "401" in text or "403" in text):
        return (
            f"{path} is gated: accept its licence on the model page and run `hf auth login`, "
            "or give the path of a local copy, or train a model from scratch"
        )
    if "trust_remote_code" in folded:
        return f"{path} brings its own code; if you trust it, set trust_remote_code=true"
    if "safetensors" in folded and is_local(path):
        return f"{path} has no safetensors weights (pickled weights are refused); save it with safe_serialization"
    if here:
        if "instantiate the backend tokenizer" in folded or "can't load tokenizer" in folded:
            return f"{path} {NO_TOKENIZER}"
        return f"{path} cannot be loaded: {first_line(error, 200)}"
    return explain_missing(path)


def explain_missing(path: str) -> str:
    """Say in one line what to do for a model that is nowhere."""
    return f"{path} is not reachable and not in the cache; {REMEDY}"
