"""The keys of a configuration dataclass with type, default, choices and documentation; `permlab task=spt --help`.

    from permlab.keys import keys_of
    [key.path for key in keys_of(Ordering, "task")]      # ["task.order", "task.p_original", ...]

The documentation is the string below each field, read from the source without running it. Choices are the rows of a
table: a field says which one (`order: str = choice("spt", ORDERS)`), so a new row is a new choice here too.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from permlab import registry

T = TypeVar("T")

CHOICES = "choices"
"""Where a field's metadata keeps what may stand in it."""
FIXED = ("name", "kind")
"""Fields that the option of a group sets: they say which dataclass it is, and are not changed on the command line."""
WORDS = {"str": "text", "int": "integer", "float": "number", "bool": "true or false", "Any": "any value"}


@dataclass(frozen=True)
class Key:
    """One key of the command line.

    Attributes:
        path: as it is written: `task.train.epochs`.
        type: in words.
        default: its value where nobody sets it.
        choices: what may stand there, where only some names may; empty otherwise.
        table: the name in `registry.TABLES` of the table with these choices; empty for none.
        about: the documentation in the source.
    """

    path: str
    type: str
    default: Any
    choices: tuple[str, ...]
    table: str
    about: str


def choice(default: T, names: Collection[str], *more: str) -> T:
    """Return a field of a dataclass whose value is one of `names`, a table or a tuple, or of `more`."""
    metadata = {CHOICES: (names, more)}
    if isinstance(default, list):
        found: T = dataclasses.field(default_factory=lambda: list(default), metadata=metadata)  # type: ignore[assignment]
        return found
    return dataclasses.field(default=default, metadata=metadata)


def keys_of(schema: type, prefix: str, values: Mapping[str, Any] | None = None) -> Iterator[Key]:
    """Yield the keys of a dataclass: its own, those that it inherits, then those of nested dataclasses.

    Args:
        schema: a dataclass whose fields have defaults.
        prefix: stands before the names: "task".
        values: what replaces the defaults, as the YAML of an option has it.
    """
    values, hints = values or {}, typing.get_type_hints(schema)
    nested, inside = [], "." in prefix
    own = inspect.get_annotations(schema)
    for field in sorted(dataclasses.fields(schema), key=lambda field: field.name not in own):
        path, hint = f"{prefix}.{field.name}", hints[field.name]
        if dataclasses.is_dataclass(hint):
            nested.append((hint, path, values.get(field.name)))
        elif inside or field.name not in FIXED:
            names, more = field.metadata.get(CHOICES, ((), ()))
            table = next((name for name in registry.TABLES if names and registry.table(name) is names), "")
            default = values.get(field.name, default_of(field))
            yield Key(path, in_words(hint), default, (*more, *names), table, about(schema, field.name))
    for hint, path, inner in nested:
        yield from keys_of(typing.cast(type, hint), path, inner)


def default_of(field: dataclasses.Field[Any]) -> Any:
    """Return a field's default."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def in_words(hint: Any) -> str:
    """Return a type for people: `list[int] | None` is "list of integer, or null"."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(in_words(each) for each in inner if each is not type(None)) + ", or null"
    if origin is list:
        return f"list of {in_words(inner[0])}"
    if origin is dict:
        return f"mapping to {in_words(inner[1])}"
    name = getattr(hint, "__name__", str(hint))
    return WORDS.get(name, name)


def about(schema: type, name: str) -> str:
    """Return the string below a field, of the class that defines it, as one line; empty where there is none."""
    for owner in schema.__mro__:
        if name in inspect.get_annotations(owner):
            return documented(inspect.getsourcefile(owner) or "").get((owner.__qualname__, name), "")
    return ""


@functools.cache
def documented(file: str) -> dict[tuple[str, str], str]:
    """Return (class, field) -> the string below it, of one source file; nothing is imported."""
    found = {}
    tree = ast.parse(Path(file).read_text(encoding="utf-8")) if Path(file).is_file() else ast.Module([], [])
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        for field, below in zip(node.body, node.body[1:]):
            named = isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
            if named and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                found[node.name, field.target.id] = " ".join(str(below.value.value).split())  # type: ignore[attr-defined]
    return found


def text_of(value: Any) -> str:
    """Return a value as it is written on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(text_of, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {text_of(each)}" for key, each in value.items()) + "}"
    return str(value)
