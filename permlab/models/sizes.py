"""Sizes that a configuration of somebody else states, held against what its weight files hold.

check_config(json.loads(text), Path("config.json"))          # "num_labels": 1e9 is refused before a list is made of it
check_sizes(config, Path("config.json"), tensors)            # and 10 million layers before the first one is built

Every layer has tensors of its own and every width is the length of some axis, so that a true configuration never says
more than the headers of its weights do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from permlab.errors import UserError
from permlab.storage.tensors import TensorInfo

LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers", "depth")
"""Keys that count blocks."""
WIDTHS = (
    "hidden_size", "n_embd", "intermediate_size", "n_inner", "vocab_size", "num_attention_heads", "n_head",
    "num_key_value_heads", "head_dim", "type_vocab_size", "classes",
)  # fmt: skip
"""Keys that are lengths of axes, or divide them."""
MOST = {"num_labels": 10**6, "image_size": 2**12, "patch_size": 2**12, "num_channels": 2**10}
"""Largest values of keys that lists and pictures are made of."""
TEXTS, LARGEST_TEXT = (".json", ".txt", ".model", ".jinja"), 2**28
"""Configurations and tokenizers, and the most bytes of one; the largest have 40 million."""
MOST_LAYERS, LARGEST = 10_000, 2**25
"""Without weights to hold them against: blocks, and any other size; the longest context that is sold is 10 million."""


def check_files(folder: Path) -> None:
    """Refuse pipes, devices and gigabytes among the texts of a model folder, which transformers reads whole.

    Raises:
        UserError: naming the file.
    """
    for path in sorted(folder.iterdir()):
        if path.suffix in TEXTS:
            if not path.is_file():
                raise UserError(f"{path} is no regular file: get it again")
            size = path.stat().st_size
            if size > LARGEST_TEXT:
                raise UserError(f"{path} has {size:,} bytes; more than {LARGEST_TEXT:,} are not read: get it again")


def check_config(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the object of a config.json; a size is refused that no network has.

    Args:
        config: as it was read.
        path: names it in the message.

    Raises:
        UserError: a size that is none, or architectures that are no list of names.
    """
    named = config.get("architectures")
    if named is not None and not (isinstance(named, list) and all(isinstance(each, str) for each in named)):
        raise UserError(f'{path}: architectures must be a list of names, such as ["LlamaForCausalLM"]')
    for key, value in _sizes(config):
        most = MOST.get(key, MOST_LAYERS if key in LAYERS else LARGEST)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
            raise UserError(f"{path}: {key} is {_shown(value)}, it must be a number from 0 to {most:,}")
    return config


def check_sizes(config: Mapping[str, Any], path: Path, tensors: Mapping[str, TensorInfo]) -> None:
    """Refuse more layers than there are tensors, and widths that no axis has.

    Args:
        config: config.json, or merge.json with numbers in the places that were checked.
        path: names it in the message.
        tensors: headers of the weights.

    Raises:
        UserError: naming the key.
    """
    longest = max((length for info in tensors.values() for length in info.shape), default=0)
    for key, value in _sizes(config):
        if key in LAYERS and value > len(tensors):
            raise UserError(f"{path}: {key} is {value:,}, its weights are {len(tensors):,} tensors: get both again")
        if key in WIDTHS and value > longest:
            raise UserError(
                f"{path}: {key} is {value:,}, no axis of its weights is longer than {longest:,}: get both again"
            )


def _sizes(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield (key, value); some networks give a size for every layer or side."""
    for key in (*LAYERS, *WIDTHS, *MOST, "max_position_embeddings", "n_positions"):
        value = config.get(key)
        if value is not None:
            yield from ((key, each) for each in (value if isinstance(value, list) else [value]))


def _shown(value: Any) -> str:
    # Python refuses to print an integer of thousands of digits.
    return "too large" if isinstance(value, int) and value.bit_length() > 128 else ascii(value)[:40]
