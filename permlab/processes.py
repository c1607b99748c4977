"""Parts that do not depend on each other, worked on side by side: by threads here, or `hardware.processes=4`.

    with in_order(work, items) as results: ...      # one result after the other, in the order of items
    results = side_by_side(work, items, cost, done)

Threads are the way where one thread of torch is kept busy by one item; processes are for what Python itself slows down,
and for large parts. Either way an item gets one torch thread, so the numbers depend neither on the way nor on how many
work at once. Processes are started when there is work for them and stay until `end`.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooEarly
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any, TypeVar

import torch

Item = TypeVar("Item")
T = TypeVar("T")
LOOK_SECONDS = 0.2
"""Between two looks whether to stop, while processes work."""
LAST_SECONDS = 5.0
"""For processes to end by themselves."""


class ProcessLostError(RuntimeError):
    """A process that worked for this one is gone: killed, for lack of memory perhaps."""


@dataclass
class _Division:
    count: int = 1
    prepare: Callable[[], Any] | None = None
    pool: ProcessPoolExecutor | None = None
    stop: Any = None


_division = _Division()


def divide(count: int, prepare: Callable[[], Any] | None = None) -> None:
    """Have parts worked on by so many processes from now on; with 1, by threads of this one.

    Args:
        count: of processes, beside this one.
        prepare: called in each of them before its first part; picklable.
    """
    end()
    _division.count, _division.prepare = count, prepare


def count() -> int:
    """Return how many processes parts are divided between."""
    return _division.count


def stopping() -> bool:
    """Whether the process that this one works for wants to stop."""
    return _division.stop is not None and bool(_division.stop.is_set())


def end() -> None:
    """End the processes: what they were working on is left unfinished when it takes them long."""
    pool, stop = _division.pool, _division.stop
    _division.pool, _division.stop, _division.count, _division.prepare = None, None, 1, None
    if pool is None:
        return
    stop.set()
    before = set(multiprocessing.active_children())
    closing = threading.Thread(target=pool.shutdown, kwargs={"cancel_futures": True}, daemon=True)
    closing.start()
    closing.join(LAST_SECONDS)
    for each in before:
        each.kill()
    closing.join()


@contextmanager
def in_order(work: Callable[[Item], T], items: Sequence[Item]) -> Iterator[Iterator[T]]:
    """Results of `work` in the order of items, worked on beside each other by one torch thread each.

    Also a single item gets one torch thread only, so that sums are rounded alike however many work at once.

    Raises:
        ProcessLostError: a process is gone.
    """
    with executor(len(items)) as pool:
        futures = [submitted(pool, functools.partial(alone, work), item) for item in items]
        yield (value_of(future) for future in futures)


def side_by_side(
    work: Callable[[Item], T], items: Sequence[Item], cost: Callable[[Item], float], done: Callable[[int], None]
) -> list[T]:
    """Map over items, the dearest first, one torch thread each; results in the order of items.

    Args:
        work: of one item; picklable where processes work.
        items: any.
        cost: which items take longest.
        done: called with the number of finished items; may raise to stop.

    Raises:
        ProcessLostError: a process is gone.
    """
    order = sorted(range(len(items)), key=lambda index: -cost(items[index]))
    results: dict[int, T] = {}
    with executor(max(1, min(torch.get_num_threads(), len(items)))) as pool:
        futures = {index: submitted(pool, functools.partial(alone, work), items[index]) for index in order}
        try:
            for number, index in enumerate(order, start=1):
                results[index] = value_of(futures[index])
                done(number)
        except BaseException:
            for future in futures.values():
                future.cancel()
            raise
    return [results[index] for index in range(len(items))]


def apart(work: Callable[[Item], T], items: Sequence[Item], look: Callable[[], bool] | None = None) -> Iterator[T]:
    """Yield results in the order of items, each worked on with the threads that its process has.

    Args:
        work: of one item; picklable.
        items: any.
        look: whether to stop, asked now and then; the processes hear of it (`stopping`).

    Raises:
        ProcessLostError: a process is gone.
    """
    with executor(len(items)) as pool:
        futures = [submitted(pool, work, item) for item in items]
        try:
            for future in futures:
                yield value_of(future, look)
        finally:
            for future in futures:
                future.cancel()


class Packed(bytes):
    """A call or its result, on its way between processes. Queues of multiprocessing would share the memory of tensors
    instead: two processes that were handed the same one would write into it."""


def submitted(pool: Executor, work: Callable[[Item], T], item: Item) -> Future[Any]:
    """Have a call worked on."""
    return pool.submit(unpacked, Packed(pickle.dumps((work, item)))) if count() > 1 else pool.submit(work, item)


def unpacked(call: Packed) -> Packed:
    """Carry out a call in a process of its own."""
    work, item = pickle.loads(call)
    return Packed(pickle.dumps(work(item)))


def value_of(future: Future[Any], look: Callable[[], bool] | None = None) -> Any:
    """Wait for a result."""
    while True:
        try:
            found = future.result(LOOK_SECONDS if look else None)
            return pickle.loads(found) if isinstance(found, Packed) else found
        except BrokenProcessPool:
            raise ProcessLostError(
                f"one of the {count()} processes is gone, killed perhaps; continue with permlab resume"
            ) from None
        except TooEarly:
            if future.done():  # the work itself has raised it
                raise
            if look is not None and look() and _division.stop is not None:
                _division.stop.set()


@contextmanager
def executor(workers: int) -> Iterator[Executor]:
    """What works on items: the processes, where there are some, else so many threads."""
    if count() > 1:
        if _division.pool is None:
            context = multiprocessing.get_context("spawn")
            _division.stop = context.Event()
            given = (_division.stop, _division.prepare)
            _division.pool = ProcessPoolExecutor(count(), context, initializer=begin, initargs=given)
        yield _division.pool
        return
    with one_torch_thread(), ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield pool


def alone(work: Callable[[Item], T], item: Item) -> T:
    """Work on an item with one torch thread."""
    with one_torch_thread():
        return work(item)


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Small products of concurrent workers would fight for the cores if each used all of them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def begin(stop: Any, prepare: Callable[[], Any] | None) -> None:
    """Begin a process: stops are for its parent to hear, and it does not outlive that."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    _division.stop = stop
    parent = multiprocessing.parent_process()

    def leave() -> None:
        wait([parent.sentinel])  # type: ignore[union-attr]
        os._exit(1)

    threading.Thread(target=leave, name="parent", daemon=True).start()
    if prepare is not None:
        prepare()
