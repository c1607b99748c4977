"""Fixtures of the runs of tasks in this process; `tests/here.py` has the command and reads what it wrote."""

from __future__ import annotations

import pytest


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    """Work in an empty folder, and return it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
