"""Threads by the work of a step and by what other programs leave; the user's own choice is kept."""

from __future__ import annotations

import pytest
import torch

from permlab import threads
from permlab.threads import MACS_A_THREAD, for_work, macs_of, set_threads


@pytest.fixture(autouse=True)
def four_idle_cores(monkeypatch):
    """A machine of four cores without other programs, and torch's own setting put back."""
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "_idle_cores", lambda _: 4)
    monkeypatch.setattr(threads, "_choice", threads._Choice())
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def inside(macs: float) -> int:
    """Threads that torch has within `for_work`."""
    with for_work(macs) as said:
        assert said == torch.get_num_threads()
        return said


def test_small_steps_get_one_thread_and_large_ones_all_that_are_idle(monkeypatch):
    assert [inside(share * MACS_A_THREAD) for share in (0.01, 1.5, 2.5, 3.9, 50)] == [1, 1, 2, 3, 4]
    assert torch.get_num_threads() == 4
    monkeypatch.setattr(threads, "_idle_cores", lambda _: 2)
    assert inside(50 * MACS_A_THREAD) == 2


def test_what_the_user_chose_is_kept(monkeypatch):
    assert set_threads(3) == 3 and inside(1) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert set_threads(None) == 2 and inside(1) == 2
    assert set_threads(3) == 3, "the key of the command line comes first"
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert set_threads(None) == 4 and inside(1) == 1, "a later job of a sweep chooses anew"


def test_a_run_goes_on_with_the_threads_it_began_with(monkeypatch):
    assert set_threads(None, begun_with=2) == 2
    assert inside(50 * MACS_A_THREAD) == 2
    monkeypatch.setattr(threads, "_idle_cores", lambda _: 1)
    assert inside(50 * MACS_A_THREAD) == 2


def test_the_loop_that_fails_leaves_the_setting_as_it_was():
    with pytest.raises(ZeroDivisionError), for_work(1):
        raise ZeroDivisionError
    assert torch.get_num_threads() == 4


def test_work_is_counted_layer_by_layer():
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 5, 3, padding=1), torch.nn.BatchNorm2d(5), torch.nn.Flatten(), torch.nn.Linear(5 * 16, 7)
    ).train()
    forward = 2 * (5 * 3 * 9 * 16 + 80 * 7)
    before = net[1].running_mean.clone()
    assert macs_of(net, torch.randn(2, 3, 4, 4)) == 3 * forward
    assert net.training and torch.equal(net[1].running_mean, before), "looking changes nothing"


def test_other_programs_are_seen(monkeypatch):
    monkeypatch.undo()
    import psutil

    threads._idle_cores.cache_clear()
    monkeypatch.setattr(threads, "usable_cores", lambda: 8)
    monkeypatch.setattr(psutil, "cpu_count", lambda: 8)
    for busy, left in ((0, 8), (50, 4), (100, 1)):
        monkeypatch.setattr(psutil, "cpu_percent", lambda interval, busy=busy: busy)
        threads._idle_cores.cache_clear()
        assert threads.idle_cores() == left
    threads._idle_cores.cache_clear()
