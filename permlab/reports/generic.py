"""Section of a task that this package knows nothing of: its tables and its figures, as the runs left them."""

from __future__ import annotations

from permlab.reports.collection import Collection, newest_tables, own_figures, words
from permlab.reports.document import Block
from permlab.reports.writer import Output

MOST_TABLES = 6
MOST_ROWS = 200


def blocks(collection: Collection, out: Output) -> list[Block]:
    """Tables (short ones) and figures of the newest runs."""
    names = []
    for group in collection.shown(out):
        names += [n for n in group.newest.files("tables", ".csv") if len(group.newest.table(n)) <= MOST_ROWS]
    chosen = list(dict.fromkeys(names))[:MOST_TABLES]
    return [*newest_tables(collection, out, chosen, {}), *own_figures(collection, out, ["*"], words)]
