"""Find run directories and read them, whatever state they are in: `collect(["outputs"]).runs`.

A directory that cannot be read is listed with the reason and never stops the report. Nothing is written.
"""

from __future__ import annotations

import csv
import glob
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from permlab.errors import UserError, first_line
from permlab.storage.files import unquoted
from permlab.storage.locks import holder
from permlab.storage.plain import MOST_DIGITS, UnreadableError, parse_json, read_bytes, read_json_file, read_yaml
from permlab.tables import is_number

MARKERS = ("result.json", "config.yaml", "metrics.jsonl", "environment.json", "run.log")
NAME = re.compile(r"\d{8}-\d{6}-\d{6}-[0-9a-f]{4}")
"""What run and sweep directories are called when the user did not name them."""
STATUSES = ("done", "failed", "interrupted", "running", "pruned")
DEEPEST = 6
"""Folders below a given one that are searched."""


@dataclass
class RunRecord:
    """One run directory. `status` is one of `STATUSES` or corrupt; `problem` says what is wrong with it."""

    directory: Path
    task: str
    status: str
    config: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    problem: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def id(self) -> str:
        """The directory's name."""
        return self.directory.name

    @property
    def name(self) -> str:
        """run.name, else the directory's name."""
        return str(self.result.get("name") or self.id)

    @property
    def seed(self) -> int | None:
        """The seed, if it is known."""
        seed = self.config.get("seed", self.result.get("seed"))
        return seed if isinstance(seed, int) else None

    @property
    def seconds(self) -> float:
        """Wall-clock seconds, 0 when unknown."""
        value = self.result.get("seconds")
        return float(value) if is_number(value) else 0.0

    @property
    def experiment(self) -> dict[str, Any]:
        """The experiment section of the configuration, empty in a plain run."""
        value = self.config.get("experiment")
        return value if isinstance(value, dict) and isinstance(value.get("name"), str) else {}

    @property
    def debug(self) -> bool:
        """Whether it is a run of `debug=`, which tries the program out and is no result."""
        return bool(self.result.get("debug") or self.config.get("debug"))

    @property
    def cautions(self) -> list[str]:
        """What the run warned about, shortened."""
        found = self.result.get("warnings")
        return [text[:300] for text in found[:50] if isinstance(text, str)] if isinstance(found, list) else []

    @cached_property
    def metrics(self) -> dict[str, float | None]:
        """Flat numbers of result.json; a number that was not finite is None."""
        found = self.result.get("metrics")
        pairs = found.items() if isinstance(found, dict) else ()
        return {str(k): (v if is_number(v) else None) for k, v in pairs if v is None or isinstance(v, (int, float))}

    def files(self, folder: str, suffix: str) -> list[str]:
        """Return the names without suffix of `folder/*suffix`, in alphabetical order."""
        try:
            found = (self.directory / folder).glob(f"*{suffix}")
            return sorted(p.stem for p in found if not p.name.startswith(".") and self.inside(p))
        except OSError:
            return []

    def inside(self, path: Path) -> bool:
        """Whether a path is a file of this directory, and not a link to one that lies elsewhere."""
        try:
            return path.resolve(strict=True).is_relative_to(self.directory.resolve()) and path.is_file()
        except (OSError, RuntimeError):
            return False

    def table(self, name: str) -> list[dict[str, Any]]:
        """Read `tables/<name>.csv` with numbers as numbers; empty, with a note, when it cannot be read."""
        path = self.directory / "tables" / f"{name}.csv"
        if not self.inside(path):
            return []
        try:
            return read_table(path)
        except (OSError, ValueError, csv.Error) as error:
            self.note(f"tables/{name}.csv cannot be read: {first_line(error)}")
            return []

    def logged(self) -> list[dict[str, Any]]:
        """Read metrics.jsonl; torn lines are left out and noted."""
        path = self.directory / "metrics.jsonl"
        entries, torn = [], 0
        try:
            lines = read_bytes(path).decode(errors="replace").splitlines()
        except FileNotFoundError:
            return []
        except (OSError, UnreadableError) as error:
            self.note(first_line(error))
            return []
        for line in lines:
            entry = parsed(line)
            if isinstance(entry, dict):
                entries.append(entry)
            else:
                torn += 1
        if torn:
            self.note(f"metrics.jsonl has {torn} torn line{'s' if torn > 1 else ''}")
        return entries

    def environment(self) -> dict[str, Any]:
        """Read environment.json, or an empty dictionary."""
        value = load_json(self.directory / "environment.json")[0]
        return value if isinstance(value, dict) else {}

    def note(self, text: str) -> None:
        """Remember once what could not be read."""
        if text not in self.notes:
            self.notes.append(text)


@dataclass
class Collected:
    """All runs, oldest first, and how many reports and debug runs were passed over."""

    runs: list[RunRecord]
    reports: int = 0
    debug: int = 0

    def with_status(self, *statuses: str) -> list[RunRecord]:
        """Return the runs with one of these statuses."""
        return [run for run in self.runs if run.status in statuses]


def matching(pattern: str) -> list[Path]:
    """Return the folders that a path or a glob means.

    Raises:
        UserError: none.
    """
    found = [Path(pattern)] if os.path.isdir(pattern) else [Path(p) for p in glob.glob(pattern, recursive=True)]
    found = sorted(path for path in found if path.is_dir())
    if not found:
        raise UserError(f"report.runs: '{pattern}' is no folder and matches none; give run directories or sweeps")
    return found


