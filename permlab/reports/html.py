"""A report as one self-contained page: `to_html(report)`; style, script and figures are inside, nothing is loaded.

The page forbids every request itself (Content-Security-Policy), and all text of runs is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterator, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from permlab.reports.document import Block, Details, Figure, Lines, Link, Links, Report, Section, Table, Text
from permlab.tables import Spread, plain

LARGEST_SVG = 400_000
"""Bytes of a drawing above which its PNG is embedded, if that is smaller."""
LARGEST_PNG = 1_500_000
"""Bytes of a PNG above which it is made smaller."""
WIDEST = 1600
"""Pixels that a large PNG is reduced to."""
MOST_ROWS = 2000
"""Rows of a table in the page; the rest is in its CSV."""
NARROW = 640
"""Pixels up to which a drawing counts as one column wide, and is not blown up to the page's width."""
SHORTEST_WRAPPED = 28
"""Characters from which a cell of text may break into lines."""


def to_html(report: Report) -> str:
    """Return the page."""
    style, script = asset("page.css"), asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    body = "\n".join(section_html(section, 2) for section in report.sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(report.title)}</title>
<style>{style}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<header>
<div><h1>{escape(report.title)}</h1><p>{escape(report.subtitle)}</p></div>
<button type="button" id="theme" aria-pressed="false">Dark</button>
</header>
<div class="page">
<nav aria-label="Contents"><ol>
{index_html(report.sections)}
</ol></nav>
<main id="content" tabindex="-1">
{body}
</main>
</div>
<dialog id="viewer" aria-labelledby="viewer-caption">
<button type="button" id="close">Close</button><img alt=""><p id="viewer-caption"></p>
</dialog>
<script>{script}</script>
</body>
</html>
"""


def asset(name: str) -> str:
    """Read a file that ships beside this module."""
    return (resources.files("permlab.reports") / "assets" / name).read_text(encoding="utf-8")


def index_html(sections: Sequence[Section]) -> str:
    """Return the entries of the left index, two levels deep."""
    entries = []
    for section in sections:
        below = "".join(f"<li>{anchor_html(child)}</li>" for child in section.children)
        entries.append("<li>" + anchor_html(section) + (f"<ol>{below}</ol>" if below else "") + "</li>")
    return "\n".join(entries)


def anchor_html(section: Section) -> str:
    """Return a link to a section of the page."""
    return f'<a href="#{escape(section.id)}">{breakable(section.short or section.title)}</a>'


def breakable(text: str) -> str:
    """Escape text and allow lines to break after slashes and underscores rather than anywhere."""
    return escape(text).replace("/", "/<wbr>").replace("_", "_<wbr>")


def section_html(section: Section, level: int) -> str:
    """Return a section with its heading and everything below it."""
    inner = [f'<section id="{escape(section.id)}"><h{level}>{escape(section.title)}</h{level}>']
    inner += blocks_html(section.blocks)
    inner += [section_html(child, level + 1) for child in section.children]
    return "\n".join([*inner, "</section>"])


def blocks_html(blocks: Sequence[Block]) -> Iterator[str]:
    """Yield the HTML of blocks; neighbouring figures share a grid."""
    figures: list[str] = []
    for block in blocks:
        if isinstance(block, Figure):
            figures.append(figure_html(block))
            continue
        if figures:
            yield f'<div class="figures">{"".join(figures)}</div>'
            figures = []
        yield block_html(block)
    if figures:
        yield f'<div class="figures">{"".join(figures)}</div>'


def block_html(block: Block) -> str:
    """Return the HTML of one block that is not a figure."""
    if isinstance(block, Table):
        return table_html(block)
    if isinstance(block, Text):
        return f"<p>{escape(block.text)}</p>"
    if isinstance(block, Links):
        return f"<p>{escape(block.text)} {', '.join(cell_html(link) for link in block.links)}</p>"
    if isinstance(block, Details):
        inner = "\n".join(blocks_html(block.blocks))
        return f"<details><summary>{escape(block.summary)}</summary>\n{inner}\n</details>"
    return ""


# ---- tables -------------------------------------------------------------------------------------------------------


def table_html(table: Table) -> str:
    """Return a table in a box of its own that scrolls sideways; headings are buttons that sort.

    A `whole` table is laid out as cards on a phone, which takes the meaning from its elements: it spells out its roles.
    """
    headings = table.headings()
    numeric = {key: is_numeric([row.get(key) for row in table.rows]) for key in headings}
    roles, right = table.whole, {True: ' class="n"', False: ""}
    head = "".join(
        f'<th scope="col"{role("columnheader", roles)}{right[numeric[key]]}>'
        f'<button type="button">{escape(text)}</button></th>'
        for key, text in headings.items()
    )
    lines = [row_html(row, headings, numeric, roles) for row in table.rows[:MOST_ROWS]]
    left = len(table.rows) - MOST_ROWS
    more = f"{left} more rows in the CSV. " if left > 0 else ""
    note = f'<p class="note">{more}{escape(table.note)}</p>' if more or table.note else ""
    title, name = escape(table.title), escape(table.name)
    box = "scroll whole" if roles else "scroll"
    return (
        f'<div class="{box}" role="region" aria-label="{title}" tabindex="0">'
        f'<table id="table-{name}"{role("table", roles)}><caption><span>{title} '
        f'<a href="tables/{name}.csv" aria-label="{title} as CSV">csv</a></span></caption>'
        f"<thead{role('rowgroup', roles)}><tr{role('row', roles)}>{head}</tr></thead>"
        f"<tbody{role('rowgroup', roles)}>{''.join(lines)}</tbody></table></div>{note}"
    )


def role(name: str, wanted: bool) -> str:
    """Return a role attribute, or nothing."""
    return f' role="{name}"' if wanted else ""


def row_html(row: dict[str, Any], headings: dict[str, str], numeric: dict[str, bool], roles: bool = False) -> str:
    """Return one row; its first cell is its heading."""
    cells = []
    for number, (key, heading) in enumerate(headings.items()):
        value = row.get(key)
        tag, scope = ("th", ' scope="row"') if number == 0 else ("td", "")
        long = len(str(value or "")) >= SHORTEST_WRAPPED
        classes = "n" if numeric[key] else "w" if long and not isinstance(value, Link) else ""
        if key == "verdict":
            classes = f"{classes} verdict {verdict_class(str(value))}".strip()
        kind = f' class="{classes}"' if classes else ""
        sort = sort_value(value)
        order = f' data-sort="{escape(sort)}"' if sort else ""
        named = f' data-heading="{escape(heading)}"' if roles else ""
        what = role("rowheader" if number == 0 else "cell", roles)
        cells.append(f"<{tag}{scope}{what}{kind}{order}{named}>{cell_html(value)}</{tag}>")
    return f"<tr{role('row', roles)}>{''.join(cells)}</tr>"


def cell_html(value: Any) -> str:
    """Return the HTML of a cell."""
    if isinstance(value, Link):
        return f'<a href="{escape(value.href)}">{escape(value.text)}</a>'
    if isinstance(value, Lines):
        return "<ul>" + "".join(line_html(text, held) for text, held in value.lines) + "</ul>"
    if isinstance(value, str):
        return breakable(value) if "/" in value or len(value) >= SHORTEST_WRAPPED else escape(value)
    return escape(str(value) if isinstance(value, Spread) else plain(value))


def line_html(text: str, held: bool | None) -> str:
    """Return one line of a cell, with a mark that can be read aloud."""
    if held is None:
        return f"<li>{escape(text)}</li>"
    name, mark = ("held", "✓") if held else ("not held", "✗")
    return (
        f'<li><span class="{"yes" if held else "no"}" role="img" aria-label="{name}">{mark}</span> {escape(text)}</li>'
    )


def sort_value(value: Any) -> str:
    """Return what a numeric cell is sorted by, at full precision."""
    if isinstance(value, Spread):
        return repr(value.mean)
    return repr(float(value)) if isinstance(value, (int, float)) else ""


def is_numeric(values: Sequence[Any]) -> bool:
    """Return whether a column holds numbers only."""
    found = [value for value in values if value not in (None, "")]
    return bool(found) and all(isinstance(v, (int, float, Spread)) and not isinstance(v, bool) for v in found)


def verdict_class(verdict: str) -> str:
    """Return the class that colours a verdict."""
    for start, name in (("reproduced", "yes"), ("toy", "toy"), ("partly", "partly"), ("not reproduced", "no")):
        if verdict.startswith(start):
            return name
    return "open"


# ---- figures ------------------------------------------------------------------------------------------------------


def figure_html(figure: Figure) -> str:
    """Return a figure as a button that enlarges it; the drawing is inside the page once."""
    source = data_uri(figure)
    if source is None:
        return ""
    alt, caption = escape(figure.alt), escape(figure.caption)
    size = ' class="small"' if png_width(figure.png) <= NARROW else ""
    return (
        f'<figure id="figure-{escape(figure.name)}"{size}><button type="button" class="zoom" title="Enlarge">'
        f'<img src="{source}" alt="{alt}" decoding="async"></button>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def png_width(path: Path | None) -> int:
    """Return the pixels in a row of a PNG, from its header; 0 when there is none."""
    try:
        with path.open("rb") if path else io.BytesIO() as file:
            head = file.read(24)
    except OSError:
        return 0
    return int.from_bytes(head[16:20], "big") if head[:8] == b"\x89PNG\r\n\x1a\n" else 0


def data_uri(figure: Figure) -> str | None:
    """Return the drawing as a data URI: SVG where it is small enough, else PNG, reduced when very large.

    As an image a drawing can neither run scripts nor load anything, whatever its file holds.
    """
    svg = figure.svg.read_bytes() if figure.svg and figure.svg.is_file() else None
    png = figure.png if figure.png and figure.png.is_file() else None
    if svg is not None and (png is None or len(svg) <= max(LARGEST_SVG, png.stat().st_size)):
        return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
    if png is None:
        return None
    return f"data:image/png;base64,{base64.b64encode(reduced(png)).decode()}"


def reduced(path: Path) -> bytes:
    """Return a PNG's bytes; a very large one is made `WIDEST` pixels wide."""
    data = path.read_bytes()
    if len(data) <= LARGEST_PNG:
        return data
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.thumbnail((WIDEST, 4 * WIDEST))
            buffer = io.BytesIO()
            image.save(buffer, "PNG", optimize=True)
            return buffer.getvalue()
    except (OSError, ValueError, Image.DecompressionBombError):
        return data
