"""The command of another copy of the package, in a process of its own that answers one command line after another.

    with Copies() as run:
        run(["task=mine"], folder, {**os.environ, "PYTHONPATH": str(copy)}).returncode

Importing the package costs seconds: what needs a copy, but no fresh start, asks here.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

SERVE = """
import contextlib, io, json, os, sys

asked, answer = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
nowhere = os.open(os.devnull, os.O_RDWR)
for stream in range(2):
    os.dup2(nowhere, stream)
from permlab.cli import main
from permlab.runs import console

for line in asked:
    arguments, folder, environment = json.loads(line)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    console._console = None  # made for a stream and a width; every command starts with its own
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as ended:
            code = int(ended.code or 0)
    print(json.dumps([code, out.getvalue(), err.getvalue()]), file=answer, flush=True)
"""


class Copies:
    """Run commands of the copy that PYTHONPATH names; one process at a time, kept until another copy is asked."""

    def __init__(self) -> None:
        self.path = ""
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Copies:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def __call__(
        self, arguments: list[str], folder: Path, environment: dict[str, str], timeout: float = 240
    ) -> subprocess.CompletedProcess[str]:
        """Run one command line in a folder.

        Raises:
            RuntimeError: the process ended, or was killed after `timeout` seconds; with what it said.
        """
        if self.process is None or self.path != environment["PYTHONPATH"]:
            self.end()
            self.path, pipe = environment["PYTHONPATH"], subprocess.PIPE
            self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115  a pipe that nobody reads would fill
            command = [sys.executable, "-c", SERVE]
            self.process = subprocess.Popen(
                command, cwd=folder, env=environment, stdin=pipe, stdout=pipe, stderr=self.said, text=True
            )
        process = self.process
        assert process.stdin is not None and process.stdout is not None
        watch = threading.Timer(timeout, process.kill)
        watch.start()
        try:
            process.stdin.write(json.dumps([arguments, str(folder), environment]) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        finally:
            watch.cancel()
        if not answer:
            self.end()
            self.said.seek(0)
            raise RuntimeError(f"{arguments}: the process of {self.path} ended: {self.said.read()[-2000:]}")
        code, out, err = json.loads(answer)
        return subprocess.CompletedProcess(arguments, code, out, err)
