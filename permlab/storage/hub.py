"""The Hugging Face hub: `snapshot("owner/name", ["*.json", "model*.safetensors"])` returns a folder of its cache."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Sequence
from pathlib import Path

from permlab.errors import UserError
from permlab.storage.deadline import within

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
"""Suffixes of files that can run any code when they are opened; never downloaded, never read."""
ASK_SECONDS = 4.0
"""How long the hub may take to say whether it has something."""
REMEDY = "give the path of a local copy"
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

    return bool(constants.HF_HUB_OFFLINE) or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def look_up(name: str, wanted: Sequence[Sequence[str]], revision: str | None = None, kind: str = "model") -> str:
    """Find out whether a repository of the hub can be had: from the cache, or from a hub that answers.

    Where the cache holds it and the hub does not answer, the hub is not asked again by this process: every file would
    be tried several times before the cache is read.

    Args:
        name: `owner/name`.
        wanted: groups of files; one of each group is needed.
        revision: branch, tag or commit.
        kind: "model" or "dataset".

    Returns:
        "cached" or "on the hub".

    Raises:
        UserError: in one line, within `ASK_SECONDS`: gated, not there, not reachable.
    """
    cached = bool(wanted) and all(in_cache(name, files, revision) for files in wanted)
    if offline():
        if cached:
            return "cached"
        raise UserError(f"{name} is not in the cache, and HF_HUB_OFFLINE=1 forbids to ask the hub: {REMEDY}")
    problem = ask_hub(name, revision, kind)
    if not problem:
        return "cached" if cached else "on the hub"
    if not cached:
        raise UserError(f"{name} {problem}")
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = True
    return "cached"


@functools.cache
def ask_hub(name: str, revision: str | None, kind: str) -> str:
    """Return what keeps a repository away, or "" when the hub has it and lets us in; asked once per process."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        url = huggingface_hub.hf_hub_url(name, "config.json", repo_type=kind, revision=revision)
        within(ASK_SECONDS, lambda: huggingface_hub.get_hf_file_metadata(url, timeout=ASK_SECONDS))
    except Exception as error:  # of whatever HTTP library the hub's client uses in its version
        there = isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError)
        return "" if there else _problem(error)  # the repository may be there without this file
    return ""


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
    return f"{where}, and no folder of that name is here: {REMEDY}"
