"""A mirror that fails is a warning; the offline copy that is announced is kept."""

from __future__ import annotations

import sys
import types

import pytest

from permlab.runs import trackers


@pytest.fixture
def wandb(monkeypatch):
    """A W&B client whose server holds every id for taken; returns the list of calls."""
    calls = []

    def init(**options):
        calls.append(options)
        if options["mode"] == "online" or [c["id"] for c in calls].count(options["id"]) > 1:
            raise RuntimeError("run ID is in use")
        return types.SimpleNamespace(id=options["id"], dir="wandb/files")

    module = types.ModuleType("wandb")
    module.init, module.Settings = init, lambda **settings: settings
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setattr(trackers, "answers", lambda url, seconds: True)
    return calls


def test_the_offline_copy_has_an_id_of_its_own(wandb):
    run, offline = trackers.start_wandb({"id": "abcd", "resume": "allow"}, "online", 6.0)
    assert offline and run.id != "abcd" and [call["mode"] for call in wandb] == ["online", "offline"]
    assert wandb[1]["resume"] is None


def test_an_import_that_fails_without_a_word_does_not_fail_the_run(monkeypatch, tmp_path):
    from permlab.config import build_config
    from permlab.runs.execute import start

    def refuse(*_):
        raise ImportError

    monkeypatch.setattr(trackers, "start_wandb", refuse)
    config = build_config(
        {"task": {"name": "ntk", "k": [3]}, "model": {"name": "none", "kind": "none"},
         "dataset": {"name": "none", "kind": "none"}, "run": {"root": str(tmp_path)},
         "tracker": {"name": "wandb", "mode": "offline"}}
    )  # fmt: skip
    done = start(config)
    assert done.status == "done"
    assert "W&B could not start (ImportError)" in (done.directory / "run.log").read_text()
