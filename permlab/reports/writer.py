"""Write what a report shows, once: `Output(folder).table("runs", rows, "Runs")` is a CSV and a block of the page."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from permlab.reports.collect import RunRecord
from permlab.reports.document import Figure, Lines, Link, Table
from permlab.storage.files import save_figure, write_csv
from permlab.tables import Row, Spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

LONGEST_NAME = 80


class Output:
    """The report's folder: `tables/*.csv`, `figures/*.{svg,png}`, and links from it to the runs.

    `on_table` and `on_file` are told what was written (name and rows, or path), for a tracker.
    """

    def __init__(
        self,
        folder: Path,
        own_figures: int = 4,
        on_table: Callable[[str, list[Row]], None] | None = None,
        on_file: Callable[[Path], None] | None = None,
    ) -> None:
        self.folder = folder
        self.own_figures = own_figures
        self.on_table, self.on_file = on_table, on_file
        self.names: set[str] = set()

    def table(
        self, name: str, rows: Sequence[Row], title: str, columns: dict[str, str] | None = None, note: str = ""
    ) -> Table:
        """Write `tables/<name>.csv` and return the block; a `Spread` becomes three columns."""
        name = self.unique(name)
        flat = [expanded(row) for row in rows]
        if self.on_table:
            self.on_table(name, flat)
        else:
            write_csv(self.folder / "tables" / f"{name}.csv", flat)
        return Table(name, title, rows, columns, note)

    def figure(self, name: str, drawing: Drawing, alt: str, caption: str) -> Figure:
        """Write `figures/<name>.svg` and `.png`, close the drawing and return the block."""
        name = self.unique(name)
        png, svg = save_figure(self.folder / "figures", name, drawing)
        self.tell(png, svg)
        return Figure(name, alt, caption, png, svg)

    def embed(self, run: RunRecord, figure: str, alt: str, caption: str) -> Figure | None:
        """Copy a run's own figure into the report, or return None when it has none."""
        found: dict[str, Path] = {}
        name = ""
        for kind in ("png", "svg"):
            source = run.directory / "figures" / f"{figure}.{kind}"
            if not run.inside(source):
                continue
            name = name or self.unique(f"{run.task}-{run.id[-11:]}-{figure}")
            target = self.folder / "figures" / f"{name}.{kind}"
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
            except OSError as error:
                run.note(f"figures/{source.name} cannot be read: {error.strerror}")
                continue
            found[kind] = target
        if not found:
            return None
        self.tell(*found.values())
        return Figure(name, alt, caption, found.get("png"), found.get("svg"))

    def link(self, path: Path, text: str | None = None) -> Link:
        """Return a link from the report's folder to a file or folder."""
        relative = os.path.relpath(path, self.folder)
        return Link(path.name if text is None else text, quote(os.fsencode(relative)))

    def unique(self, name: str) -> str:
        """Return a name that is safe in a path and not used yet."""
        safe = re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("._")[:LONGEST_NAME] or "unnamed"
        candidate, number = safe, 2
        while candidate in self.names:
            candidate, number = f"{safe}_{number}", number + 1
        self.names.add(candidate)
        return candidate

    def tell(self, *paths: Path) -> None:
        """Pass on which files were written."""
        for path in paths if self.on_file else ():
            self.on_file(path)  # type: ignore[misc]


def expanded(row: Row) -> Row:
    """Return a row for CSV: spreads as mean, deviation and count; links and lines as text."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Spread):
            flat |= {key: value.mean, f"{key}_sd": value.deviation, f"{key}_n": value.count}
        else:
            flat[key] = str(value) if isinstance(value, (Link, Lines)) else value
    return flat
