"""What the machine does to a run: places that cannot be written, full disks, few handles, strange terminals.

python scripts/torture_surroundings.py [--tasks ntk,spt] [--only PATTERN]

Every fault meets the tiny run of every task. Survived is: the run goes on and ends `done`; or it ends with exit 2, or 1
when it had begun, one line that says why (at most two lines of 300 characters, no traceback), earlier files as they
were, and a result.json that says how it ended.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import io
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import forked
import tiny_runs
from tally import Tally

DONE, REFUSED, STOPPED = (0,), (2,), (1, 2)
SAID = re.compile(r"^(permlab: |failed: )")


@dataclass
class Fault:
    """`place(folder)` makes where the run goes and returns it; `enter` changes the child; `ends`: codes allowed."""

    name: str
    ends: tuple[int, ...]
    place: Callable[[Path], Path] | None = None
    enter: Callable[[Path], object] | None = None
    privileged: bool = False
    """Needs root."""


def file_as_folder(folder: Path) -> Path:
    (folder / "outputs").write_text("a file")
    return folder / "outputs"


def dangling_link(folder: Path) -> Path:
    (folder / "outputs").symlink_to(folder / "nowhere")
    return folder / "outputs"


def no_permission(folder: Path) -> Path:
    (folder / "outputs").mkdir(mode=0o755)
    return folder / "outputs"


def removed_working_directory(folder: Path) -> None:
    (folder / "gone").mkdir()
    os.chdir(folder / "gone")
    (folder / "gone").rmdir()


def mounted(options: str) -> Callable[[Path], Path]:
    def place(folder: Path) -> Path:
        (folder / "disk").mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder / "disk")]
        subprocess.run(command, check=True, capture_output=True)
        return folder / "disk"

    return place


def backwards(_: Path) -> None:
    """A clock that loses 1,000 seconds every time it is read."""
    read, count = time.time, 0

    def back() -> float:
        nonlocal count
        count += 1
        return read() - 1000 * count

    time.time = back


def closed(*numbers: int) -> Callable[[Path], None]:
    """Standard streams that were closed before python started."""

    def enter(_: Path) -> None:
        for number in numbers:
            setattr(sys, ("stdin", "stdout", "stderr")[number], None)
            os.close(number)

    return enter


def to_device(path: str) -> Callable[[Path], None]:
    def enter(_: Path) -> None:
        os.dup2(os.open(path, os.O_WRONLY), 1)

    return enter


def reader_is_gone(_: Path) -> None:
    end, start = os.pipe()
    os.close(end)
    os.dup2(start, 1)


def variables(**values: str | None) -> Callable[[Path], None]:
    def enter(_: Path) -> None:
        for key, value in values.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value

    return enter


def ascii_terminal(folder: Path) -> None:
    variables(LANG="C", LC_ALL="C", PYTHONIOENCODING="ascii")(folder)
    for name in ("stdout", "stderr"):
        setattr(sys, name, io.TextIOWrapper(io.FileIO(1 if name == "stdout" else 2, "w", closefd=False), "ascii"))


def as_nobody(folder: Path) -> None:
    """Another user, to whom neither the package nor the home directory belongs; only the outputs do."""
    os.chmod(folder, 0o777)
    forked.become_nobody()
    os.environ["HOME"] = "/nonexistent"


def unwritable_temporary(folder: Path) -> None:
    (folder / "tmp").mkdir(mode=0o555)
    variables(TMPDIR=str(folder / "tmp"))(folder)
    tempfile.tempdir = None
    as_nobody(folder)


def missing_temporary(folder: Path) -> None:
    variables(TMPDIR=str(folder / "no such folder"))(folder)
    tempfile.tempdir = None


def nothing(folder: Path) -> Path:
    return folder / "outputs"


FAULTS = (
    Fault("file as folder", REFUSED, file_as_folder),
    Fault("dangling link", REFUSED, dangling_link),
    Fault("name too long", REFUSED, lambda folder: folder / ("n" * 300)),
    Fault("path too long", REFUSED, lambda folder: folder.joinpath(*["n" * 200] * 25)),
    Fault("no permission", REFUSED, no_permission, lambda _: forked.become_nobody(), privileged=True),
    Fault("read-only mount", REFUSED, mounted("ro,size=1m"), privileged=True),
    Fault("removed working directory", REFUSED, nothing, removed_working_directory),
    Fault("full disk at the start", STOPPED, mounted("size=64k"), privileged=True),
    Fault("full disk in mid-run", (0, 1, 2), mounted("size=200k"), privileged=True),
    Fault("disk without inodes", STOPPED, mounted("nr_inodes=9"), privileged=True),
    Fault("files of 40 KiB at most", (0, 1, 2), nothing, lambda _: forked.limit(resource.RLIMIT_FSIZE, 40 * 1024)),
    Fault("32 file handles", (0, 1, 2), nothing, lambda _: forked.limit(resource.RLIMIT_NOFILE, 32)),
    Fault("64 file handles", (0, 1, 2), nothing, lambda _: forked.limit(resource.RLIMIT_NOFILE, 64)),
    Fault("12 file handles", (0, 1, 2), nothing, lambda _: forked.limit(resource.RLIMIT_NOFILE, 12)),
    Fault("clock runs backwards", DONE, nothing, backwards),
    Fault("another user, read-only package", DONE, nothing, as_nobody, privileged=True),
    Fault("standard input closed", DONE, nothing, closed(0)),
    Fault("standard output closed", DONE, nothing, closed(1)),
    Fault("standard error closed", DONE, nothing, closed(2)),
    Fault("all three closed", DONE, nothing, closed(0, 1, 2)),
    Fault("standard output is /dev/full", DONE, nothing, to_device("/dev/full")),
    Fault("reader of the pipe is gone", DONE, nothing, reader_is_gone),
    Fault("COLUMNS=0", DONE, nothing, variables(COLUMNS="0")),
    Fault("COLUMNS=1", DONE, nothing, variables(COLUMNS="1")),
    Fault("no TERM", DONE, nothing, variables(TERM=None)),
    Fault("no HOME", DONE, nothing, variables(HOME=None)),
    Fault("LANG=C, ascii terminal", DONE, lambda folder: folder / "größe", ascii_terminal),
    Fault("no temporary folder", DONE, nothing, missing_temporary),
    Fault("temporary folder not writable", DONE, nothing, unwritable_temporary, privileged=True),
    Fault("umask 077", DONE, nothing, lambda _: os.umask(0o077)),
    Fault("umask 0", DONE, nothing, lambda _: os.umask(0)),
)


def meet(fault: Fault, task: str, folder: Path) -> str:
    """Start the tiny run of a task in a fault; return what is wrong with how it ended, empty when nothing is."""
    os.chmod(folder, 0o755)
    place = (fault.place or nothing)(folder)
    try:
        earlier = {}
        if os.path.isdir(place) and os.access(place, os.W_OK) and fault.name not in ("read-only mount",):
            with contextlib.suppress(OSError):
                (place / "earlier.txt").write_text("kept")
                earlier = {"earlier.txt": b"kept"}
        enter = fault.enter
        end = forked.start(
            tiny_runs.overrides(task, f"run.root={quoted(place)}"), None if enter is None else lambda: enter(folder)
        )
        found = forked.contents(place) if os.path.isdir(place) else {}
        return judge(fault, end, found, earlier)
    finally:
        if (folder / "disk").is_dir():
            subprocess.run(["umount", str(folder / "disk")], capture_output=True, check=False)


def quoted(place: Path) -> str:
    return f"'{place}'"


def judge(fault: Fault, end: forked.End, found: dict[str, bytes], earlier: dict[str, bytes]) -> str:
    """Return what is wrong, empty when nothing is."""
    heard = f"exit {end.code}; stdout ...{end.out[-400:]!r}; stderr {end.err[-400:]!r}"
    if end.code not in fault.ends:
        return heard
    if "Traceback" in end.out + end.err:
        return f"traceback: {heard}"
    said = [line for line in (end.out + end.err).splitlines() if SAID.match(line)]
    if end.code and (not 1 <= len(said) <= 2 or any(len(line) > 300 for line in said)):
        return f"{len(said)} lines say why: {heard}"
    if any(found.get(name) != text for name, text in earlier.items()):
        return "an earlier file was changed"
    results = [json.loads(text) for name, text in found.items() if name.endswith("result.json")]
    states = [result["status"] for result in results]
    if end.code == 0 and states != ["done"]:
        return f"exit 0, but {states}"
    if end.code and any(state != "failed" for state in states):
        return f"exit {end.code}, but {states}: {heard}"
    return ""


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="permlab-around-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", default=",".join(tiny_runs.TINY))
    parser.add_argument("--only", default="*", help="faults with such a name")
    arguments = parser.parse_args()
    tasks = arguments.tasks.split(",")
    started, tally = time.monotonic(), Tally("surroundings")
    forked.preload(tasks)
    skipped = []
    for fault in FAULTS:
        if not fnmatch.fnmatch(fault.name, arguments.only):
            continue
        if fault.privileged and os.geteuid() != 0:
            skipped.append(fault.name)
            continue
        for task in tasks:
            with scratch() as folder:
                wrong = meet(fault, task, folder)
            repeat = f"--tasks {task} --only '{fault.name}'"
            tally.add(fault.name, not wrong, f"{repeat}: {wrong}")
    code = tally.report()
    if skipped:
        print(f"skipped, for they need root: {', '.join(skipped)}")
    print(f"{', '.join(tasks)}; {time.monotonic() - started:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main())
