"""The Hugging Face hub: `snapshot("owner/name", ["*.json", "model*.safetensors"])` returns a folder of its cache."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from permlab.errors import UserError

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
"""Suffixes of files that can run any code when they are opened; never downloaded, never read."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_hub_id(path: str) -> bool:
    """Whether a path can only mean something of the hub (`owner/name`): nothing of that name is on this disk."""
    known = Path(path).exists() or (Path(path).parent.is_dir() and str(Path(path).parent) != ".")
    return bool(_HUB_ID.fullmatch(path)) and not known and Path(path).suffix not in (*PICKLES, ".safetensors")


def snapshot(name: str, patterns: Sequence[str], revision: str | None = None) -> Path:
    """Download the files of a repository that match `patterns`, or find them in the cache.

    Args:
        name: `owner/name`.
        patterns: which files, as the shell writes them; name no pickle.
        revision: branch, tag or commit.

    Returns:
        The folder in the cache.

    Raises:
        UserError: in one line, with the remedy: gated, not there, not reachable.
    """
    import httpx
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
    except (HfHubHTTPError, LocalEntryNotFoundError, httpx.HTTPError, OSError, ValueError) as error:
        raise UserError(f"{name} {_problem(error)}") from None


def offline() -> bool:
    """Whether the hub may not be asked (`HF_HUB_OFFLINE=1`): then only the cache is read."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def in_cache(name: str, files: Sequence[str], revision: str | None = None) -> bool:
    """Whether the cache holds at least one of the files of a repository; the hub is not asked."""
    from huggingface_hub import try_to_load_from_cache

    return any(isinstance(try_to_load_from_cache(name, file, revision=revision), str) for file in files)


def trouble(error: BaseException) -> str:
    """Return what kept a download away: "gated", "unreachable", "missing", or "" for anything else.

    By the names of the error's classes: `huggingface_hub`, `datasets` and `httpx` each have their own for the same.
    """
    names = " ".join(kind.__name__ for kind in type(error).__mro__)
    return next((word for word, parts in _TROUBLES if any(part in names for part in parts)), "")


_TROUBLES = (
    ("gated", ("Gated",)),  # first: its error is one of those for what is missing, too
    ("unreachable", ("Connect", "Offline", "Timeout", "LocalEntryNotFound")),
    ("missing", ("RepositoryNotFound", "DatasetNotFound")),
)


def _problem(error: Exception) -> str:
    kept_away = trouble(error)
    if kept_away == "gated":
        return "is gated: accept its licence on the model page and run `hf auth login`"
    if type(error).__name__ == "RevisionNotFoundError":
        return "has no such revision on the hub: check the branch, tag or commit"
    where = "is not on the hub" if kept_away == "missing" else "is neither in the cache nor reachable"
    return f"{where}, and no folder of that name is here: give the path of a local copy"
