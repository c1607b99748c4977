"""Spoiled files of every kind end with a line and exit code 2, within bounds: the short forms of torture_fuzz."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torture_fuzz

SCRIPT = Path(torture_fuzz.__file__)


def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    # A process of its own: its forks inherit nothing of the threads and patches of the tests.
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=1500)


@pytest.mark.slow
def test_three_hundred_spoiled_inputs_are_refused_or_harmless():
    done = fuzz("--quick", "--tries", "300", "--seed", "1000")
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "| together | 300 | 300 |" in done.stdout


@pytest.mark.slow
def test_spoiled_inputs_that_need_whole_runs_are_refused_or_harmless():
    done = fuzz("--tries", "40", "--seed", "1001")
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


@pytest.mark.parametrize(
    ("code", "error", "wrong"),
    [
        (2, "permlab: a.json is no JSON: get it again\n", ""),
        (1, "permlab: failed\n", "exit code 1"),
        (2, "Traceback (most recent call last):\n  x\nValueError\n", "a traceback"),
        (2, "a\nb\nc\n", "3 lines"),
        (2, "x" * 301, "1 lines, the longest of 301"),
        (2, "", "no line"),
        (2, "\x1b[31mred", "control characters"),
    ],
)
def test_the_fuzzer_tells_a_refusal_from_a_failure(tmp_path, code, error, wrong):
    for name in ("in/1", "work"):
        (tmp_path / name).mkdir(parents=True)
    each = torture_fuzz.Input(torture_fuzz.KINDS[0], ("task=merge",), tmp_path / "in" / "1", [])
    seen = torture_fuzz.Seen(code, 1.0, 2**20, error)
    torture_fuzz.judge(seen, each, tmp_path, {})
    assert (wrong in "; ".join(seen.wrong)) if wrong else not seen.wrong


def test_the_fuzzer_sees_what_is_left_behind_and_an_executed_pickle(tmp_path):
    for name in ("in/1", "work/outputs/x", "marker"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "work" / "outputs" / "x" / "config.yaml").write_text("seed: 0")
    (tmp_path / "work" / "elsewhere").write_text(torture_fuzz.SECRET)
    each = torture_fuzz.Input(torture_fuzz.KINDS[0], ("task=merge",), tmp_path / "in" / "1", [])
    seen = torture_fuzz.Seen(2, 1.0, 2**20, "permlab: no\n")
    torture_fuzz.judge(seen, each, tmp_path, {})
    for wrong in ("written outside", "left behind", "a pickle was executed", "the secret stands in elsewhere"):
        assert wrong in "; ".join(seen.wrong)
