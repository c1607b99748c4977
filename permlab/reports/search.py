"""The part of a report about a search (hydra/sweeper=optuna): its best jobs, how it went, which keys mattered.

permlab report 'report.runs=[outputs/sweeps/STAMP]'
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from permlab.reports.collection import Collection
from permlab.reports.document import Block
from permlab.reports.writer import Output
from permlab.runs.search import ASKED, history, importance

SHOWN = 10
"""Jobs in the table, the best first."""
MOST_BYTES = 2**22


def blocks(collection: Collection, out: Output) -> list[Block]:
    """Return the table and figures of the search that a collection is; empty where it is none."""
    folder = folder_of(collection)
    rows = rows_of(folder / "search.csv") if folder else []
    if folder is None or not rows:
        return []
    objective = objective_of(folder)
    name, least = objective.removeprefix("-"), objective.startswith("-")
    if not all(name in row for row in rows):
        return []
    best = sorted((row for row in rows if row[name] is not None), key=lambda row: row[name] * (1 if least else -1))
    title = f"The best {min(SHOWN, len(best))} of {len(rows)} jobs that the search finished, by {name}"
    found: list[Block] = [out.table(collection.prefix("search"), best[:SHOWN], title)]
    drawing = history(rows, objective)
    caption = f"{name} of every finished job, and the best so far."
    found.append(out.figure(collection.prefix("search_history"), drawing, f"{name} against the job", caption))
    shares = rows_of(folder / "importance.csv")
    if shares:
        caption = f"Share of the variance of {name} that a key explains, by Optuna's fANOVA."
        drawing = importance({str(row["key"]): float(row["importance"]) for row in shares})
        found.append(out.figure(collection.prefix("search_importance"), drawing, "importance of keys", caption))
    return found


def folder_of(collection: Collection) -> Path | None:
    """Return the sweep's folder, also where everything was moved together; None where it is not there."""
    if not collection.name.startswith("sweep "):
        return None
    stamp = collection.name.removeprefix("sweep ")
    for run in collection.runs:
        settings = run.config.get("run")
        stated = settings.get("sweep") if isinstance(settings, dict) else None
        for folder in (Path(str(stated)), run.directory.parent.parent / "sweeps" / stamp):
            if (folder / ASKED).is_file():
                return folder
    return None


def objective_of(folder: Path) -> str:
    """Return what a search went by, of the command that it was begun with."""
    words = json.loads((folder / ASKED).read_text(encoding="utf-8"))
    return next((str(each).partition("=")[2] for each in words if str(each).startswith("run.objective=")), "")


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a table, numbers as numbers; empty where there is none of a likely size."""
    if not path.is_file() or path.stat().st_size > MOST_BYTES:
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [{key: number(value) for key, value in row.items() if key} for row in csv.DictReader(file)]


def number(text: str | None) -> Any:
    """Return a number, None for an empty cell, or the text."""
    try:
        return float(text) if text else None
    except ValueError:
        return text
