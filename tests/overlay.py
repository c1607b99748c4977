"""A copy of the package with files and table rows added: what adding a task, a method or a data set takes.

    folder = overlay(tmp_path, files={"permlab/tasks/mine.py": text}, rows={"permlab/tasks/table.py": (TASK_ROWS, row)})
    permlab("task=mine", PYTHONPATH=str(folder))

Tests that prove "one new file and one row" use it: nothing else of the copy is changed, and a file that exists or an
opening that is not there exactly once is refused.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TASK_ROWS = 'TASKS = Table(\n    "task",\n    [\n'
"""How the table of tasks opens."""


def overlay(folder: Path, files: Mapping[str, str], rows: Mapping[str, tuple[str, str]] | None = None) -> Path:
    """Copy permlab/ and conf/ into a folder and add to the copy; return the folder, for PYTHONPATH.

    Args:
        folder: an empty folder.
        files: path inside the copy -> text of a new file.
        rows: path of a table's file -> (how the table opens: text that stands there once, source of the new row).
    """
    for name in ("permlab", "conf"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path, text in files.items():
        target = folder / path
        assert not target.exists(), f"{path} is not a new file"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    for path, (opening, row) in (rows or {}).items():
        target = folder / path
        before = target.read_text()
        assert before.count(opening) == 1, f"{path} does not open a table once with {opening!r}"
        target.write_text(before.replace(opening, f"{opening}{row.rstrip().rstrip(',')},\n"))
    return folder
