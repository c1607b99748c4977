"""A report as Markdown: `to_markdown(report, folder)`; figures are links to the report's own PNG files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from permlab.errors import shown
from permlab.reports.document import (
    Block,
    Cards,
    Details,
    Figure,
    Items,
    Lines,
    Link,
    Links,
    Report,
    Section,
    Table,
    Text,
)
from permlab.tables import plain

MOST_ROWS = 60
"""Rows of a table in Markdown; the rest is in its CSV."""


def to_markdown(report: Report, folder: Path) -> str:
    """Return the report as GitHub Markdown. Text of runs is escaped; HTML in it is shown, not rendered."""
    lines = [f"# {escape(report.title)}", "", escape(report.subtitle), ""]
    for section in report.sections:
        lines += section_lines(section, folder, 2)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def section_lines(section: Section, folder: Path, level: int) -> list[str]:
    """Return heading, blocks and sub-sections."""
    lines = ["#" * level + " " + escape(section.title), ""]
    lines += blocks_lines(section.blocks, folder)
    for child in section.children:
        lines += section_lines(child, folder, level + 1)
    return lines


def blocks_lines(blocks: Sequence[Block], folder: Path) -> list[str]:
    """Return the lines of blocks in order."""
    lines: list[str] = []
    for block in blocks:
        if isinstance(block, Table):
            lines += table_lines(block)
        elif isinstance(block, Figure):
            path = block.png or block.svg
            if path is not None:
                lines += [f"![{escape(block.alt)}]({path.relative_to(folder).as_posix()})", "", escape(block.caption)]
        elif isinstance(block, Text):
            lines.append(escape(block.text))
        elif isinstance(block, Links):
            lines.append(escape(block.text) + " " + ", ".join(cell(link) for link in block.links))
        elif isinstance(block, Cards):
            lines.append(" · ".join(f"**{card.count}** {escape(card.label)}" for card in block.cards))
        elif isinstance(block, Items):
            lines += [f"- {escape(item)}" for item in block.items]
        elif isinstance(block, Details):
            lines += [f"**{escape(block.summary)}**", "", *blocks_lines(block.blocks, folder)]
        lines.append("")
    return lines


def table_lines(table: Table) -> list[str]:
    """Return a table with its title; long ones end with a pointer to the CSV."""
    headings = table.headings()
    lines = [f"**{escape(table.title)}** ([csv](tables/{table.name}.csv))", ""]
    lines.append("| " + " | ".join(escape(text) for text in headings.values()) + " |")
    lines.append("|" + " --- |" * len(headings))
    for row in table.rows[:MOST_ROWS]:
        lines.append("| " + " | ".join(cell(row.get(key)) for key in headings) + " |")
    if len(table.rows) > MOST_ROWS:
        lines += ["", f"{len(table.rows) - MOST_ROWS} more rows in tables/{table.name}.csv."]
    if table.note:
        lines += ["", escape(table.note)]
    return lines


def cell(value: Any) -> str:
    """Return the Markdown of one cell."""
    if isinstance(value, Link):
        return f"[{escape(value.text)}]({value.href})"
    if isinstance(value, Lines):
        marks = {True: "✓ ", False: "✗ ", None: ""}
        return "<br>".join(marks[held] + escape(text) for text, held in value.lines)
    return escape(str(value) if not isinstance(value, (bool, int, float)) and value is not None else plain(value))


def escape(text: str) -> str:
    """Make text harmless in Markdown and in the HTML that it becomes."""
    text = shown(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#!])", r"\\\1", re.sub(r"\s+", " ", text))
