"""The example of docs/adding_a_task.md, taken from the page, works in a copy of the package."""

from __future__ import annotations

import csv
import json
import re

import pytest
from overlay import ROOT, TASK_ROWS, overlay

BLOCK = re.compile(r"<!-- (file|line): (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The package and conf/ with the pieces of the page added."""
    blocks = BLOCK.findall((ROOT / "docs" / "adding_a_task.md").read_text())
    assert [kind for kind, *_ in blocks] == ["file", "file", "line", "file"]
    files = {path: text for kind, path, text in blocks if kind == "file"}
    rows = {path: (TASK_ROWS, text) for kind, path, text in blocks if kind == "line"}
    return overlay(tmp_path_factory.mktemp("overlay"), files, rows)


@pytest.mark.slow
def test_the_task_of_the_readme_runs_and_writes_its_result(permlab, copy, tmp_path):
    path = {"PYTHONPATH": str(copy)}
    done = permlab("task=fixed_points", "task.n=10", "task.draws=4000", "tracker=none", "run.dir=run", **path)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == "done" and abs(result["metrics"]["mean_fixed_points"] - 1) < 0.1
    rows = list(csv.DictReader((tmp_path / "run" / "tables" / "fixed_points.csv").open()))
    assert sum(float(row["share"]) for row in rows) == pytest.approx(1)
    assert (tmp_path / "run" / "figures" / "fixed_points.svg").is_file()
    assert "how many fixed points" in permlab("--help", **path).stdout
    typo = permlab("task=fixed_points", "task.drws=3", **path)
    assert typo.returncode == 2 and "did you mean 'task.draws'" in typo.stderr
    plan = permlab("task=fixed_points", "run.dry_run=true", **path)
    assert "20000 of 52 points" in plan.stdout
    # Without the copy the command of this process does not know it: what ran was the copy.
    assert "task=fixed_points is not known" in permlab("task=fixed_points").stderr


@pytest.mark.slow
def test_the_experiment_of_the_readme_is_judged(permlab, copy, tmp_path):
    path = {"PYTHONPATH": str(copy)}
    done = permlab("experiment=fixed_points/sizes", "tracker=none", **path)
    assert done.returncode == 0, done.stdout + done.stderr
    done = permlab("task=report", **path)
    assert done.returncode == 0, done.stdout + done.stderr
    (page,) = tmp_path.glob("outputs/report/*/report.md")
    (row,) = [line for line in page.read_text().splitlines() if "one fixed point on average" in line and "|" in line][
        :1
    ]
    assert "reproduced" in row and "not reproduced" not in row
