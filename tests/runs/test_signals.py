"""Stop signals in quick succession: one stop, no traceback, in every phase."""

from __future__ import annotations

import os
import signal

import pytest

from permlab.errors import Interrupted
from permlab.runs import signals


def test_a_third_signal_does_not_break_into_what_the_second_began():
    with signals.listening() as request:
        os.kill(os.getpid(), signal.SIGINT)
        assert request.signum == signal.SIGINT  # the first only asks
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGINT)
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)  # a checkpoint is being written now
        request.insisted -= 2 * signals.GRACE_SECONDS
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGTERM)  # but a task that hangs is stopped again


@pytest.mark.parametrize("place", ["starting", "complaining"])
def test_rapid_interrupts_outside_a_run_end_at_once_without_a_word(tmp_path, place):
    """In a child: the second interrupt ends the process, wherever the first is being dealt with."""
    said = tmp_path / "said.txt"
    child = os.fork()
    if not child:
        descriptor = os.open(said, os.O_WRONLY | os.O_CREAT)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        try:
            _interrupted(place)
        finally:
            os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 130
    assert said.read_text() == ""


def _interrupted(place: str) -> None:
    import sys

    from permlab import cli

    signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupt = lambda *_: os.kill(os.getpid(), signal.SIGINT)  # noqa: E731

    def twice(*_):
        try:
            interrupt()
        finally:
            interrupt()

    cli.dispatch = twice if place == "starting" else cli.dispatch
    cli.complain = twice
    sys.argv = ["permlab", "no verb"]
    try:
        cli.main()
    except SystemExit as ended:
        os._exit(int(ended.code or 0))
    except BaseException:
        import traceback

        traceback.print_exc()
