"""Faults of the machine around a run: the short form of scripts/torture_surroundings.py.

python scripts/torture_surroundings.py       # the long form: every fault, every task
"""

from __future__ import annotations

import os

import forked
import pytest
import torture_surroundings

from permlab.runs import streams

SHORT = (
    *("file as folder", "name too long", "removed working directory", "no permission", "read-only mount"),
    *("full disk at the start", "full disk in mid-run", "files of 40 KiB at most", "32 file handles"),
    *("path too long", "12 file handles"),
    *("clock runs backwards", "all three closed", "standard output is /dev/full", "umask 077"),
)


@pytest.mark.slow
def test_a_run_goes_on_or_says_in_one_line_why_not(tmp_path):
    forked.preload(["ntk"])
    wrong = {}
    for fault in (each for each in torture_surroundings.FAULTS if each.name in SHORT):
        if fault.privileged and os.geteuid() != 0:
            continue
        with torture_surroundings.scratch() as folder:
            wrong[fault.name] = torture_surroundings.meet(fault, "ntk", folder)
    assert {name: text for name, text in wrong.items() if text} == {}


def test_files_never_get_the_number_of_a_standard_stream_that_is_closed():
    child = os.fork()
    if child == 0:
        code = 1
        try:
            for number in range(3):
                os.close(number)
            streams.prepare_standard_streams()
            null = os.stat(os.devnull).st_rdev
            code = 0 if all(os.fstat(number).st_rdev == null for number in range(3)) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
