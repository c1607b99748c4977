"""Layers of networks stacked into a deeper or shallower one: `stack(recipe)`, what mergekit calls passthrough.

Embeddings come from the network of the first slice, the last norm and the head from that of the last one.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from permlab.errors import UserError
from permlab.merging.networks.loaded import Loaded, read_tensors
from permlab.merging.recipes.reading import Recipe
from permlab.merging.recipes.values import LAYER, layer_of
from permlab.merging.streaming import Pieces, Streamed, dtype_of
from permlab.models.checkpoints import Checkpoint, open_checkpoint
from permlab.symmetry import Spec

COUNTS = ("num_hidden_layers", "n_layer")
"""Where a configuration says how many layers there are."""
LISTS = ("layer_types",)
"""Lists of a configuration with one entry per layer."""


def stack(recipe: Recipe) -> tuple[Streamed, Loaded, dict[str, Any]]:
    """Return (the stack, read as it is written; where it comes from; keys of config.json that change).

    Raises:
        UserError: networks that differ in more than their number of layers, or layers that are not there.
    """
    opened = {path: open_checkpoint(path) for path in recipe.models}
    first = opened[recipe.slices[0].model]
    key = next((each for each in COUNTS if each in first.config), None)
    if key is None:
        raise UserError(f"{first.path}: config.json does not say how many layers there are")
    for each in opened.values():
        _check(first, each, key)
    for part in recipe.slices:
        have = int(opened[part.model].config[key])
        if part.last > have:
            raise UserError(f"{recipe.path}: layer_range [{part.first}, {part.last}] of {part.model}, which has {have}")
    stored = {path: read_tensors(each) for path, each in opened.items()}
    order = [(part.model, number) for part in recipe.slices for number in range(part.first, part.last)]
    places: dict[tuple[str, int], list[int]] = {}
    for at, layer in enumerate(order):
        places.setdefault(layer, []).append(at)
    state: dict[str, Tensor] = {}
    for path, tensors in stored.items():
        for name, value in tensors.items():
            number = layer_of(name)
            if number is None:
                begins = _begins(name)
                if path == (recipe.slices[0] if begins else recipe.slices[-1]).model:
                    state[name] = value
            else:
                for at in places.get((path, number), ()):
                    state[_renumbered(name, at)] = value
    changes: dict[str, Any] = {key: len(order)}
    for name in LISTS:
        if first.config.get(name):
            changes[name] = [opened[path].config[name][number] for path, number in order]
    spec = Spec(source="stacked layers")
    loaded = Loaded("causal_lm", list(recipe.models), list(opened.values()), [state], spec, None, None)
    read = Pieces(spec, [state], [{}])
    return Streamed(read, lambda piece: piece.rows[0], dtype_of(recipe.dtype)), loaded, changes


def _begins(name: str) -> bool:
    return any(part in name for part in ("embed", "wte", "wpe"))


def _renumbered(name: str, number: int) -> str:
    found = LAYER.search(name)
    assert found is not None
    return f"{name[: found.start(1)]}{number}{name[found.end(1) :]}"


def _check(first: Checkpoint, other: Checkpoint, key: str) -> None:
    for name in ("model_type", "hidden_size", "n_embd", "vocab_size", "num_attention_heads", "intermediate_size"):
        if first.config.get(name) != other.config.get(name):
            raise UserError(
                f"{first.name} and {other.name} cannot be stacked: {name} is {first.config.get(name)} | "
                f"{other.config.get(name)}"
            )
    if key not in other.config:
        raise UserError(f"{other.path}: config.json does not say how many layers there are")
