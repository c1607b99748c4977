"""`permlab show experiment=spt/people seed=3`: the composed configuration, with what the command line changed.

A tree with colours on a terminal; through a pipe it is YAML, whose comments say what the values were.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from permlab.compose import activate_plugins, compose_one, parse, search_path
from permlab.errors import UserError
from permlab.keys import text_of
from permlab.runs.sweep_values import first_values

FIRST = ("task", "experiment", "plugins")
"""What the command line may choose before anything counts as changed."""
LEFT_OUT = ("hydra", "report", "plugins", "experiment.reproduce")
"""What is about other runs, or about no run."""


@dataclass(frozen=True)
class Line:
    """One key of the tree: `value` is None for one that has keys below it, `was` where the command line changed it."""

    depth: int
    key: str
    value: str | None = None
    was: str | None = None


def tree(overrides: list[str], config_dir: str | None = None) -> list[Line]:
    """Return the composed configuration; where several values are given for a key, with the first of them.

    Raises:
        UserError: for whatever cannot be composed.
    """
    for text in overrides:
        if "=" not in text and text[0] not in "~+":
            raise UserError(f"show: '{text}' is not KEY=VALUE; usage: permlab show experiment=NAME [KEY=VALUE ...]")
    parsed = parse(overrides)
    activate_plugins(parsed)
    search = search_path(config_dir)
    chosen = first_values(parsed)
    usual = [text for text, each in zip(chosen, parsed) if each.key_or_group in FIRST]
    shown = composed([*chosen, *search])
    before = shown if usual == chosen else composed([*usual, *search])
    return list(walked(shown, before))


def composed(overrides: list[str]) -> dict[str, Any]:
    """Compose a configuration to plain values, interpolations as they are written."""
    from omegaconf import OmegaConf

    found: Any = OmegaConf.to_container(compose_one(overrides))
    return {str(key): value for key, value in found.items()}


def walked(values: Mapping[str, Any], before: Any, prefix: str = "", depth: int = 0) -> Iterator[Line]:
    """Yield the lines of nested values; `before` has what they were."""
    for key, value in values.items():
        path = f"{prefix}{key}"
        if path in LEFT_OUT:
            continue
        known = isinstance(before, Mapping) and key in before
        was = before[key] if known else None
        if isinstance(value, Mapping) and value:
            yield Line(depth, str(key))
            yield from walked(value, was, f"{path}.", depth + 1)
        else:
            changed = not known or was != value
            yield Line(depth, str(key), as_yaml(value), (as_yaml(was) if known else "not there") if changed else None)


def as_yaml(value: Any) -> str:
    """Return a value on one line of YAML; a mapping that is changed as a whole on the command line's way of writing."""
    import yaml

    if isinstance(value, dict) and value:
        return text_of(value)
    return (
        str(yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True))
        .removesuffix("...\n")
        .strip()
    )


def printed(title: str, lines: list[Line]) -> None:
    """Print the lines as a tree on a terminal, else as YAML."""
    from permlab.runs.console import console

    if not console().is_terminal:
        console().print(f"# {title}", markup=False)
        for line in lines:
            value = "" if line.value is None else f" {line.value}"
            comment = "" if line.was is None else f"  # was {line.was}"
            console().print(f"{'  ' * line.depth}{line.key}:{value}{comment}", markup=False)
        return
    from rich.text import Text
    from rich.tree import Tree

    branches = [Tree(Text(title, style="bold"), guide_style="dim")]
    for line in lines:
        label = Text(line.key if line.value is None else f"{line.key}: {line.value}")
        if line.was is not None:
            label.stylize("yellow")
            label.append(f"  (was {line.was})", style="dim")
        del branches[line.depth + 1 :]
        branches.append(branches[-1].add(label))
    console().print(branches[0], soft_wrap=False)
