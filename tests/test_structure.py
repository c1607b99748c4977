"""The house stands: rooms on floors, imports that go down only, thin tasks, tables that load nothing heavy.

The picture is in CONTRIBUTING.md. An import counts wherever it stands, in a function as well as at the top of a file;
those for the type checker alone do not. `module:name` strings in tables are data: the registry loads them.
"""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "permlab"

FLOORS = (
    ("__main__",),
    ("cli",),
    ("tasks", "verbs"),
    ("reports", "compose"),
    ("runs",),
    ("config", "footprint"),
    ("division",),
    ("hardware", "experiment", "debug", "listing", "points", "user_options", "tracking"),
    ("merging",),
    ("matching", "text", "probes", "ntk", "adapters", "state_tracking"),
    ("symmetry", "pretraining"),
    ("models", "data"),
    ("storage", "figures", "shipped", "rules", "keys"),
    ("ranks", "processes"),
    ("registry", "tables", "seeding", "threads", "diverged", "selection"),
    ("errors", "version"),
)
"""From the roof to the ground: a room imports from itself and from floors below its own."""

LIBRARY = {room for rooms in FLOORS[FLOORS.index(("merging",)) :] for room in rooms}
APPLICATION = {"hydra", "omegaconf", "wandb", "rich"}
"""Packages of the command line; the library works without them."""

HEAVY = ("torch", "numpy", "scipy", "sklearn", "transformers", "tokenizers", "datasets", "peft", "matplotlib", "hydra")
"""What a `table.py` and a lazy package never load."""

LONGEST_FILE = 330
TASKS_SHARE = 0.15


def floor(room: str) -> int:
    return next(len(FLOORS) - number for number, rooms in enumerate(FLOORS) if room in rooms)


def name_of(path: Path) -> str:
    """permlab/text/units.py -> permlab.text.units; permlab/text/__init__.pyi -> permlab.text."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = sorted(PACKAGE.rglob("*.py"))
MODULES = {name_of(path): path for path in SOURCES}


@functools.cache
def exports(package: str) -> dict[str, str]:
    """Return name -> module that defines it, of a lazy package; empty for any other module."""
    stub = MODULES[package].with_suffix(".pyi") if package in MODULES else None
    if stub is None or not stub.is_file():
        return {}
    lines = [node for node in ast.parse(stub.read_text()).body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name: f"{package}.{node.module}" for node in lines for alias in node.names}


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Walk the statements of a tree without what stands under `if TYPE_CHECKING:`."""
    rest = [tree]
    while rest:
        node = rest.pop()
        yield node
        if isinstance(node, ast.If) and any(_named(each) == "TYPE_CHECKING" for each in ast.walk(node.test)):
            rest += node.orelse
        else:  # no import stands in an expression
            rest += [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr)]


def _named(node: ast.AST) -> str:
    return str(getattr(node, "id", getattr(node, "attr", "")))


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Yield (module, line) of what a file imports; names of a package as the module that defines them."""
    package = name_of(path) if path.stem == "__init__" else name_of(path).rpartition(".")[0]
    for node in nodes(parsed(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base]).rstrip(".")
            for alias in node.names:
                inside = f"{base}.{alias.name}"
                yield inside if inside in MODULES else exports(base).get(alias.name, base), node.lineno


@functools.cache
def arrows() -> dict[str, list[tuple[str, str]]]:
    """Return module -> (module of ours that it imports, file:line); a stub's imports count as its package's."""
    found = defaultdict(list)
    for path in [*SOURCES, *PACKAGE.rglob("*.pyi")]:
        for target, line in imported(path):
            if target in MODULES and target != name_of(path):
                found[name_of(path)].append((target, f"{path.relative_to(ROOT)}:{line}"))
    return dict(found)


def room(module: str) -> str:
    """permlab.text.units -> text; the package itself -> version, which is all it imports."""
    return module.split(".")[1] if "." in module else "version"


def circles() -> list[list[str]]:
    """Return the strongly connected groups of more than one module (Tarjan 1972)."""
    graph = {module: {target for target, _ in arrows().get(module, [])} for module in MODULES}
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for target in graph[module]:
            if target not in index:
                visit(target)
                low[module] = min(low[module], low[target])
            elif target in stack:
                low[module] = min(low[module], index[target])
        if low[module] == index[module]:
            group = stack[stack.index(module) :]
            del stack[-len(group) :]
            if len(group) > 1:
                groups.append(sorted(group))

    for module in MODULES:
        if module not in index:
            visit(module)
    return groups


def test_contributing_shows_the_same_house():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    drawn = [line[12:] for line in text.split("```")[3].splitlines() if line.strip()]
    rooms = [tuple(re.split(r"\s{3,}", line)[0].split()) for line in drawn]
    line = next(number for number, row in enumerate(drawn) if "below this line" in row)
    assert [*rooms[:line], *rooms[line + 1 :]] == list(FLOORS)
    assert rooms[line + 1] == FLOORS[line] == ("merging",)


def test_every_room_has_its_floor():
    rooms = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    rooms |= {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == {name for floor_rooms in FLOORS for name in floor_rooms}


def test_no_circle_of_imports():
    assert circles() == []


def test_no_arrow_goes_upwards_or_sideways():
    wrong = [
        f"{where}: {room(source)} imports {target}"
        for source, targets in arrows().items()
        for target, where in targets
        if room(source) != room(target) and floor(room(source)) <= floor(room(target))
    ]
    assert wrong == []


def test_the_library_knows_nothing_of_the_application():
    wrong = []
    for path in SOURCES:
        if room(name_of(path)) in LIBRARY:
            for node in ast.walk(parsed(path)):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                wrong += [f"{path.relative_to(ROOT)}: {n}" for n in names if n.partition(".")[0] in APPLICATION]
    assert wrong == []


def test_tasks_are_thin():
    lines = {path: path.read_text().count("\n") for path in SOURCES}
    tasks = sum(count for path, count in lines.items() if room(name_of(path)) == "tasks")
    assert tasks <= TASKS_SHARE * sum(lines.values()), f"tasks: {tasks} of {sum(lines.values())} lines"


def test_files_are_short():
    lines = {str(path.relative_to(ROOT)): path.read_text().count("\n") for path in SOURCES}
    assert {path: count for path, count in lines.items() if count > LONGEST_FILE} == {}


def test_no_folder_holds_one_file_alone():
    folders = {path.parent for path in SOURCES}
    alone = [f for f in folders if len([p for p in f.iterdir() if p.name != "__pycache__"]) == 1]
    assert [str(folder.relative_to(ROOT)) for folder in alone] == []


LAZY = [name for name, path in MODULES.items() if path.with_suffix(".pyi").is_file()]


@pytest.mark.parametrize("package", LAZY)
def test_no_export_of_a_lazy_package_is_called_like_a_module(package):
    # `from permlab.merging import average` must mean one thing, whatever was imported before.
    folder = MODULES[package].parent
    modules = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    assert exports(package), f"{package}: the stub exports nothing"
    assert set(exports(package)) & modules == set()
    assert set(exports(package).values()) <= set(MODULES)


def test_tables_and_lazy_packages_load_nothing_heavy():
    light = [name for name in MODULES if name.endswith(".table")] + LAZY + ["permlab.registry", "permlab.cli"]
    blocked = f"import sys; sys.modules.update(dict.fromkeys({HEAVY!r}))"
    imports = "\n".join(f"import {name}" for name in light)
    tables = "from permlab import registry\nfor name in registry.TABLES: assert registry.table(name).choices, name"
    done = subprocess.run([sys.executable, "-c", f"{blocked}\n{imports}\n{tables}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
