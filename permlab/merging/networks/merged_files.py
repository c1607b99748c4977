"""Merged networks on disk: `save_merged(folder, state, record)`, `state, record = load_merged(folder)`.

A folder holds `model.safetensors`, `merge.json` (what was merged and how) and a card. Tensors may be larger than
those of the architecture (units kept separate): run them with `permlab.symmetry.functional.call` on a module of the
usual size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from permlab.errors import UserError
from permlab.models.checkpoints import RECORD, WEIGHTS
from permlab.storage.cards import card, made_by, table
from permlab.storage.files import read_object
from permlab.storage.folders import replacing_folder


def save_merged(
    folder: str | Path, state: Mapping[str, Tensor], record: Mapping[str, Any], *, tied: Mapping[str, str] | None = None
) -> Path:
    """Write a state dict and its record.

    Args:
        folder: made, complete or not at all; a merged network that is there already is replaced.
        state: tensors of any shape.
        record: plain values that JSON can hold: network, width, matching, ratios, provenance of the endpoints.
        tied: alias name -> name of the tensor it shares (`spec.tied`): written once, and noted in the record.

    Raises:
        UserError: the folder holds something else already; nothing is written then.
    """
    from safetensors.torch import save_file

    path = Path(folder)
    text = json.dumps({**record, "tied": dict(tied or {})}, indent=2, sort_keys=True)
    tensors = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in state.items()
        if not (tied and name in tied and tied[name] in state)
    }
    with replacing_folder(path, replace=(path / RECORD).is_file()) as part:
        save_file(tensors, str(part / WEIGHTS), metadata={"format": "pt"})
        (part / RECORD).write_text(text + "\n", encoding="utf-8")
        (part / "README.md").write_text(_card(record), encoding="utf-8")
    return path


def _card(record: Mapping[str, Any]) -> str:
    """README.md: what can be said on one line of the record, and how to load it."""
    rows = [(key, value) for key, value in record.items() if isinstance(value, (str, int, float)) and value != ""]
    parts: list[str | list[str]] = [
        made_by(str(record.get("method", "a merge"))),
        table(("setting", "value"), rows),
        ["```python", "from permlab.merging import load_merged", "", 'state, record = load_merged("FOLDER")', "```"],
    ]
    return card("Merged image classifier", parts, library="permlab", tags=["merge"])


def load_merged(folder: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_merged` wrote: (state dict with tied names shared again, record).

    Raises:
        UserError: a file is missing or broken.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(folder)
    for name in (WEIGHTS, RECORD):
        if not (path / name).is_file():
            raise UserError(f"{path} is no merged network: it has no file {name}")
    try:
        record = read_object(path / RECORD)
        state = load_file(str(path / WEIGHTS))
        tied = dict(record["tied"])
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"the merged network in {path} is broken ({type(error).__name__}): merge it again") from None
    for alias, canonical in tied.items():
        if canonical in state:
            state[alias] = state[canonical]
    return state, record
