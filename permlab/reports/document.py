"""What a report consists of, before it becomes a page or Markdown: `Table("runs", "Runs", [{"seed": 0}])`.

A cell of a table is None, a string, a number, a `Spread`, a `Link` or a `Lines`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from permlab.tables import Row


@dataclass(frozen=True)
class Link:
    """Text that leads to a file, given relative to the report's folder."""

    text: str
    href: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Lines:
    """Several lines in one cell; each may be marked as held (True), not held (False) or neither (None)."""

    lines: tuple[tuple[str, bool | None], ...]

    def __str__(self) -> str:
        return "; ".join(text for text, _ in self.lines)


@dataclass
class Table:
    """Rows of one table. `columns` chooses and names the columns that are shown; the CSV holds all.

    `whole`: the page shows all of it at once, where long tables get a box of their own that scrolls.
    """

    name: str
    title: str
    rows: Sequence[Row]
    columns: dict[str, str] | None = None
    note: str = ""
    whole: bool = False

    def headings(self) -> dict[str, str]:
        """Return key -> heading of the shown columns; columns without any value are left out."""
        keys = self.columns or {key: key.replace("_", " ") for row in self.rows for key in row}
        return {key: text for key, text in keys.items() if any(row.get(key) not in (None, "") for row in self.rows)}


@dataclass
class Figure:
    """A drawing in the report's folder; `alt` says in words what it shows."""

    name: str
    alt: str
    caption: str
    png: Path | None
    svg: Path | None


@dataclass
class Text:
    """One paragraph."""

    text: str


@dataclass
class Links:
    """A line of links to files."""

    text: str
    links: Sequence[Link]


@dataclass(frozen=True)
class Card:
    """One number that is seen at once, with what it counts."""

    count: int
    label: str


@dataclass
class Cards:
    """A row of numbers at the top."""

    cards: Sequence[Card]


@dataclass
class Items:
    """A list of short texts."""

    items: Sequence[str]


@dataclass
class Details:
    """Blocks that are folded away until asked for."""

    summary: str
    blocks: Sequence[Block]


Block = Table | Figure | Text | Links | Details | Cards | Items


@dataclass
class Section:
    """A heading with blocks, and sections below it. `short` is what the index says, by default the title."""

    id: str
    title: str
    blocks: list[Block] = field(default_factory=list)
    children: list[Section] = field(default_factory=list)
    short: str = ""


@dataclass
class Report:
    """The whole: title, one line on what was read, and sections."""

    title: str
    subtitle: str
    sections: list[Section] = field(default_factory=list)
    refresh: int | None = None
    """Seconds after which an open page reads itself again, while it is being rewritten."""
