"""Who works in a folder: `with hold(run_dir): ...` keeps a second process out; `holder(run_dir)` names a live one.

The lock is a file with host, process, start and a heartbeat. On one machine the operating system's own file lock
decides: it goes with the process, however that ends. From another machine, where such locks may not reach, a heartbeat
younger than `STALE_SECONDS` counts as alive.
"""

from __future__ import annotations

import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from permlab.errors import UserError

NAME = "run.lock"
BEAT_SECONDS = 10.0
"""Between two heartbeats."""
STALE_SECONDS = 60.0
"""A heartbeat of another machine that is older than this belongs to a process that is gone."""


@dataclass(frozen=True)
class Holder:
    """The process that works in a folder: `started` in seconds since 1970."""

    host: str
    pid: int
    started: float

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.started))
        return f"process {self.pid} on {self.host} since {since}"


class Lock:
    """A lock that is held; made by `hold`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self._descriptor = path, descriptor
        self._stop = threading.Event()
        me = {"host": platform.node(), "pid": os.getpid(), "started": time.time()}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(me).encode(), 0)
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            with suppress(OSError):
                os.utime(self._descriptor)

    @property
    def held(self) -> bool:
        """Whether the folder and the lock in it are still ours; not so when somebody removed or replaced them."""
        try:
            return os.stat(self.path).st_ino == os.fstat(self._descriptor).st_ino
        except OSError:
            return False

    def release(self) -> None:
        """Give the folder free."""
        self._stop.set()
        if self.held:
            with suppress(OSError):
                self.path.unlink()
        os.close(self._descriptor)


class Lent(Lock):
    """The lock of a folder that another process holds for this one."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._inode = self.path.stat().st_ino

    @property
    def held(self) -> bool:
        """Whether the lock in the folder is still the one that was lent."""
        try:
            return self.path.stat().st_ino == self._inode
        except OSError:
            return False

    def release(self) -> None:
        """Leave it to its holder."""


@contextmanager
def hold(folder: Path) -> Iterator[Lock]:
    """Hold the lock of a folder while the block runs; a lock whose process is gone is taken over.

    Raises:
        UserError: another live process holds it; the message says which.
        OSError: the folder cannot be written.
    """
    path = folder / NAME
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        locked = _try_lock(descriptor)
        if locked and not _same_file(path, descriptor):
            os.close(descriptor)  # its holder has just removed it: that file is no longer the lock
            continue
        found = _read(descriptor)
        if not locked or (found and _fresh_elsewhere(found, descriptor)):
            os.close(descriptor)
            raise UserError(f"{folder} is in use by {found or 'another process'}; wait for it or stop it first")
        break
    lock = Lock(path, descriptor)
    try:
        yield lock
    finally:
        lock.release()


def holder(folder: Path) -> Holder | None:
    """Return the live process that works in a folder, or None: nobody does, or its process is gone."""
    try:
        descriptor = os.open(folder / NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        found = _read(descriptor)
        if not _try_lock(descriptor, shared=True):
            return found or Holder("this machine", 0, os.fstat(descriptor).st_mtime)
        return found if found and _fresh_elsewhere(found, descriptor) else None
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, shared: bool = False) -> bool:
    """Whether the operating system's lock could be had; file systems without locks say yes."""
    try:
        import fcntl
    except ImportError:  # not on this system: the heartbeat alone decides
        return True
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _same_file(path: Path, descriptor: int) -> bool:
    try:
        return os.stat(path).st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


def _read(descriptor: int) -> Holder | None:
    try:
        found = json.loads(os.pread(descriptor, 4096, 0))
        return Holder(str(found["host"])[:80], int(found["pid"]), float(found["started"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _fresh_elsewhere(found: Holder, descriptor: int) -> bool:
    """Whether a process of another machine gave a sign of life lately."""
    return found.host != platform.node() and time.time() - os.fstat(descriptor).st_mtime < STALE_SECONDS
