"""One console for logging, progress and tables: rich on a terminal, plain lines through a pipe."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from permlab.errors import as_lines, shown
from permlab.runs.folding import cell, fold, is_numeric

LOGGER = logging.getLogger("permlab")
PLAIN_SECONDS = 5.0
"""Seconds between progress lines when the output is not a terminal."""
PLAIN_WIDTH = 1000
"""Columns of a table when the output is not a terminal."""
PLAIN_HEIGHT = 25
PROSE_WIDTH = 80
"""The same for prose, which is read rather than searched; a terminal may be wider."""
MOST_PROSE = 100
"""Columns of prose on the widest terminal."""

_console: Console | None = None


class Screen(Console):
    """A console on which text from files and command lines neither acts nor hides."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a text, and a cell of a table, as it may be shown."""
        return super().render_str(shown(text), **options)


def console() -> Console:
    """Return the shared console; it writes to standard output."""
    global _console
    if _console is None:
        mirror: Any = Mirror()  # has what rich asks of a text file
        asked = os.environ.get("COLUMNS", "")
        # An empty or zero width is no width. Through a pipe nobody sees a right margin; wrapped tables would be harder
        # to read and to grep.
        width = int(asked) if asked.isdigit() and int(asked) > 0 else None if mirror.isatty() else PLAIN_WIDTH
        # Rich believes a width on a dumb terminal only together with a height.
        height = None if width is None else PLAIN_HEIGHT
        _console = Screen(file=mirror, highlight=False, soft_wrap=True, width=width, height=height)
    return _console


def watched() -> bool:
    """Whether a terminal shows the output: FORCE_COLOR colours a pipe, and makes no terminal of it."""
    return bool(console().file.isatty())


def reading_width() -> int:
    """Columns of prose: those of the terminal, as long as lines of that length are read with ease."""
    return min(console().width, MOST_PROSE if watched() else PROSE_WIDTH)


