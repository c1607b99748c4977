"""Model cards: `write_text(folder / "README.md", card("Merge of 2 networks", library="transformers", tags=["merge"]))`.

A card is the README.md of a model on the hub: YAML between two lines of `---` for programs, then Markdown for people.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from permlab.storage.hub import is_hub_id
from permlab.version import __version__


def card(
    title: str, parts: Iterable[str | list[str]] = (), *, library: str, tags: Sequence[str], bases: Iterable[str] = ()
) -> str:
    """Return a model card.

    Args:
        title: its heading.
        parts: what stands below, in order: paragraphs, and tables (`table`).
        library: what loads the model: transformers, peft.
        tags: for searching; "permlab" is added.
        bases: models that it was made from; those of the hub are linked, folders of this machine are left out.
    """
    head = ["---", f"library_name: {library}", f"tags: [{', '.join([*tags, 'permlab'])}]"]
    hubs = [json.dumps(name) for name in dict.fromkeys(bases) if is_public(name)]
    if hubs:
        head += ["base_model:", *(f"  - {name}" for name in hubs)]
    lines = [*head, "---", "", f"# {title}", ""]
    for part in parts:
        lines += [*([part] if isinstance(part, str) else part), ""]
    return "\n".join(lines)


def is_public(name: str) -> bool:
    """Whether a model is one of the hub (`owner/name`, or `gpt2` of the old days) and not a folder of this machine."""
    old = "/" not in name and not name.startswith((".", "~")) and not Path(name).exists()
    return bool(name) and (old or is_hub_id(name))


def made_by(how: str) -> str:
    """Return the sentence that says which program made a model."""
    return f"Made by permlab {__version__}, {how}."


def table(columns: Sequence[str], rows: Iterable[Iterable[object]]) -> list[str]:
    """Return the lines of a table; a cell stays in its cell whatever it holds."""
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    return lines + [f"| {' | '.join(_cell(value) for value in row)} |" for row in rows]


def _cell(value: object) -> str:
    return " ".join((f"{value:.4g}" if isinstance(value, float) else str(value)).split()).replace("|", "\\|")
