"""A report as one self-contained page: `to_html(report)`; style, script and figures are inside, nothing is loaded.

The page forbids every request itself (Content-Security-Policy), and all text of runs is escaped.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from permlab.errors import shown
from permlab.reports.document import Block, Figure, Lines, Link, Report, Table
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
VERDICT_CLASSES = {
    **{"reproduced": "yes", "holds": "yes", "toy": "toy", "partly": "partly"},
    **{"not reproduced": "no", "does not hold": "no"},
}
"""How a verdict begins -> the class that colours it."""


def to_html(report: Report) -> str:
    """Return the page."""
    style, script = asset("page.css"), asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    page = environment().get_template("page.html")
    return page.render(report=report, style=Markup(style), script=Markup(script), policy=policy).lstrip()


def asset(name: str) -> str:
    """Read a file that ships beside this module."""
    return (resources.files("permlab.reports") / "assets" / name).read_text(encoding="utf-8")


@functools.cache
def environment() -> Environment:
    """Return what the template sees beside the report; text is escaped, and a name that is not there is an error."""
    made = Environment(
        loader=PackageLoader("permlab.reports", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=harmless,
    )
    made.globals |= {"most_rows": MOST_ROWS}
    made.tests |= {
        "link": lambda value: isinstance(value, Link),
        "lines": lambda value: isinstance(value, Lines),
        "narrow": lambda figure: png_width(figure.png) <= NARROW,
    }
    for function in (verdict_class, breakable, cell_class, data_uri, neighbours, numeric_columns, sort_value, words):
        made.filters[function.__name__] = function
    return made


def harmless(value: Any) -> Any:
    """Return what the template shows; in text of runs nothing hides, turns the direction of writing, or is a secret."""
    return shown(value) if type(value) is str else value


def breakable(text: str) -> Markup:
    """Escape text and allow lines to break after slashes and underscores rather than anywhere."""
    return Markup(escape(shown(text)).replace("/", Markup("/<wbr>")).replace("_", Markup("_<wbr>")))


def neighbours(blocks: Sequence[Block]) -> Iterator[tuple[str, list[Block]]]:
    """Yield (kind, blocks): neighbours of one kind together, because neighbouring figures share a grid."""
    for kind, members in itertools.groupby(blocks, lambda block: type(block).__name__):
        yield kind, list(members)


# ---- cells --------------------------------------------------------------------------------------------------------


def numeric_columns(table: Table, headings: Iterable[str]) -> set[str]:
    """Return the columns that hold numbers only."""
    return {key for key in headings if is_numeric([row.get(key) for row in table.rows])}


def cell_class(value: Any, key: str, numeric: bool) -> str:
    """Return the classes of a cell: `n` a number, `w` text that may break into lines, and what colours a verdict."""
    long = len(str(value or "")) >= SHORTEST_WRAPPED
    classes = ["n"] if numeric else ["w"] if long and not isinstance(value, Link) else []
    return " ".join([*classes, *(["verdict", verdict_class(str(value))] if key == "verdict" else [])])


def words(value: Any) -> str | Markup:
    """Return the text of a cell; long text and paths may break into lines."""
    if isinstance(value, str):
        return breakable(value) if "/" in value or len(value) >= SHORTEST_WRAPPED else value
    return str(value) if isinstance(value, Spread) else plain(value)


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
    for start, name in VERDICT_CLASSES.items():
        if verdict.startswith(start):
            return name
    return "open"


# ---- figures ------------------------------------------------------------------------------------------------------


def png_width(path: Path | None) -> int:
    """Return the pixels in a row of a PNG, from its header; 0 when there is none."""
    try:
        with path.open("rb") if path else io.BytesIO() as file:
            head = file.read(24)
    except OSError:
        return 0
    return int.from_bytes(head[16:20], "big") if head[:8] == b"\x89PNG\r\n\x1a\n" else 0


def data_uri(figure: Figure) -> Markup | None:
    """Return the drawing as a data URI: SVG where it is small enough, else PNG, reduced when very large.

    As an image a drawing can neither run scripts nor load anything, whatever its file holds.
    """
    svg = figure.svg.read_bytes() if figure.svg and figure.svg.is_file() else None
    png = figure.png if figure.png and figure.png.is_file() else None
    if svg is not None and (png is None or len(svg) <= max(LARGEST_SVG, png.stat().st_size)):
        return Markup(f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}")
    if png is None:
        return None
    return Markup(f"data:image/png;base64,{base64.b64encode(reduced(png)).decode()}")


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
