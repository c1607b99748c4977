"""Recipes in mergekit's YAML: the numbers that mergekit gives, those of our own keys, and one line for the rest."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import yaml
from recipes_made import MERGEKIT, RECIPES, projection, save, state

from permlab import registry
from permlab.errors import UserError
from permlab.merging.methods.changes import combine_changes
from permlab.merging.recipes.reading import read_recipe
from permlab.merging.recipes.stacking import stack
from permlab.merging.setting import Setting
from permlab.merging.streaming import Pieces, Streamed
from permlab.merging.table import COMBINES
from permlab.symmetry import Spec


def written(recipe, folder):
    path = folder / "recipe.yml"
    path.write_text(yaml.safe_dump(copy.deepcopy(recipe), sort_keys=False).replace("&id", "#"))
    return path


def merged(recipe, entries=None):
    """What a recipe gives, piece by piece."""
    states = [state(name) for name in recipe.models]
    base = state(recipe.ancestor) if recipe.ancestor else None
    setting = Setting(ancestor=base, numbers=lambda name: recipe.numbers(name, 3), trim_tensors=True)
    read = Pieces(Spec(groups={}), states, [{} for _ in states], base, entries)
    return dict(Streamed(read, registry.load(COMBINES[recipe.combine].stream)(read, setting)))


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "stacked layers"])
def test_a_recipe_gives_what_mergekit_gives(name, tmp_path):
    recipe = read_recipe(written(json.loads(json.dumps(RECIPES[name])), tmp_path))
    assert projection(merged(recipe)) == pytest.approx(MERGEKIT[name], abs=3e-4)
    # Pieces of a few rows are no other merge.
    assert projection(merged(recipe, entries=100)) == pytest.approx(MERGEKIT[name], abs=3e-4)


def test_stacked_layers_are_those_of_mergekit(tmp_path, monkeypatch):
    save(tmp_path)
    monkeypatch.chdir(tmp_path)
    stacked, loaded, changes = stack(read_recipe(written(RECIPES["stacked layers"], tmp_path)))
    assert changes == {"num_hidden_layers": 4} and loaded.names == ["a", "b"]
    assert projection(dict(stacked)) == pytest.approx(MERGEKIT["stacked layers"], abs=3e-4)
    assert torch.equal(stacked["model.layers.3.mlp.up_proj.weight"], state("b")["model.layers.2.mlp.up_proj.weight"])
    short = {**RECIPES["stacked layers"], "slices": [{"sources": [{"model": "a", "layer_range": [0, 4]}]}]}
    with pytest.raises(UserError, match=r"layer_range \[0, 4\] of a, which has 3"):
        stack(read_recipe(written(short, tmp_path)))


@pytest.mark.parametrize(
    ("name", "combine", "keys"),
    [
        ("TIES", "ties", {"weights": [1.0, 0.5, 0.25], "densities": [0.5, 0.25, 0.75], "scale": 0.8,
                          "trim_tensors": True}),
        ("DARE TIES, density 1", "dare_ties", {"weights": [1.0, 0.5, 0.25], "density": 1.0}),
        ("Breadcrumbs", "breadcrumbs", {"weights": [1.0, 0.5, 0.25], "density": 0.75, "gamma": 0.1}),
    ],
)  # fmt: skip
def test_a_recipe_is_the_same_merge_in_our_keys(name, combine, keys, tmp_path):
    wanted = merged(read_recipe(written(json.loads(json.dumps(RECIPES[name])), tmp_path)))
    found = combine_changes(combine, state("base"), [state(n) for n in "abc"], Setting(**keys))
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


REFUSED = {
    "no recipe": ({"models": []}, "names no merge_method"),
    "method": ({"merge_method": "karcher", "models": []}, "merge_method karcher is not done here"),
    "key": ({"merge_method": "linear", "modules": {}}, "modules is not read here.*did you mean 'models'"),
    "parameter": ({"merge_method": "linear", "models": [{"model": "a", "parameters": {"wieght": 1}}]},
                  "wieght is not read here"),
    "value": ({"merge_method": "linear", "models": [{"model": "a", "parameters": {"weight": "much"}}]},
              "weight='much' is neither a number"),
    "filter": ({"merge_method": "linear", "models": [], "parameters": {"t": [{"filter": "mlp"}]}}, "write {filter"),
    "no base": ({"merge_method": "ties", "models": [{"model": "a"}, {"model": "b"}]}, "give base_model"),
    "start": ({"merge_method": "slerp", "models": [{"model": "a"}, {"model": "b"}]}, "slerp starts at base_model"),
    "adapter": ({"merge_method": "linear", "models": [{"model": "a+lora"}, {"model": "b"}]}, "adds an adapter"),
    "one": ({"merge_method": "linear", "models": [{"model": "a"}]}, "merging needs two or more"),
    "slices": ({"merge_method": "linear", "slices": [{"sources": [{"model": "a"}]}, {"sources": [{"model": "b"}]}]},
               "2 slices that are merged one by one"),
    "stack": ({"merge_method": "passthrough", "models": [{"model": "a"}]}, "give slices"),
    "range": ({"merge_method": "passthrough", "slices": [{"sources": [{"model": "a", "layer_range": [2, 1]}]}]},
              r"layer_range=\[2, 1\]"),
    "dtype": ({"merge_method": "linear", "dtype": "int4", "models": []}, "dtype int4 is not written here"),
    "nothing": ({"merge_method": "linear"}, "give either models or slices"),
    "rescale": ({"merge_method": "dare_ties", "base_model": "a", "models": [], "parameters": {"rescale": False}},
                "rescale: false is not done here"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_recipe_or_not_done_is_one_line(case, tmp_path):
    recipe, line = REFUSED[case]
    with pytest.raises(UserError, match=line) as found:
        read_recipe(written(recipe, tmp_path))
    assert str(found.value).startswith(str(tmp_path)) and "\n" not in str(found.value)


def test_numbers_out_of_range_name_the_tensor(tmp_path):
    recipe = read_recipe(written({**RECIPES["SLERP"], "parameters": {"t": [0, 3]}}, tmp_path))
    assert recipe.numbers("model.layers.0.mlp.up_proj.weight", 3).weights == (1, 0)
    with pytest.raises(UserError, match=r"layers\.2\.mlp\.up_proj\.weight: t=3 must lie between 0 and 1"):
        recipe.numbers("model.layers.2.mlp.up_proj.weight", 3)
