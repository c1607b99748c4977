"""Tables that fit a terminal: what is too wide is folded into blocks of columns, never squeezed until it is unreadable.

    for block in fold(rows, ["k", "ensemble_size", "low"], width=80):
        console.print(block)

Names of columns break at underscores and spaces first. A table that is still too wide is shown in blocks that repeat
the columns which tell its rows apart (leading texts and whole numbers); one or two rows are turned on their side.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from permlab.errors import shortened, shown

Row = dict[str, Any]
SIDEWAYS_ROWS = 2
"""Up to so many rows are shown as columns when they do not fit."""
MOST_KEYS = 3
"""Columns that every block repeats, at most."""
NARROWEST_TEXT = 16
"""Columns that a text keeps when it has to break."""
LONGEST_CELL = 300
"""Characters of a text; the tables of the run have all of it."""


def fold(rows: Sequence[Row], names: Sequence[str], width: int) -> list[Table]:
    """Return tables for a terminal of `width` columns that together show every cell of `rows`, long ones cut.

    What does not fit on it as a whole loses the columns that are blank in every row.
    """
    whole = as_table(rows, names, width)
    if fits(whole, width):
        return [whole]
    names = [name for name in names if any(row.get(name) is not None for row in rows)] or names[:1]
    if len(rows) <= SIDEWAYS_ROWS:
        return [sideways(rows, names)]
    keys = key_columns(rows, names)
    while keys and not fits(as_table(rows, keys, width), width * 3 // 4):
        keys = keys[:-1]
    blocks: list[list[str]] = []
    for name in (name for name in names if name not in keys):
        if blocks and fits(as_table(rows, [*blocks[-1], name], width), width):
            blocks[-1].append(name)
        else:
            blocks.append([*keys, name])
    return [as_table(rows, sorted(blocks[0], key=list(names).index), width)] + [
        as_table(rows, block, width) for block in blocks[1:]
    ]


def key_columns(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    """Return the columns that tell rows apart: of the leading texts and whole numbers those that a row needs for it."""
    keys: list[str] = []
    told = 1
    for name in names:
        measured = any(isinstance(row.get(name), float) for row in rows) or all(row.get(name) is None for row in rows)
        if measured or len(keys) == MOST_KEYS or told == len(rows):
            break
        more = len({tuple(str(row.get(key)) for key in (*keys, name)) for row in rows})
        if more > told:
            keys, told = [*keys, name], more
    return keys or [*names[:1]]


def as_table(rows: Sequence[Row], names: Sequence[str], width: int) -> Table:
    """Return rows as a table: numbers to the right and whole, texts to the left, broken only where they must be."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in names:
        values = [row.get(name) for row in rows]
        if is_numeric(values):
            table.add_column(broken(name), justify="right", no_wrap=True)
        else:
            longest = max((len(str(value)) for value in values), default=0)
            most = max(NARROWEST_TEXT, width // 2)
            table.add_column(broken(name), overflow="fold", max_width=most if longest > most else None)
    for row in rows:
        table.add_row(*(cell(row.get(name)) for name in names))
    return table


def sideways(rows: Sequence[Row], names: Sequence[str]) -> Table:
    """Return a table with a line per column and a column per row."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    for _ in rows:
        table.add_column(overflow="fold")
    for name in names:
        table.add_row(name, *(cell(row.get(name)) for row in rows))
    return table


def fits(table: Table, width: int) -> bool:
    """Whether a table needs no more than `width` columns."""
    return ruler().measure(table).maximum <= width


def ruler() -> Console:
    """A console of any width, to measure with; without a height rich takes a dumb terminal to be 80 columns wide."""
    return Console(width=10_000, height=100)


def broken(name: str) -> str:
    """Return a column's name with line ends at its underscores and spaces, unless it is short."""
    if len(name) <= 8:
        return name
    lines: list[str] = []
    for part in re.findall(r"[^_ ]+[_ ]*|[_ ]+", name):
        if lines and len(lines[-1]) + len(part.rstrip()) <= 8:
            lines[-1] += part
        else:
            lines.append(part)
    return "\n".join(line.rstrip() for line in lines)


def is_numeric(values: Sequence[Any]) -> bool:
    """Whether a column holds numbers and blanks only."""
    return all(isinstance(value, (int, float)) or value is None for value in values)


def cell(value: Any) -> Any:
    """Return a value as it is printed: three decimals, four figures where these say nothing, `-` for none."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 1000 and (abs(value) >= 1e-3 or value == 0) else f"{value:.4g}"
    return Text(shown(shortened(str(value), LONGEST_CELL)))
