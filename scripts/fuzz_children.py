"""One command of permlab in a fork of this process, watched: `preload(True); in_child(folder, arguments, seconds)`."""

from __future__ import annotations

import contextlib
import http.server
import os
import resource
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fuzz_kinds import QUIET

SECRET = "PLEASE-DO-NOT-READ-ME-83417"
HARD_BYTES = 12 * 2**30
"""Address space of a child: more is not given, so that a bomb does not take the machine with it."""


@dataclass
class Seen:
    """What an input led to."""

    code: int
    seconds: float
    bytes: int
    error: str
    wrong: list[str] = field(default_factory=list)


def command_here(arguments: Sequence[str]) -> int:
    """Run the command line in this process; return its exit code."""
    from permlab.cli import main

    try:
        main(list(arguments))
    except SystemExit as ended:
        return int(ended.code or 0) if not isinstance(ended.code, str) else 1
    return 0


def preload(everything: bool) -> None:
    """Import what the command imports, once; children inherit it."""
    import torch

    torch.set_num_threads(1)
    import permlab.compose
    import permlab.runs.execute
    import permlab.runs.sweep  # noqa: F401
    from permlab import registry

    for name in registry.table("tasks"):
        registry.task(name)
    if everything:
        import datasets
        import matplotlib.pyplot
        import peft
        import sklearn.model_selection
        import transformers
        import transformers.models.auto.modeling_auto

        for name in ("LlamaForCausalLM", "GPT2LMHeadModel", "BertForSequenceClassification", "Trainer"):
            getattr(transformers, name)
        getattr(transformers, "ViTForImageClassification")  # noqa: B009
        _ = datasets.load_dataset, peft.LoraModel, matplotlib.pyplot.figure, sklearn.model_selection.train_test_split
    from permlab.text import assistant_server

    assistant_server._LONGEST_BACKOFF = 0.02  # the pauses between questions are no work
    # Parsing and composing leave tables behind that later calls use.
    with open(os.devnull, "w") as sink, contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        command_here(("task=spt", "run.dry_run=true", *QUIET))


@contextlib.contextmanager
def stand_in(body: Path) -> Iterator[str]:
    """Serve the bytes of a file as the answer to every question, on 127.0.0.1, in a process of its own."""
    door = socket.create_server(("127.0.0.1", 0))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                answer = body.read_bytes() if body.is_file() and body.stat().st_size < 2**26 else b""
            except OSError:
                answer = b""
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    child = os.fork()
    if child == 0:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  clients that go away are no news
        server = http.server.ThreadingHTTPServer(door.getsockname(), Handler, bind_and_activate=False)
        server.socket = door
        server.serve_forever()
    port = door.getsockname()[1]
    door.close()
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def in_child(work: Path, run: Sequence[str], limit: float) -> Seen:
    """Run a command in a fork of this process, in the folder `work`, and wait for its end."""
    out, err = work.parent / "stdout", work.parent / "stderr"
    child = os.fork()
    if child == 0:
        _become(work, out, err)
        code = 70
        try:
            code = command_here(run)
        except BaseException:
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
            code = 1
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
    waited, last = 0.0, time.monotonic()
    while True:
        found, status, used = os.wait4(child, os.WNOHANG)
        if found:
            break
        now = time.monotonic()
        busy, work_done = _state(child)
        waited += 0.0 if busy else now - last
        last = now
        if waited + work_done > limit:
            os.killpg(child, signal.SIGKILL)
            _, status, used = os.wait4(child, 0)
            break
        time.sleep(0.005)
    error = err.read_text(errors="replace")
    if os.waitstatus_to_exitcode(status) == 2:
        error = reason(out.read_text(errors="replace")) + error
    seconds = used.ru_utime + used.ru_stime + waited
    return Seen(os.waitstatus_to_exitcode(status), seconds, used.ru_maxrss * 1024, error)


def _state(child: int) -> tuple[bool, float]:
    """Return (computes or is about to, seconds of work): waiting for a core that others have is not counted."""
    try:
        fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return True, 0.0
    return fields[0] == "R", (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _become(work: Path, out: Path, err: Path) -> None:
    """Make this fork the command's process: its folder, streams, environment and limits."""
    os.setsid()
    os.chdir(work)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", encoding="utf-8", closefd=False) for n in (1, 2))
    home = work.parent / "home"
    os.environ.update(
        HOME=str(home), TMPDIR=str(home), HF_HUB_OFFLINE="1", WANDB_MODE="disabled", TOKENIZERS_PARALLELISM="false",
        PERMLAB_FUZZ_SECRET=SECRET, OMP_NUM_THREADS="1",
    )  # fmt: skip
    tempfile.tempdir = None
    if "datasets" in sys.modules:
        sys.modules["datasets"].config.HF_DATASETS_CACHE = home / "datasets"
    from permlab.runs import console

    console._console = None
    resource.setrlimit(resource.RLIMIT_AS, (HARD_BYTES, HARD_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def reason(output: str) -> str:
    """Return the line of a dry run that says why it cannot start; it stands where the plan stands."""
    return "".join(line + "\n" for line in output.splitlines() if line.startswith("not ready:"))


def in_fork(work: object) -> None:
    """Call `work` in a fork: what it loads and which threads it starts stays there."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            for number in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)
            work()  # type: ignore[operator]
            code = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        finally:
            os._exit(code)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise RuntimeError("the good files could not be made")