class Mirror:
    """Standard output as a mirror of the run: when nobody reads it any more, or its disk is full, the run goes on.

    What cannot be written is dropped (run.log has everything); letters that the terminal's encoding lacks are escaped.
    """

    def __init__(self) -> None:
        self.lost = False

    @property
    def stream(self) -> Any:
        """Standard output itself: while a progress bar is shown rich puts a file there that prints through us."""
        return getattr(sys.stdout, "rich_proxied_file", sys.stdout)

    @property
    def encoding(self) -> str:
        """The encoding of standard output."""
        return getattr(self.stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Write what can be written."""
        try:
            self.stream.write(text)
        except UnicodeEncodeError:
            self.stream.write(text.encode(self.encoding, "backslashreplace").decode(self.encoding))
        except (OSError, ValueError, AttributeError):  # closed, full, or there is none
            self._lose()
        return len(text)

    def flush(self) -> None:
        """Flush what can be flushed."""
        try:
            self.stream.flush()
        except (OSError, ValueError, AttributeError):
            self._lose()

    def isatty(self) -> bool:
        """Whether a person sees it."""
        try:
            return not self.lost and self.stream.isatty()
        except (ValueError, AttributeError):
            return False

    def fileno(self) -> int:
        """The descriptor of standard output."""
        return self.stream.fileno()

    def _lose(self) -> None:
        """Point standard output at nothing, so that neither we nor python at its exit stumble over it again."""
        if self.lost:
            return
        self.lost = True
        # Not closed: what python still holds in its buffer goes to the null device at exit.
        with suppress(OSError, ValueError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())


class ConsoleHandler(logging.Handler):
    """Prints log lines on the shared console, so that they do not tear a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record; markup in user text is not interpreted."""
        style = "yellow" if record.levelno == logging.WARNING else "red" if record.levelno > logging.WARNING else None
        # A traceback belongs into run.log; the console gets the message only.
        console().print(said(record), style=style, markup=False)


def said(record: logging.LogRecord) -> str:
    """Return a log line fit to be shown. Warnings and errors carry words of files and are cut; paths stay whole."""
    text = record.getMessage()
    return as_lines(text) if record.levelno >= logging.WARNING else shown(text)


def fit(record: logging.LogRecord) -> bool:
    """Make a record fit to be shown before any handler sees it, whoever put that handler there."""
    record.msg, record.args = said(record), None
    return True


LOGGER.addFilter(fit)


class LogLine(logging.Formatter):
    """Time, level and message of a line in run.log."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
        self.converter = time.gmtime

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line with its message fit to be shown."""
        record.message = said(record)
        return super().formatMessage(record)


class LogFile(logging.FileHandler):
    """run.log; when its disk is full the run goes on, or ends, for reasons of its own."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing: logging would print a traceback per line."""


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Log to the console and to a plain text file; handlers are removed again, so that jobs of a sweep do not mix."""
    to_file = LogFile(path, encoding="utf-8", errors="backslashreplace")
    to_file.setFormatter(LogLine())
    handlers: list[logging.Handler] = [to_file, ConsoleHandler()]
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    for handler in handlers:
        LOGGER.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            LOGGER.removeHandler(handler)
            handler.close()


class Progress:
    """Progress of one loop: `update(done, loss=0.1)` with the absolute count."""

    def __init__(self, description: str, total: int, done: int = 0) -> None:
        self.description, self.total = description, max(total, 1)
        self.started, self.first, self.done = time.monotonic(), done, done
        self.last_line = self.started
        self.bar: Any = None
        self.task: Any = None

    def __enter__(self) -> Progress:
        # A dumb terminal (TERM=dumb, an editor's shell) cannot erase a bar: rich would show nothing at all.
        if watched() and not console().is_dumb_terminal:
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self.bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[fields]}"),
                TimeRemainingColumn(),
                console=console(),
                transient=True,
            )
            self.bar.start()
            self.task = self.bar.add_task(self.description, total=self.total, completed=self.done, fields="")
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def update(self, done: int, **fields: float) -> None:
        """Show that `done` of `total` are done, with numbers such as loss; the rate and ETA are ours."""
        self.done = done
        now = time.monotonic()
        rate = (done - self.first) / max(now - self.started, 1e-9)
        shown = " ".join(f"{key} {value:.4g}" for key, value in fields.items())
        if self.bar is not None:
            self.bar.update(self.task, completed=done, fields=f"{shown} {rate:.3g}/s")
        elif now - self.last_line >= PLAIN_SECONDS:
            self.last_line = now
            eta = (self.total - done) / rate if rate > 0 else float("inf")
            counted = f"{self.description} {done}/{self.total} {shown}".rstrip()
            line = f"{counted} rate {rate:.3g}/s eta {eta:.0f}s"
            if LOGGER.handlers:
                LOGGER.info("%s", line)
            else:  # before a run, where there is no run.log
                console().print(line, markup=False)


def print_table(
    rows: list[dict[str, Any]], title: str | None = None, columns: list[str] | None = None, *, prose: bool = False
) -> None:
    """Print rows as a table: folded to the width of a terminal, plain columns through a pipe.

    Args:
        rows: dictionaries from column to value.
        title: printed above.
        columns: which, in this order; default all.
        prose: wrap long cells to `PROSE_WIDTH` through a pipe too: they are read rather than searched.
    """
    if not rows:
        return
    names = columns or list(dict.fromkeys(key for row in rows for key in row))
    if title:
        console().print(title, style="italic", markup=False)
    if watched():
        for block in fold(rows, names, console().width):
            console().print(block)
        return
    table = Table(box=None, pad_edge=False)
    for name in names:
        numeric = is_numeric([row.get(name) for row in rows])
        # The first column names the rows: others give way before a name is cut.
        whole = numeric or (prose and name == names[0])
        table.add_column(name, justify="right" if numeric else "left", no_wrap=whole)
    for row in rows:
        table.add_row(*(cell(row.get(name)) for name in names))
    with console().capture() as captured:
        console().print(table, width=min(console().width, PROSE_WIDTH) if prose else None)
    for line in captured.get().splitlines():  # columns are padded up to the width: not wanted in a file
        console().print(line.rstrip(), markup=False)
