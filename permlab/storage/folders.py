"""Folders that are never half-written.

with replacing_folder(Path("merged")) as folder:
    (folder / "config.json").write_text("{}")      # "merged" appears when the block has ended well, or not at all
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from permlab.errors import UserError
from permlab.storage.files import beside, sync


@contextmanager
def replacing_folder(path: str | Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success all of it is flushed to disk and gets the name `path`.

    Args:
        path: folder to make; an empty one that is there already is taken over.
        replace: also replace a folder that holds something. The old one goes only when the new one is complete.

    Raises:
        UserError: something is at `path` that must stay; nothing is written then.
    """
    out = Path(path).resolve()
    if out.exists() and not (out.is_dir() and (replace or not any(out.iterdir()))):
        raise UserError(f"{path} exists already and is not overwritten: choose another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = beside(out)
    temporary.mkdir()
    try:
        yield temporary
        for entry in [*temporary.rglob("*"), temporary]:
            sync(entry)
        if replace and out.exists():
            # A folder that holds something cannot be renamed over; the old one is whole until the new one has its name.
            old = beside(out)
            out.rename(old)
            temporary.rename(out)
            shutil.rmtree(old)
        else:
            os.replace(temporary, out)
        sync(out.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
