"""Standard streams as they come, closed or of few letters: `permlab ls >&-`, `PYTHONIOENCODING=ascii permlab ls`."""

from __future__ import annotations

import os
import sys
from contextlib import suppress


def prepare_standard_streams() -> None:
    """Open the null device where standard streams are closed; escape the letters that their encoding lacks.

    Otherwise the next files that are opened, the metrics of a run among them, get their numbers, and what a library
    prints lands there.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free, which is this one
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # none, closed, or not a file
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
