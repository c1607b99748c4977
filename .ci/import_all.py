"""Compile all sources and import all modules of permlab under a bare Python: `python3.10 .ci/import_all.py`.

CI has one Python with the dependencies; other versions get stand-ins for what they lack. This shows syntax, standard
library and decorators that a version does not know. What the code does there, it cannot show.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


class Anything(type):
    """A class that has every attribute and can be called, subscripted and joined; a decorator returns its function."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything(name, (), {})

    def __call__(cls, *arguments: Any, **_: Any) -> Any:
        return arguments[0] if len(arguments) == 1 and isinstance(arguments[0], (FunctionType, type)) else cls

    def __getitem__(cls, _: Any) -> Any:
        return cls

    def __or__(cls, _: Any) -> Any:
        return cls

    __ror__ = __or__

    def __iter__(cls) -> Iterator[Any]:
        return iter((cls, cls, []))  # lazy_loader.attach_stub returns three


class StandIn(ModuleType):
    """A module of a package that is not installed."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything(name, (), {})


class Absent(MetaPathFinder, Loader):
    """Finds what nobody else finds, except modules of ours."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        # The standard library asks for modules of other systems, `_winapi` say, and must find them missing.
        if name.partition(".")[0] in ("permlab", *sys.stdlib_module_names):
            return None
        return ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def main() -> None:
    """Compile, import, and say how many."""
    sys.dont_write_bytecode = True
    sources = [path for folder in ("permlab", "tests", "scripts") for path in sorted((ROOT / folder).rglob("*.py"))]
    for path in sources:
        compile(path.read_text(encoding="utf-8"), str(path), "exec")
    sys.path.insert(0, str(ROOT))
    sys.meta_path.append(Absent())
    modules = [path.relative_to(ROOT).with_suffix("") for path in sources if path.is_relative_to(ROOT / "permlab")]
    modules = [path.parent if path.stem == "__init__" else path for path in modules if path.stem != "__main__"]
    for path in modules:
        importlib.import_module(".".join(path.parts))
    print(f"python {sys.version.split()[0]}: {len(sources)} files compile, {len(modules)} modules import")


if __name__ == "__main__":
    main()