def collect(patterns: Iterable[str], root: str | Path = "outputs") -> Collected:
    """Read every run under the given run directories, sweep directories, folders or globs; none = all of `root`.

    Raises:
        UserError: for a path or a glob that matches nothing.
    """
    folders: list[Path] = []
    for pattern in list(patterns) or [str(root)]:
        found = matching(pattern)
        folders += found
    seen: dict[Path, RunRecord] = {}
    for folder in folders:
        for path in run_directories(folder):
            key = path.resolve()
            if key not in seen:
                seen[key] = read_run(path)
    runs = sorted(seen.values(), key=lambda run: (run.id, str(run.directory)))
    results = [run for run in runs if run.task != "report"]
    kept = [run for run in results if not run.debug]
    return Collected(kept, len(runs) - len(results), len(results) - len(kept))


def run_directories(folder: Path) -> Iterator[Path]:
    """Yield the run directories at or below a folder; a sweep directory stands for its jobs."""
    if is_sweep(folder):
        yield from sweep_jobs(folder)
    elif is_run(folder):
        yield folder
    else:
        base = len(folder.parts)
        for here, children, _ in os.walk(folder):
            place = Path(here)
            descend = []
            for child in sorted(children):
                path = place / child
                if is_sweep(path):
                    yield from sweep_jobs(path)
                elif is_run(path):
                    yield path
                elif not child.startswith(".") and len(path.parts) - base < DEEPEST:
                    descend.append(child)
            children[:] = descend


def is_run(path: Path) -> bool:
    """Return whether a folder is, or was about to become, a run directory."""
    return any((path / name).exists() for name in MARKERS) or bool(NAME.fullmatch(path.name))


def is_sweep(path: Path) -> bool:
    """Return whether a folder is a sweep directory."""
    return not (path / "result.json").exists() and (
        (path / "jobs").is_dir() or (path.parent.name == "sweeps" and bool(NAME.fullmatch(path.name)))
    )


def sweep_jobs(sweep: Path) -> Iterator[Path]:
    """Yield the run directories that a sweep's notes name; found beside the sweep when everything was moved."""
    for path in sorted((sweep / "jobs").glob("*.json")):
        note, _ = load_json(path)
        named = note.get("directory") if isinstance(note, dict) else None
        if not isinstance(named, str) or not named:
            continue
        directory = Path(named)
        moved = sweep.parent.parent / directory.parent.name / directory.name
        if not directory.is_dir() and moved.is_dir():
            directory = moved
        if directory.is_dir():
            yield directory


def read_run(path: Path) -> RunRecord:
    """Read result.json and config.yaml of one directory."""
    result, wrong_result = load_json(path / "result.json")
    config, wrong_config = load_yaml(path / "config.yaml")
    problems = [text for text in (wrong_result, wrong_config) if text]
    if not wrong_result and not isinstance(result, dict):
        problems.append("result.json is not an object")
    if not wrong_config and not (isinstance(config, dict) and isinstance(config.get("task"), dict)):
        problems.append("config.yaml is not a configuration")
    result = result if isinstance(result, dict) else {}
    config = config if isinstance(config, dict) else {}
    task = config.get("task")
    names = (task.get("name") if isinstance(task, dict) else None, result.get("task"), path.parent.name)
    name = next((str(n) for n in names if isinstance(n, str) and n), "unknown")
    status = result.get("status")
    if not problems and status not in STATUSES:
        problems.append(f"result.json has no known status ({first_line(status)})")
    if problems:
        return RunRecord(path, name, "corrupt", {}, result, "; ".join(problems))
    return RunRecord(path, name, str(status), config, result, ending(path, result))


def ending(path: Path, result: Mapping[str, Any]) -> str:
    """Return the error line of a failed run, or what is known of one that did not finish."""
    if result.get("error"):
        return first_line(result["error"])
    if result["status"] == "running":
        worker = holder(path)
        return f"still running: {worker}" if worker else f"killed, its process is gone: permlab resume {path}"
    if result["status"] == "interrupted":
        return f"stopped by a signal: permlab resume {path}"
    return "" if result["status"] == "done" else "no error line in result.json"


def load_json(path: Path) -> tuple[Any, str]:
    """Return (value, "") or (None, what is wrong)."""
    return loaded(path, read_json_file)


def load_yaml(path: Path) -> tuple[Any, str]:
    """Return (value, "") or (None, what is wrong)."""
    return loaded(path, read_yaml)


def loaded(path: Path, read: Callable[[Path], Any]) -> tuple[Any, str]:
    """Read a file that may be anything."""
    try:
        return read(path), ""
    except FileNotFoundError:
        return None, f"no {path.name}"
    except (OSError, UnreadableError) as error:
        return None, f"cannot be read: {first_line(error)}"


def read_table(path: Path) -> list[dict[str, Any]]:
    """Read a CSV with numbers as numbers, empty cells as None; cells beyond the header are dropped.

    Raises:
        OSError, ValueError, csv.Error: when it cannot be read, is no regular file, or too large.
    """
    with io.StringIO(read_bytes(path).decode("utf-8"), newline="") as file:
        return [{unquoted(k): typed(v) for k, v in row.items() if k is not None} for row in csv.DictReader(file)]


def typed(text: Any) -> Any:
    """Return an int, a float, a bool, None for an empty cell, or the text."""
    if not isinstance(text, str) or text == "":
        return None
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float) if len(text) <= MOST_DIGITS else ():
        try:
            return kind(text) if "_" not in text else text
        except ValueError:
            continue
    return unquoted(text)


def parsed(line: str) -> Any:
    """Parse one JSON line, or return None."""
    try:
        return parse_json(line)
    except UnreadableError:
        return None
