"""Help and lists on terminals of several widths: `permlab --help`, `permlab ls methods`, `permlab show`."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from unittest import mock

import pytest

from permlab import shipped
from permlab.cli import main
from permlab.runs import console

pty = pytest.importorskip("pty")
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
ASKED = [
    ["--help"],
    *([f"task={name}", "--help"] for name in shipped.names("task")),
    ["model=llama-1b", "dataset=jsonl", "hardware=gpu", "run", "report", "--help"],
    ["tracker=[wandb,tensorboard]", "--help"],
    ["experiment=merge/rebasin", "--help"],
    ["push", "--help"],
    ["ls"],
    ["ls", "methods"],
    ["show", "task=merge", "seed=3"],
    ["show", "experiment=lora_lego/prune"],
]


@pytest.fixture
def on_terminal(environment):
    """Return a function that runs the command on a pseudo-terminal of so many columns: what is seen, but colours."""

    def run(width: int, *arguments: str) -> str:
        reading, writing = pty.openpty()
        seen: list[bytes] = []

        def read() -> None:
            with contextlib.suppress(OSError):
                while part := os.read(reading, 65536):
                    seen.append(part)

        reader = threading.Thread(target=read)
        reader.start()
        console._console = None
        # rich asks the three streams of the process for the size, which are not this terminal.
        size = mock.patch.object(os, "get_terminal_size", lambda fd=1: os.terminal_size((width, 24)))
        variables = {**environment, "TERM": "xterm-256color"}
        with (
            size,
            mock.patch.dict(os.environ, variables, clear=True),
            os.fdopen(writing, "w", encoding="utf-8") as stream,
            contextlib.redirect_stdout(stream),
            pytest.raises(SystemExit) as ended,
        ):
            main(list(arguments))
        console._console = None
        reader.join(10)
        os.close(reading)
        assert ended.value.code == 0
        return ESCAPES.sub("", b"".join(seen).decode()).replace("\r", "")

    return run


@pytest.mark.parametrize("width", [60, *(pytest.param(width, marks=pytest.mark.slow) for width in (80, 100))])
@pytest.mark.parametrize("arguments", ASKED, ids=" ".join)
def test_nothing_is_wider_than_the_terminal(on_terminal, arguments, width):
    lines = on_terminal(width, *arguments).splitlines()
    assert [line for line in lines if len(line) > width] == []
    assert max(map(len, lines)) > width // 2, "and the width is used"


@pytest.mark.parametrize("width", [60, 100])
def test_folded_help_says_what_unfolded_help_says(on_terminal, permlab, width):
    for arguments in (["--help"], ["task=merge", "--help"], ["tracker=mlflow", "--help"]):
        shown, plain = on_terminal(width, *arguments), permlab(*arguments).stdout
        assert "".join(shown.split()) == "".join(plain.split())
