"""A mirror that fails is a warning; the offline copy that is announced is kept."""

from __future__ import annotations

import sys
import types

import pytest

from permlab.runs.trackers import to_wandb as trackers


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


@pytest.mark.slow
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


def test_a_server_that_answers_but_does_no_work_is_not_waited_for(loopback):
    # As a proxy does whose server is away: it answers HEAD and nothing else.
    address = loopback(lambda method, path, body: b"" if method == "HEAD" else None)
    assert not trackers.answers(address, 0.5)


def test_what_the_server_may_cost_is_bounded_in_all(wandb, monkeypatch):
    monkeypatch.setattr(trackers, "answers", lambda url, seconds: clock.append(seconds) or True)
    clock = []
    monkeypatch.setattr(trackers.time, "monotonic", lambda: float(sum(clock)))
    trackers.start_wandb({"id": "abcd", "resume": None}, "online", 10.0)
    assert wandb[0]["settings"]["init_timeout"] <= trackers.MOST_SECONDS - trackers.OFFLINE_SECONDS - clock[0]


def test_the_client_sees_a_command_line_without_secrets(wandb, monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "argv", ["permlab", "run.name=hf_abcdefghijklmnopqrst"])
    module = sys.modules["wandb"]
    monkeypatch.setattr(module, "init", lambda **_: seen.append(list(sys.argv)) or types.SimpleNamespace(id="x"))
    trackers.start_wandb({"id": "abcd"}, "offline", 6.0)
    assert seen == [["permlab", "run.name=***"]] and sys.argv[1] != "run.name=***"
