"""Progress, tables and colours on a real terminal, on a dumb one, without colours, and through a pipe."""

from __future__ import annotations

import contextlib
import logging
import os
import sys

import pytest

from permlab.runs import console

pty = pytest.importorskip("pty")
ROWS = [{"arm": f"a{n}", **{f"number_of_things_{i}": 0.5 for i in range(12)}} for n in range(3)]


def shown(monkeypatch, tmp_path, *, terminal: bool, **variables: str) -> str:
    """What half a progress bar, a warning and a wide table write to a pty, or to a pipe."""
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm-256color", **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(console, "PLAIN_SECONDS", 0.0)
    monkeypatch.setattr(console, "_console", None)
    reading, writing = pty.openpty() if terminal else os.pipe()
    if terminal:
        import fcntl
        import struct
        import termios

        fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with os.fdopen(writing, "w", encoding="utf-8") as stream, contextlib.redirect_stdout(stream):
        # rich asks the three streams of the process for the size; a width given here is what it finds on a terminal.
        monkeypatch.setattr(os, "get_terminal_size", lambda fd=1: os.terminal_size((80, 24)))
        with console.logging_to(tmp_path / "run.log"):
            with console.Progress("training", 10) as progress:
                progress.update(5, loss=1.5)
                progress.update(6, loss=1.25)
            logging.getLogger("permlab").warning("careful")
            console.print_table(ROWS, "things")
        stream.flush()
        os.set_blocking(reading, False)
        text = b""
        with contextlib.suppress(OSError):
            while part := os.read(reading, 65536):
                text += part
    os.close(reading)
    monkeypatch.setattr(console, "_console", None)
    return text.decode()


def widest(text: str) -> int:
    return max(len(line) for line in text.replace("\r", "").splitlines())


def test_a_terminal_gets_a_bar_that_vanishes_colours_and_folded_tables(monkeypatch, tmp_path):
    text = shown(monkeypatch, tmp_path, terminal=True)
    assert "\x1b[?25l" in text and text.count("\x1b[?25h") == 1, "the cursor comes back"
    assert "6/10" in text and "loss 1.25" in text
    assert "\x1b[33mcareful\x1b[0m" in text
    assert text.count("a2") > 1, "blocks of columns repeat the names of their rows"


def test_no_color_takes_colours_and_leaves_the_bar(monkeypatch, tmp_path):
    import re

    text = shown(monkeypatch, tmp_path, terminal=True, NO_COLOR="1")
    assert "6/10" in text and "\x1b[2K" in text
    assert not re.search(r"\x1b\[[0-9;]*(3[0-8]|4[0-8]|9[0-7])[0-9;]*m", text)


def test_a_dumb_terminal_gets_lines_and_no_escapes(monkeypatch, tmp_path):
    text = shown(monkeypatch, tmp_path, terminal=True, TERM="dumb")
    assert "\x1b" not in text
    assert "training 5/10 loss 1.5 " in text and "training 6/10 loss 1.25 " in text
    assert widest(text) <= 80 and text.count("a2") > 1


def test_force_color_colours_a_pipe_and_makes_no_terminal_of_it(monkeypatch, tmp_path):
    text = shown(monkeypatch, tmp_path, terminal=False, FORCE_COLOR="1")
    assert "\x1b[33mcareful\x1b[0m" in text
    assert "\x1b[?25" not in text and "\x1b[2K" not in text and "\r" not in text, "no bar in a file"
    assert "training 5/10 loss 1.5 " in text
    assert text.count("a2") == 1 and widest(text) > 150, "one line per row, to be searched"


def test_a_pipe_is_plain(monkeypatch, tmp_path):
    text = shown(monkeypatch, tmp_path, terminal=False)
    assert "\x1b" not in text and "training 6/10" in text and "careful" in text


def test_the_streams_are_as_they_were():
    assert not isinstance(sys.stdout, console.Mirror)
