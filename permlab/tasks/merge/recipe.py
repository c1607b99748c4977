"""Merges written down in mergekit's YAML: `permlab task=merge task.recipe=merge.yml`."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from permlab.config import Config
from permlab.errors import UserError
from permlab.merging.combines import COMBINES
from permlab.merging.networks.vocabularies import Wanted
from permlab.merging.recipes.reading import Recipe, read_recipe
from permlab.merging.setting import MergeOptions
from permlab.tasks.merge.settings import MergeConfig

if TYPE_CHECKING:
    from permlab.runs.run import Run

ELSEWHERE = ("weights", "density", "densities", "scale", "gamma", "epsilon", "normalize", "trim_tensors", "dtype")
"""Keys of `task` that a recipe takes the place of, beside the networks."""


def with_recipe(config: Config[MergeConfig]) -> Config[MergeConfig]:
    """The configuration with the networks of its recipe in place; itself where there is none, or it is there already.

    Raises:
        UserError: a recipe that cannot be read, or keys that say the same as it.
    """
    task = config.task
    if task.recipe is None or task.models:
        return config
    recipe, usual = read_recipe(task.recipe), MergeConfig()
    for key in ("ancestor", "combine", *ELSEWHERE):
        if getattr(task, key) != getattr(usual, key):
            raise UserError(f"task.{key} and task.recipe say the same thing: drop one of them")
    # Networks of a recipe were not trained apart: their units stay where they are.
    combine = "average" if recipe.slices else recipe.combine
    changed: dict[str, Any] = {
        "models": recipe.models,
        "ancestor": recipe.ancestor,
        "match": "identity",
        "combine": combine,
    }
    changed["dtype"] = recipe.dtype
    if recipe.tokenizer is not None and task.tokenizer is None:
        changed["tokenizer"] = recipe.tokenizer_wanted
    return dataclasses.replace(config, task=dataclasses.replace(task, **changed))


def check_recipe_keys(config: Config[MergeConfig]) -> None:
    """Refuse a recipe beside networks of the command line.

    Raises:
        UserError: naming the keys.
    """
    if config.task.recipe is not None and config.task.models:
        raise UserError("task.models and task.recipe say the same thing: drop one of them")


def recipe_of(config: Config[MergeConfig]) -> Recipe | None:
    """The recipe, read again."""
    return None if config.task.recipe is None else read_recipe(config.task.recipe)


def stacks(config: Config[MergeConfig]) -> bool:
    """Whether layers are stacked, which one network alone is enough for."""
    recipe = recipe_of(config)
    return recipe is not None and bool(recipe.slices)


def numbers_given(config: Config[MergeConfig], network: Any) -> dict[str, Any]:
    """What a recipe puts into a `Setting`: the numbers of every tensor."""
    recipe = recipe_of(config)
    if recipe is None:
        return {}
    layers = next(getattr(network, key) for key in ("num_hidden_layers", "n_layer") if hasattr(network, key))
    # mergekit trims every tensor on its own.
    return {"numbers": partial(recipe.numbers, layers=int(layers)), "trim_tensors": True}


def wanted(config: Config[MergeConfig], scratch: Path) -> Wanted | None:
    """The vocabulary that networks are brought to, and the folder for their mapped embeddings."""
    task, recipe = config.task, recipe_of(config)
    if task.tokenizer is None:
        return None
    weights = task.weights if recipe is None else recipe.numbers("embed_tokens.weight", layers=1).weights
    return Wanted(task.tokenizer, scratch, weights)


def recorded(config: Config[MergeConfig], scale: float | None = None) -> dict[str, Any]:
    """What merge.json says of how the networks were merged, beside the arm and the weights; `scale`: as applied."""
    task = config.task
    if task.recipe is not None:
        return {"recipe": read_recipe(task.recipe).path.read_text(encoding="utf-8")}
    ancestral = "ancestor" in COMBINES[task.combine].needs
    keys = ("densities", "scale", "gamma", "epsilon", "normalize", "trim_tensors") if ancestral else ()
    usual, applied = MergeOptions(), dataclasses.replace(task, scale=task.scale if scale is None else scale)
    return {key: getattr(applied, key) for key in keys if getattr(applied, key) != getattr(usual, key)}


def run_stack(config: Config[MergeConfig], run: Run) -> bool:
    """Write a stack of layers where the recipe is one; whether it was."""
    recipe = recipe_of(config)
    if recipe is None or not recipe.slices:
        return False
    from permlab.merging.networks.saving import save_network
    from permlab.merging.recipes.stacking import stack

    state, loaded, changes = stack(recipe)
    record = {"method": "stacked layers", "weights": [], **recorded(config)}
    folder = save_network(run.artifact("model"), state, loaded, record, config=changes)
    layers = next(iter(changes.values()))
    run.say(f"{layers} layers of {len(loaded.names)} networks, stacked: {folder}")
    run.summary(networks=len(loaded.names), layers=layers)
    return True
