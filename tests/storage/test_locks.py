"""One process works in a run directory; a lock whose process is gone is taken over."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time

import pytest

from permlab.errors import UserError
from permlab.storage import locks


def hold_until_killed(folder, ready):
    with locks.hold(folder):
        ready.set()
        time.sleep(60)


@pytest.fixture
def live(tmp_path):
    """A process that holds the lock of tmp_path."""
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=hold_until_killed, args=(tmp_path, ready))
    process.start()
    assert ready.wait(20)
    yield process
    process.kill()
    process.join()


def test_the_second_is_told_who_holds_the_folder(tmp_path, live):
    with pytest.raises(UserError, match=f"in use by process {live.pid} on "), locks.hold(tmp_path):
        pass
    assert locks.holder(tmp_path).pid == live.pid
    os.kill(live.pid, signal.SIGKILL)
    live.join()
    assert (tmp_path / locks.NAME).exists() and locks.holder(tmp_path) is None
    with locks.hold(tmp_path) as lock:
        assert lock.held and locks.holder(tmp_path).pid == os.getpid()
    assert not (tmp_path / locks.NAME).exists() and locks.holder(tmp_path) is None


def test_a_heartbeat_of_another_machine_counts_until_it_is_old(tmp_path):
    path = tmp_path / locks.NAME
    path.write_text(json.dumps({"host": "elsewhere", "pid": 7, "started": 0}))
    assert locks.holder(tmp_path).host == "elsewhere"
    with pytest.raises(UserError, match="process 7 on elsewhere since 1970"), locks.hold(tmp_path):
        pass
    old = time.time() - 2 * locks.STALE_SECONDS
    os.utime(path, (old, old))
    assert locks.holder(tmp_path) is None
    with locks.hold(tmp_path) as lock:
        assert lock.held


def test_the_heart_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.01)
    with locks.hold(tmp_path):
        os.utime(tmp_path / locks.NAME, (0, 0))
        end = time.monotonic() + 5
        while (tmp_path / locks.NAME).stat().st_mtime < 1:
            assert time.monotonic() < end
            time.sleep(0.01)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": 1}', '{"host": "a", "pid": {}, "started": 0}'])
def test_a_damaged_lock_of_nobody_is_taken_over(tmp_path, text):
    (tmp_path / locks.NAME).write_text(text)
    assert locks.holder(tmp_path) is None
    with locks.hold(tmp_path) as lock:
        assert lock.held


def test_a_removed_folder_is_noticed(tmp_path):
    with locks.hold(tmp_path) as lock:
        (tmp_path / locks.NAME).unlink()
        assert not lock.held
        (tmp_path / locks.NAME).touch()
        assert not lock.held
