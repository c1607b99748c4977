"""What there is, as tables: `permlab ls`, `permlab ls tasks models`, `permlab ls methods`, `permlab ls combines`.

Options of the command line come from the YAML files of conf/ (`permlab.shipped`), methods from the rows of
`registry.TABLES`; those of plugins are among both. The tables of the pages are these rows as Markdown (`markdown`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from permlab import registry, shipped
from permlab.errors import UserError, did_you_mean
from permlab.rules import CLAIM_BY
from permlab.tables import Row

GROUPS = {group if group in ("hardware", "debug") else f"{group}s": group for group in shipped.GROUPS}
"""What `permlab ls` prints -> the config group whose options it lists."""
CLAIMED = {"paper": "claims of papers", "permlab": "claims of our own"}
"""`experiment.claim_by` -> what the table says."""
METHODS = "methods"
"""Stands for every table of methods."""


def method_tables() -> list[str]:
    """Return the tables of `registry.TABLES` whose rows are no options of a config group."""
    return [name for name in registry.TABLES if name not in GROUPS]


def listed(wanted: Sequence[str]) -> list[tuple[str, list[Row]]]:
    """Return (title, rows) of groups and tables by name; all groups for none, every table of methods for `methods`.

    Raises:
        UserError: for a name that is neither, with the nearest one.
    """
    known = [*GROUPS, METHODS, *method_tables()]
    found: list[tuple[str, list[Row]]] = []
    for name in wanted or GROUPS:
        if name in GROUPS.values():  # the group itself means its options: `ls model` is `ls models`
            name = next(listed for listed, group in GROUPS.items() if group == name)
        if name not in known:
            raise UserError(
                f"ls: '{name}' is not a group{did_you_mean(name, known)} "
                f"(groups: {', '.join([*GROUPS, METHODS])}; tables: those of `permlab ls {METHODS}`)"
            )
        if GROUPS.get(name) == "experiment":
            # What a paper says and what only we say are different kinds of claims: a table each, as in the report.
            found += [(f"{name}: {CLAIMED[by]}", rows) for by, rows in experiment_rows().items() if rows]
        elif name in GROUPS:
            found.append((name, group_rows(GROUPS[name])))
        else:
            tables = method_tables() if name == METHODS else [name]
            found += [(f"{table} ({registry.table(table).what})", method_rows(table)) for table in tables]
    return found


def group_rows(group: str) -> list[Row]:
    """Return name, command and purpose of the options of a config group."""
    headers = shipped.headers(group)
    return [{"name": n, "use": h.split("      ", 1)[0], "what": purpose(h)} for n, h in headers.items()]


def experiment_rows() -> dict[str, list[Row]]:
    """Return whose claims (a paper's, or ours: `permlab`) -> what the experiments check and how long they take."""
    found: dict[str, list[Row]] = {by: [] for by in CLAIM_BY}
    for name, about in shipped.experiments().items():
        minutes = f"{about['minutes']:>{len('minutes')}g}" if about.get("minutes") else ""
        by = about.get("claim_by") or CLAIM_BY[0]
        if by in found:
            found[by].append({"name": name, "minutes": minutes, "claim": about.get("claim", "")})
    return found


def purpose(header: str) -> str:
    """Return what follows the command in a YAML's header comment."""
    return header.split("      ", 1)[-1].strip()


def method_rows(table: str) -> list[Row]:
    """Return the rows of a table for people; columns that would be empty in all of them are left out."""
    rows: list[Row] = [
        {
            "name": row.name,
            "label": row.label if row.label != row.name else "",
            "paper": row.paper,
            "needs": ", ".join(row.needs),
            "what it does": row.about,
        }
        for row in registry.table(table).values()
    ]
    shown = [column for column in (rows[0] if rows else {}) if any(row[column] for row in rows)]
    return [{column: row[column] for column in shown} for row in rows]


def markdown(rows: list[Row]) -> str:
    """Return rows as a Markdown table; names as code, arXiv numbers as links."""
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(column, row[column]) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def _cell(column: str, value: Any) -> str:
    text = str(value).replace("|", "\\|").strip()
    if column == "name":
        return f"`{text}`"
    if column == "paper" and text.replace(".", "").isdigit():
        return f"[{text}](https://arxiv.org/abs/{text})"
    return text
