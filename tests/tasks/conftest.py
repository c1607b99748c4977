"""Fixtures of the runs of tasks in this process; `tests/here.py` has the command and reads what it wrote."""

from __future__ import annotations

import json

import pytest
from spt_runs import SMALL

from permlab.compose import plan_jobs
from permlab.runs.execute import start


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    """Work in an empty folder, and return it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(tmp_path):
    """Return a function that runs overrides of task=spt and gives (result, run directory)."""

    def carry_out(*overrides):
        config = plan_jobs([*SMALL, f"run.root={tmp_path / 'outputs'}", *overrides], False).jobs[0].config
        done = start(config)
        assert done.status == "done", done.message
        return json.loads((done.directory / "result.json").read_text()), done.directory

    return carry_out
