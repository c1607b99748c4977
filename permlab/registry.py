"""Tables of names: one row says all there is to know about one method, data set, model or task.

    from permlab import registry
    table = registry.table("combines")          # or: from permlab.merging.table import COMBINES
    table["fisher"].label, table.choices        # rows by name; an unknown name is refused with the nearest one
    table["fisher"].load()                      # imports its module and returns the function

Every room that knows something by name has a `table.py` that imports nothing heavy. The task's choices, the library's
own checks, `permlab ls methods`, legends, colours and the report read these rows: a new name is one new row. Other
packages add rows through an entry point of a group in `ENTRY_POINTS`, or with `plugins=[package]`; a row's class says
which table it belongs to."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from permlab.errors import UserError, check_choice, did_you_mean, first_line

TABLES: dict[str, str] = {
    "tasks": "permlab.tasks.table:TASKS",
    "models": "permlab.models.table:MODELS",
    "networks": "permlab.models.table:VISION",
    "tokenizers": "permlab.models.table:TOKENIZERS",
    "objectives": "permlab.models.table:OBJECTIVES",
    "datasets": "permlab.data.table:DATASETS",
    "matches": "permlab.matching.table:MATCHES",
    "similarities": "permlab.matching.table:SIMILARITIES",
    "combines": "permlab.merging.table:COMBINES",
    "renorms": "permlab.merging.table:RENORMS",
    "allocations": "permlab.merging.table:ALLOCATIONS",
    "domains": "permlab.merging.table:DOMAINS",
    "endpoint_optimizers": "permlab.merging.table:OPTIMIZERS",
    "endpoint_schedules": "permlab.merging.table:SCHEDULES",
    "orders": "permlab.text.table:ORDERS",
    "segmenters": "permlab.text.table:SEGMENTERS",
    "text_budgets": "permlab.text.table:BUDGETS",
    "studies": "permlab.tasks.merge.table:STUDIES",
    "analyses": "permlab.tasks.merge.table:ANALYSES",
    "architectures": "permlab.probes.table:ARCHITECTURES",
    "masks": "permlab.probes.table:MASKS",
    "positions": "permlab.probes.table:ENCODINGS",
    "probe_modes": "permlab.tasks.inverse_permutation.table:MODES",
    "probe_optimizers": "permlab.probes.table:OPTIMIZERS",
    "probe_schedules": "permlab.probes.table:SCHEDULES",
    "prompt_styles": "permlab.probes.table:STYLES",
    "readings": "permlab.probes.table:READINGS",
    "readouts": "permlab.probes.table:READOUTS",
    "routes": "permlab.probes.table:ROUTES",
    "scratch_positions": "permlab.probes.table:POSITIONS",
    "symmetries": "permlab.symmetry.table:SYMMETRIES",
    "variants": "permlab.probes.table:VARIANTS",
    "growth_laws": "permlab.ntk.table:GROWTHS",
    "ntk_dtypes": "permlab.ntk.table:DTYPES",
    "ntk_layers": "permlab.ntk.table:LAYERS",
    "ntk_modes": "permlab.tasks.ntk.table:MODES",
    "ntk_solvers": "permlab.ntk.table:SOLVERS",
    "ntk_tests": "permlab.ntk.table:TESTS",
    "parameterizations": "permlab.ntk.table:PARAMETERIZATIONS",
    "lora_methods": "permlab.adapters.table:LORA_METHODS",
    "lora_gauges": "permlab.adapters.table:GAUGES",
    "lora_features": "permlab.adapters.table:FEATURES",
    "lora_reweights": "permlab.adapters.table:PARAM_REWEIGHTS",
    "lora_reference_ranks": "permlab.adapters.table:REFERENCE_RANKS",
    "lora_trim_spaces": "permlab.adapters.table:TRIM_SPACES",
    "lora_sign_methods": "permlab.adapters.table:SIGN_METHODS",
    "lora_extras": "permlab.adapters.table:EXTRA_RULES",
    "lora_benchmarks": "permlab.adapters.benchmark.table:BENCHMARKS",
    "lora_regimes": "permlab.adapters.benchmark.table:REGIMES",
    "answer_metrics": "permlab.adapters.benchmark.table:ANSWER_METRICS",
    "list_operations": "permlab.adapters.benchmark.table:OPERATIONS",
    "trackers": "permlab.tracking:TRACKERS",
    "tracking_networks": "permlab.state_tracking.table:NETWORKS",
    "tracking_constructions": "permlab.state_tracking.table:CONSTRUCTIONS",
    "tracking_alphabets": "permlab.state_tracking.table:ALPHABETS",
    "tracking_modes": "permlab.tasks.state_tracking.table:MODES",
    "lora_studies": "permlab.tasks.lora_lego.table:LORA_STUDIES",
}
"""table name -> where it stands; `permlab ls methods` prints all but the tasks, models and data sets."""

ENTRY_POINTS = ("permlab.tasks", "permlab.models", "permlab.datasets", "permlab.methods")
"""Entry point groups of other packages; each entry point names a row or a list of rows."""

PLUGIN_ROWS = "PERMLAB_ROWS"
"""The list of rows that a module given as `plugins=[module]` must define."""


@dataclass(frozen=True)
class Row:
    """One name and what belongs to it.

    Attributes:
        name: as on the command line and in files.
        about: one line for people.
        label: in tables and legends; the name where it is left out.
        target: "module:attribute" that carries it out; empty for plain values.
        paper: arXiv number, or where else it comes from.
        needs: what it cannot work without ("data", "ancestor", ...).
        color: of `figures.PALETTE`; the same in every figure.
    """

    name: str
    about: str
    label: str = ""
    target: str = ""
    paper: str = ""
    needs: tuple[str, ...] = ()
    color: str = ""

    @property
    def title(self) -> str:
        """How it is called in tables and legends."""
        return self.label or self.name

    def load(self) -> Any:
        """Import what carries it out."""
        return load(self.target)


R = TypeVar("R", bound=Row)


class Table(Mapping[str, R], Generic[R]):
    """The rows of one kind, by name, in a fixed order; rows of other packages come last.

    Args:
        what: what a row is, in the singular, for messages: "way to combine".
        rows: those of this package. Where other packages may add some, all are of one subclass of `Row`.
    """

    def __init__(self, what: str, rows: Iterable[R]) -> None:
        self.what = what
        self._own = {row.name: row for row in rows}
        kinds = {type(row) for row in self._own.values()}
        self._kind = kinds.pop() if len(kinds) == 1 and Row not in kinds else None

    def _rows(self) -> dict[str, R]:
        found = dict(self._own)
        for row in plugin_rows():
            if self._kind is not None and type(row) is self._kind:
                if row.name in found and found[row.name] is not row:
                    raise UserError(f"a plugin brings the {self.what} '{row.name}', a name that is taken")
                found[row.name] = row
        return found

    def __getitem__(self, name: str) -> R:
        """Return the row of a name.

        Raises:
            UserError: an unknown name; the message has the nearest one and all others.
        """
        rows = self._rows()
        if name not in rows:
            hint = did_you_mean(str(name), rows)
            raise UserError(f"{self.what} '{name}' is not known{hint} (known: {', '.join(rows)})")
        return rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows())

    def __len__(self) -> int:
        return len(self._rows())

    def __contains__(self, name: object) -> bool:
        return name in self._rows()

    def get(self, name: str, default: Any = None) -> Any:
        """Return the row of a name, or `default`."""
        return self._rows().get(name, default)

    @property
    def choices(self) -> tuple[str, ...]:
        """All names."""
        return tuple(self._rows())

    def where(self, **wanted: Any) -> tuple[str, ...]:
        """Return the names of the rows whose attributes have these values."""
        return tuple(n for n, row in self._rows().items() if all(getattr(row, k) == v for k, v in wanted.items()))

    def those(self, **wanted: Any) -> Selection:
        """Return `where(**wanted)` as a collection that sees rows of plugins that are activated later."""
        return Selection(self, wanted)

    def check(self, key: str, name: str) -> R:
        """Return the row, refusing an unknown name as the value of a key of the command line.

        Raises:
            UserError: `key=name is not known; did you mean ...`.
        """
        check_choice(key, name, self)
        return self[name]


class Selection(Collection[str]):
    """The names of the rows of a table that have some traits, looked up anew each time: for constants of modules."""

    def __init__(self, rows: Table[Any], wanted: dict[str, Any]) -> None:
        self._rows, self._wanted = rows, wanted

    def __contains__(self, name: object) -> bool:
        return name in self._rows.where(**self._wanted)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows.where(**self._wanted))

    def __len__(self) -> int:
        return len(self._rows.where(**self._wanted))


def load(target: str) -> Any:
    """Import `module:attribute`."""
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def table(name: str) -> Table[Any]:
    """Return one of `TABLES`."""
    if name not in TABLES:
        raise UserError(f"table '{name}' is not known{did_you_mean(name, TABLES)} (known: {', '.join(TABLES)})")
    found: Table[Any] = load(TABLES[name])
    return found


def task(name: str) -> ModuleType:
    """Return the module of a task.

    Raises:
        UserError: for a name that is not registered.
    """
    row = table("tasks").check("task", name)
    return importlib.import_module(row.target.partition(":")[0])


def section(name: str) -> ModuleType | None:
    """Return the module with a task's part of the report: its row's, or `section` in its package; None for neither."""
    row = table("tasks").get(name)
    if row is None:
        return None
    if row.section:
        return importlib.import_module(row.section)
    package = importlib.import_module(row.target.partition(":")[0])
    own = f"{package.__name__}.section"
    beside = hasattr(package, "__path__") and importlib.util.find_spec(own)
    return importlib.import_module(own) if beside else None


def schemas(group: str) -> dict[str, type]:
    """Return the dataclasses of a config group: by task name, model kind or dataset kind."""
    return {name: row.load() for name, row in table(f"{group}s").items()}


def color_of(name: str) -> str:
    """Return the colour that a method is given in its row, by its name or label; empty when none is."""
    rows = (row for key in TABLES for row in table(key).values())
    return next((str(row.color) for row in rows if row.color and name in (row.name, row.label)), "")


# ---- rows of other packages ------------------------------------------------------------------------------------------

_activated: dict[str, ModuleType] = {}


def plugin_rows() -> list[Row]:
    """Return the rows that installed packages and `plugins=[...]` bring."""
    rows = [row for row, _ in _entry_point_rows()]
    for module in _activated.values():
        rows += _as_rows(getattr(module, PLUGIN_ROWS))
    return list(dict.fromkeys(rows))


def activate(modules: Iterable[str]) -> None:
    """Import modules that are named on the command line (`plugins=[package]`) and take their rows.

    Raises:
        UserError: a module that cannot be imported, or has no rows.
    """
    for name in modules:
        if name in _activated:
            continue
        try:
            module = importlib.import_module(name)
        except Exception as error:
            reason = first_line(error)
            raise UserError(f"plugins={name} cannot be imported ({reason}); is the package installed?") from None
        rows = getattr(module, PLUGIN_ROWS, None)
        if not rows or not all(isinstance(row, Row) for row in _as_rows(rows)):
            raise UserError(f"plugins={name}: the module defines no list of rows named {PLUGIN_ROWS}")
        _activated[name] = module


def plugin_folders() -> list[Path]:
    """Return the `conf` folders of plugin packages that have one: their YAML options stand beside ours."""
    names = [*(package for _, package in _entry_point_rows()), *(name.partition(".")[0] for name in _activated)]
    folders = []
    for name in dict.fromkeys(names):
        spec = importlib.util.find_spec(name)
        for location in (spec.submodule_search_locations or []) if spec else []:
            if (Path(location) / "conf").is_dir():
                folders.append(Path(location).resolve() / "conf")
    return folders


@functools.cache
def _entry_point_rows() -> tuple[tuple[Row, str], ...]:
    """(row, its package) of every installed package; one that cannot be loaded is left out and said so."""
    from importlib.metadata import entry_points

    found: list[tuple[Row, str]] = []
    for group in ENTRY_POINTS:
        for entry in entry_points(group=group):
            try:
                rows = _as_rows(entry.load())
            except Exception as error:  # another package's import may raise anything; ours goes on without it
                print(f"permlab: plugin {entry.value} is left out ({first_line(error)})", file=sys.stderr)
                continue
            found += [(row, entry.module.partition(".")[0]) for row in rows if isinstance(row, Row)]
    return tuple(found)


def _as_rows(value: Any) -> list[Row]:
    return [value] if isinstance(value, Row) else list(value)
