"""Recipes in mergekit's YAML: `recipe = read_recipe("merge.yml")`, `recipe.combine`, `recipe.models`.

Written from mergekit's documentation. What cannot be done is refused in one line, with what can.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from permlab.errors import UserError, did_you_mean
from permlab.merging.combines import COMBINES
from permlab.merging.numbers import Numbers, check_numbers
from permlab.merging.recipes.values import check_value, value_at
from permlab.merging.setting import DTYPES
from permlab.storage.plain import UnreadableError, read_yaml

METHODS = {
    "linear": "average",
    "slerp": "slerp",
    "nuslerp": "slerp",
    "multislerp": "multi_slerp",
    "task_arithmetic": "task_arithmetic",
    "ties": "ties",
    "dare_linear": "dare",
    "dare_ties": "dare_ties",
    "della": "della",
    "della_linear": "della_linear",
    "breadcrumbs": "breadcrumbs",
    "breadcrumbs_ties": "breadcrumbs_ties",
    "model_stock": "model_stock",
    "passthrough": "passthrough",
}
"""mergekit's `merge_method` -> the name of the same in `COMBINES`; layers that are stacked are not combined at all."""
STACKED = "passthrough"
TOP = {
    "merge_method", "models", "slices", "base_model", "parameters", "dtype", "out_dtype", "tokenizer_source", "name"
}  # fmt: skip
PARAMETERS = {"weight", "density", "lambda", "normalize", "gamma", "epsilon", "t", "int8_mask", "rescale"}
PER_MODEL = {"weight", "density", "gamma", "epsilon"}
DENSITY, GAMMA, EPSILON = 1.0, 0.01, 0.15
"""Where a recipe says nothing."""


@dataclass(frozen=True)
class Slice:
    """Layers `first` to `last` (not included) of one network."""

    model: str
    first: int
    last: int


