"""Tables on a terminal: nothing is lost and nothing is wider than the terminal, whatever its width."""

from __future__ import annotations

import os
import re
import signal
import struct
import sys
import threading
from pathlib import Path

import pytest
from rich.console import Console

from permlab.runs.folding import broken, fold, key_columns

LAW = [
    {"k": 3 + i, "ones": 2, "ensemble_size": 190 + i, "low": 100 + i, "high": 250 + i, "published": 2.5 + i,
     "sufficient_bound": 40 + i, "median": 180.5 + i, "law_over_published": 0.951 + i, "against_band": f"side{i}"}
    for i in range(4)
]  # fmt: skip
ARMS = [
    {"arm": f"weight matching, least squares + reset {i}", "role": "configured", "pairs": 5,
     **{name: f"0.{i}10 ± 0.009" for name in ("loss_barrier", "accuracy_barrier", "midpoint_loss", "l2_reduction")}}
    for i in range(3)
]  # fmt: skip


def printed(rows, width: int) -> str:
    console = Console(width=width, force_terminal=True, color_system=None, legacy_windows=False)
    with console.capture() as captured:
        for block in fold(rows, list(rows[0]), width):
            console.print(block)
    return captured.get()


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
@pytest.mark.parametrize("rows", [LAW, ARMS, LAW[:1], ARMS[:2]], ids=["law", "arms", "one", "two"])
def test_every_cell_is_there_and_no_line_is_too_wide(rows, width):
    text = printed(rows, width)
    assert max(map(len, text.splitlines())) <= width
    squeezed = "".join(text.split())
    for row in rows:
        for name, value in row.items():
            assert name in text or all(part in text for part in name.split("_"))
            if name != "arm":  # the only one that may break
                shown = f"{value:.3f}" if isinstance(value, float) else str(value)
                assert "".join(shown.split()) in squeezed


def test_each_block_says_which_row_it_is():
    blocks = fold(LAW, list(LAW[0]), 60)
    assert len(blocks) > 1 and key_columns(LAW, list(LAW[0])) == ["k"]
    for block in blocks:
        assert next(iter(block.columns[0].cells)).plain == "3"
    assert [column.header for column in blocks[0].columns][:2] == ["k", "ones"]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_names_behind_columns_that_are_the_same_in_all_rows_are_repeated_too(width):
    scored = [
        {"regime": "independent", "adapters": 2, "method": f"lego k=4, both, normalized features, max norm {i // 2}",
         "k": 4, "scale_rule": ("1", "tuned")[i % 2], **{f"score_{k}": 0.5 for k in range(12)}, "score_sd": None}
        for i in range(4)
    ]  # fmt: skip
    assert key_columns(scored, list(scored[0])) == ["method", "scale_rule"]
    blocks = fold(scored, list(scored[0]), width)
    assert len(blocks) > 1 and blocks[0].columns[0].header == "regime"
    for block in blocks:
        assert {"method", "scale_\nrule"} <= {column.header for column in block.columns}
    assert "score_\nsd" not in {column.header for block in blocks for column in block.columns}, "blank in every row"
    assert max(map(len, printed(scored, width).splitlines())) <= width


@pytest.mark.parametrize("name", ["as it should", "should be", "all three", "ensemble_size", "_x_very__long name"])
def test_names_of_columns_keep_their_words_apart(name):
    lines = broken(name).split("\n")
    assert " ".join(lines).replace("_ ", "_") == name
    assert broken("as it should") == "as it\nshould"


@pytest.mark.slow
@pytest.mark.parametrize("width", [60, 100])
def test_the_command_on_a_real_terminal(tmp_path, environment, width):
    fcntl, pty, termios = (pytest.importorskip(name) for name in ("fcntl", "pty", "termios"))
    command = str(Path(sys.executable).with_name("permlab"))
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        arguments = [command, "task=ntk", "task.k=[3,10,30]", "task.replicates=20", "tracker=none", "run.dir=run"]
        os.execvpe(command, arguments, {**environment, "TERM": "xterm", "NO_COLOR": "1"})
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    watch = threading.Timer(120, os.kill, (pid, signal.SIGKILL))  # a command that hangs fails here
    watch.start()
    output = b""
    while True:
        try:
            output += os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
    watch.cancel()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.decode())
    table = [line for line in text.splitlines() if re.match(r"\s+(3|10|30)\s+\d", line)]
    assert len(table) >= 3 and all(len(line) <= width for line in table)
    assert "against_" in text and "published" in text
