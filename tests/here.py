"""The command in this process and folder, and what its run wrote: `command("task=merge")`, then `rows("arms")`."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from tiny_runs import QUIET, permlab


def command(*arguments: str) -> int:
    """Run the command quietly on the CPU, into the folder `run` unless another is named; return its exit code."""
    named = any(argument.startswith("run.dir=") for argument in arguments)
    return permlab(*arguments, *QUIET, *(() if named else ("run.dir=run",)))


def resume(run: str | Path = "run") -> int:
    return permlab("resume", str(run))


def rows(table: str, run: str | Path = "run") -> list[dict[str, str]]:
    with Path(run, "tables", f"{table}.csv").open() as handle:
        return list(csv.DictReader(handle))


def result(run: str | Path = "run") -> dict[str, Any]:
    """Return the result.json of a run that is done."""
    found: dict[str, Any] = json.loads(Path(run, "result.json").read_text())
    assert found["status"] == "done"
    return found


def metrics(run: str | Path = "run") -> dict[str, float]:
    found: dict[str, float] = result(run)["metrics"]
    return found
