"""Values of a recipe, tensor by tensor: `value_at([0, 1], "model.layers.3.mlp.up_proj.weight", layers=4)` is 1.

A value is one number, a gradient (numbers at equal distances from the first layer to the last, joined by straight
lines), or a list of `{filter: part of a name, value: ...}`, of which the first that fits counts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from permlab.errors import UserError

LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks)\.(\d+)\.")
"""Where the number of a layer stands in the name of a tensor."""


def layer_of(name: str) -> int | None:
    """Return the number of the layer that a tensor belongs to, or None for embeddings, the last norm and the head."""
    found = LAYER.search(name)
    return int(found.group(1)) if found else None


def check_value(path: Path, key: str, value: Any) -> None:
    """Refuse what is no value.

    Raises:
        UserError: naming the file and the parameter.
    """
    rules = value if isinstance(value, list) and any(isinstance(each, dict) for each in value) else None
    if rules is not None:
        for rule in rules:
            if not isinstance(rule, dict) or "value" not in rule or set(rule) - {"filter", "value"}:
                raise UserError(f"{path}: {key} lists {rule!r}: write {{filter: PART_OF_A_NAME, value: NUMBER}}")
            check_value(path, key, rule["value"])
        return
    numbers = value if isinstance(value, list) else [value]
    if not numbers or not all(isinstance(each, (int, float)) for each in numbers):
        raise UserError(f"{path}: {key}={value!r} is neither a number, nor a list of numbers, nor a list of filters")


def value_at(value: Any, name: str, layers: int) -> Any:
    """Return what a value is for one tensor; None where no filter fits.

    Args:
        value: a number, a gradient, or rules with filters.
        name: of the tensor.
        layers: of the network; tensors outside its layers take the start of a gradient, as mergekit has it.
    """
    if isinstance(value, list) and any(isinstance(each, dict) for each in value):
        fitting = (rule for rule in value if _fits(rule.get("filter"), name))
        rule = next(fitting, None)
        return None if rule is None else value_at(rule["value"], name, layers)
    if not isinstance(value, list):
        return value
    number = layer_of(name)
    return between(value, number / (layers - 1) if number is not None and layers > 1 else 0.0)


def _fits(part: str | None, name: str) -> bool:
    return part is None or part == "*" or part in name


def between(gradient: Sequence[float], position: float) -> float:
    """Return the value of a gradient at a position from 0 to 1."""
    scaled = position * (len(gradient) - 1)
    low = min(int(scaled), len(gradient) - 1)
    high = min(low + 1, len(gradient) - 1)
    return gradient[low] + (scaled - low) * (gradient[high] - gradient[low])