@dataclass
class Recipe:
    """A merge as it is written down.

    Attributes:
        path: the file.
        method, combine: mergekit's name and ours.
        models: networks in the order of their weights.
        base: what changes are taken from, or the start of slerp.
        parameters: of all networks; `own`: of each.
        dtype: of the merged network, one of `DTYPES`, or None for that of the first network.
        tokenizer: "base", "union", a path, or None.
        slices: of stacked layers.
    """

    path: Path
    method: str
    combine: str
    models: list[str]
    base: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    own: list[dict[str, Any]] = field(default_factory=list)
    dtype: str | None = None
    tokenizer: str | None = None
    slices: list[Slice] = field(default_factory=list)

    @property
    def ancestor(self) -> str | None:
        """The network that changes are taken from, where the method takes any."""
        return self.base if not self.slices and "ancestor" in COMBINES[self.combine].needs else None

    @property
    def tokenizer_wanted(self) -> str | None:
        """What the key tokenizer says in its place: base, union, or the folder of a tokenizer."""
        if self.tokenizer == "base" and self.base not in (None, self.ancestor, self.models[0]):
            return self.base
        return None if self.tokenizer is None else self.tokenizer.removeprefix("model:")

    def value(self, key: str, name: str, layers: int, k: int | None = None, default: Any = None) -> Any:
        """A parameter of one tensor: that of network `k`, else that of all, else the default."""
        own = [self.own[k]] if k is not None else []
        for given in (*own, self.parameters):
            if key in given:
                found = value_at(given[key], name, layers)
                if found is not None:
                    return found
        return default

    def numbers(self, name: str, layers: int) -> Numbers:
        """What one tensor is merged with.

        Raises:
            UserError: a number out of range, or a weight that is missing.
        """
        try:
            return self._numbers(name, layers)
        except UserError as error:
            raise UserError(f"{self.path}: {name}: {error}") from None

    def _numbers(self, name: str, layers: int) -> Numbers:
        count = range(len(self.models))
        if self.method == "slerp":
            t = float(self.value("t", name, layers, default=0.5))
            if not 0 <= t <= 1:
                raise UserError(f"t={t:g} must lie between 0 and 1")
            weights: tuple[float, ...] = (1 - t, t)
        elif self.method == "model_stock":
            weights = ()
        else:
            given = [self.value("weight", name, layers, k) for k in count]
            missing = [self.models[k] for k in count if given[k] is None]
            if missing and self.combine in ("average", "slerp"):
                raise UserError(f"{missing[0]} has no weight: add parameters: {{weight: 1.0}}")
            weights = tuple(1.0 if weight is None else float(weight) for weight in given)
        if any(weight < 0 for weight in weights):
            raise UserError(f"weights {list(weights)}: permlab merges with weights of 0 and more")
        normalize = self.value("normalize", name, layers)

        def each(key: str, default: float) -> tuple[float, ...]:
            return tuple(float(self.value(key, name, layers, k, default)) for k in count)

        found = Numbers(
            weights,
            each("density", DENSITY),
            each("gamma", GAMMA),
            each("epsilon", EPSILON),
            float(self.value("lambda", name, layers, default=1.0)),
            None if normalize is None else bool(normalize),
        )
        check_numbers(found)
        return found


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe.

    Raises:
        UserError: no such file, no recipe, or something that permlab does not do.
    """
    place = Path(path).expanduser()
    try:
        given = read_yaml(place)
    except FileNotFoundError:
        raise UserError(f"{place} does not exist: give a YAML file in mergekit's format") from None
    except UnreadableError as error:
        raise UserError(f"{place} is no recipe: {error}") from None
    if not isinstance(given, dict) or "merge_method" not in given:
        raise UserError(f"{place} is no recipe: it names no merge_method")
    _known(place, "", given, TOP)
    method = str(given["merge_method"])
    if method not in METHODS:
        raise UserError(
            f"{place}: merge_method {method} is not done here{did_you_mean(method, METHODS)} "
            f"(known: {', '.join(METHODS)})"
        )
    parameters = _parameters(place, "parameters", given.get("parameters"))
    base = given.get("base_model")
    recipe = Recipe(
        place, method, METHODS[method], [], None if base is None else _path(place, base), parameters,
        dtype=_dtype(place, given.get("out_dtype") or given.get("dtype")),
        tokenizer=None if given.get("tokenizer_source") is None else str(given["tokenizer_source"]),
    )  # fmt: skip
    entries = _entries(place, given, recipe)
    if entries is not None:
        _networks(recipe, entries)
        _fits(recipe)
    return recipe


def _entries(place: Path, given: Mapping[str, Any], recipe: Recipe) -> list[dict[str, Any]] | None:
    """The networks with their parameters, or None where layers are stacked, which goes into `recipe.slices`."""
    models, slices = given.get("models"), given.get("slices")
    if (models is None) == (slices is None):
        raise UserError(f"{place}: give either models or slices")
    if slices is None:
        if recipe.method == STACKED:
            raise UserError(f"{place}: merge_method {STACKED} stacks slices: give slices, each with one source")
        return _objects(place, "models", models)
    stacked = _objects(place, "slices", slices)
    for each in stacked:
        _known(place, "slices: ", each, {"sources", "parameters"})
    sources = [_objects(place, "sources", each.get("sources")) for each in stacked]
    if recipe.method == STACKED:
        recipe.slices = [_slice(place, each) for each in sources]
        recipe.models = list(dict.fromkeys(each.model for each in recipe.slices))
        if recipe.parameters or any("parameters" in each for each in stacked):
            raise UserError(f"{place}: stacked layers have no parameters here: drop them")
        return None
    if len(sources) != 1:
        raise UserError(
            f"{place}: {len(sources)} slices that are merged one by one are not done here: give models, "
            f"or merge_method {STACKED} for plain stacking"
        )
    if len({tuple(each.get("layer_range") or ()) for each in sources[0]}) > 1:
        raise UserError(f"{place}: the sources of a slice have different layers, which do not correspond: give models")
    recipe.parameters |= _parameters(place, "slices: parameters", stacked[0].get("parameters"))
    return sources[0]


def _networks(recipe: Recipe, entries: list[dict[str, Any]]) -> None:
    for entry in entries:
        _known(recipe.path, "models: ", entry, {"model", "parameters", "layer_range"})
        model = _path(recipe.path, entry.get("model"))
        own = _parameters(recipe.path, f"{model}: parameters", entry.get("parameters"))
        if model == recipe.base and "ancestor" in COMBINES[recipe.combine].needs:
            continue  # its change since itself is nothing
        odd = sorted(set(own) - PER_MODEL)
        if odd:
            raise UserError(f"{recipe.path}: {odd[0]} is a parameter of the whole merge: put it there, not to {model}")
        recipe.models.append(model)
        recipe.own.append(own)


def _fits(recipe: Recipe) -> None:
    """Refuse networks that the method has no use for."""
    row, count = COMBINES[recipe.combine], len(recipe.models)
    if "ancestor" in row.needs and recipe.base is None:
        raise UserError(f"{recipe.path}: merge_method {recipe.method} adds up changes: give base_model")
    if recipe.base is not None and recipe.method in ("nuslerp", "multislerp"):
        raise UserError(f"{recipe.path}: merge_method {recipe.method} with base_model is not done here: drop it")
    if row.pairs_only and count != 2:
        raise UserError(f"{recipe.path}: merge_method {recipe.method} joins two networks, not {count}")
    if count < (1 if "ancestor" in row.needs else 2):
        raise UserError(f"{recipe.path}: {count} networks: merging needs two or more")
    if recipe.method == "slerp":
        if recipe.base is None or recipe.base not in recipe.models:
            raise UserError(f"{recipe.path}: slerp starts at base_model, which is one of the two models")
        if recipe.models[0] != recipe.base:  # t is the way from the base to the other
            recipe.models.reverse()
            recipe.own.reverse()


def _slice(place: Path, sources: list[dict[str, Any]]) -> Slice:
    if len(sources) != 1:
        raise UserError(f"{place}: a slice that is stacked has one source, not {len(sources)}")
    _known(place, "sources: ", sources[0], {"model", "layer_range"})
    layers = sources[0].get("layer_range")
    match layers:
        case [int(first), int(last)] if 0 <= first < last:
            return Slice(_path(place, sources[0].get("model")), first, last)
    raise UserError(f"{place}: layer_range={layers!r}: write [FIRST, LAST], the last not included")


def _parameters(place: Path, where: str, given: Any) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise UserError(f"{place}: {where} is no list of KEY: VALUE")
    _known(place, f"{where}: ", given, PARAMETERS)
    for key, value in given.items():
        check_value(place, key, value)
    if given.get("rescale") is False:
        raise UserError(f"{place}: rescale: false is not done here: what is kept is always scaled up; drop it")
    # The type of a mask while it is computed changes no result.
    return {key: value for key, value in given.items() if key not in ("int8_mask", "rescale")}


def _known(place: Path, where: str, given: Mapping[str, Any], keys: set[str]) -> None:
    for key in given:
        if key not in keys:
            raise UserError(
                f"{place}: {where}{key} is not read here{did_you_mean(str(key), sorted(keys))} "
                f"(known: {', '.join(sorted(keys))})"
            )


def _objects(place: Path, key: str, given: Any) -> list[dict[str, Any]]:
    if not isinstance(given, list) or not given or not all(isinstance(each, dict) for each in given):
        raise UserError(f"{place}: {key} is no list of entries: see mergekit's examples")
    return given


def _path(place: Path, given: Any) -> str:
    if not isinstance(given, str) or not given:
        raise UserError(f"{place}: model={given!r} is no path and no hub id")
    if "+" in Path(given).name and not Path(given).exists():
        raise UserError(f"{place}: {given} adds an adapter to a model: merge it in first, or use task=lora_lego")
    return given


def _dtype(place: Path, given: Any) -> str | None:
    if given is None:
        return None
    if str(given) not in DTYPES:
        raise UserError(f"{place}: dtype {given} is not written here (known: {', '.join(DTYPES)})")
    return str(given)
