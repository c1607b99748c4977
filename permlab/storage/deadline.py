"""Calls that may hang, with a deadline: `within(3.0, ask_the_hub)`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def within(seconds: float, call: Callable[[], T]) -> T:
    """Return what `call` returns, or raise what it raises; resolving a name can hang where no time limit reaches.

    Args:
        seconds: after which the call is left alone, in a thread that does not keep the process alive.
        call: without arguments.

    Raises:
        TimeoutError: it has not ended in time.
    """
    answer: list[T] = []
    problem: list[BaseException] = []
    done = threading.Event()

    def run() -> None:
        try:
            answer.append(call())
        except BaseException as error:
            problem.append(error)
        finally:
            done.set()

    threading.Thread(target=run, daemon=True).start()
    if not done.wait(seconds):
        raise TimeoutError(f"no answer within {seconds:g} s")
    if problem:
        raise problem[0]
    return answer[0]
