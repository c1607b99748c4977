"""Upload a folder to the Hugging Face hub, after a look at everything in it: `upload(checked(folder), "me/model")`.

Only files that a model or an adapter is made of go up: text and safetensors, never a pickle, a link or a hidden file,
and no text that holds something like a key.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from permlab.errors import UserError, blotted, first_line
from permlab.storage.hub import PICKLES, offline, trouble

TEXTS = (".json", ".md", ".txt", ".jinja")
SHARED = (*TEXTS, ".safetensors", ".model")
"""Suffixes of what may go up."""
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt")
"""Lists of words, in which something may look like a key by chance: only the keys of this environment are sought."""
SECRET_NAMES = re.compile(r"TOKEN|KEY|SECRET|PASSWORD|PASSWD", re.IGNORECASE)
SHORTEST_SECRET = 8
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


@dataclass
class Shared:
    """A folder that may go up: its files (paths from `folder`), bytes of each, and what people should know."""

    folder: Path
    sizes: dict[str, int]
    notes: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Bytes in all."""
        return sum(self.sizes.values())


def checked(folder: Path) -> Shared:
    """Look at every file of a folder; nothing is sent.

    Raises:
        UserError: a pickle, a link, a file of another kind, one that holds a key; no weights; no card.
    """
    if folder.is_symlink():
        raise UserError(f"{folder} is a link to somewhere else: copy what it leads to into the run, or share that")
    shared = Shared(folder, {})
    for path in walked(folder):
        name = path.relative_to(folder).as_posix()
        shared.sizes[name] = path.stat().st_size
        if path.suffix.lower() in TEXTS:
            check_text(path, name, shared)
    if not any(name.endswith(".safetensors") for name in shared.sizes):
        raise UserError(f"{folder} has no safetensors weights: there is no model to share")
    if not any(Path(name).name == "README.md" for name in shared.sizes):
        raise UserError(f"{folder} has no README.md, the model's card: run it again with this version, or write one")
    return shared


def walked(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder in order of their names, refusing what must not go up."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_symlink():
            raise UserError(f"{folder}/{name} is a link, which may lead outside of the run: replace it by the file")
        if path.is_dir():
            continue
        if path.suffix.lower() in PICKLES:
            raise UserError(f"{folder}/{name} is a pickle, which can run any code when it is opened: remove it")
        if path.suffix.lower() not in SHARED or name.name.startswith(".") or not path.is_file():
            raise UserError(f"{folder}/{name} is no part of a model ({', '.join(SHARED)}): move it out of the folder")
        yield path


def check_text(path: Path, name: str, shared: Shared) -> None:
    """Refuse a text that holds a key; note one that names a folder of this machine."""
    text = path.read_text(encoding="utf-8", errors="replace")
    found = next((key for key, value in secrets() if value in text), "")
    if found or (path.name not in VOCABULARIES and blotted(text) != text):
        what = f"the value of ${found}" if found else "something that looks like a key"
        raise UserError(f"{path} holds {what}: take it out before the folder is shared")
    for place in (str(Path.home()), os.getcwd()):
        if len(place) > 1 and place in text:
            shared.notes.append(f"{name} names a folder of this machine ({place})")
            break


def secrets() -> Iterator[tuple[str, str]]:
    """Yield name and value of the environment variables that hold keys, and the hub's own token."""
    from huggingface_hub import get_token

    for key, value in {**os.environ, "HF_TOKEN": get_token() or ""}.items():
        if SECRET_NAMES.search(key) and len(value) >= SHORTEST_SECRET:
            yield key, value


def check_repository(name: str) -> None:
    """Refuse what is no name of a repository.

    Raises:
        UserError: with an example.
    """
    if not REPOSITORY.fullmatch(name) or "--" in name or ".." in name:
        raise UserError(f"'{name}' is no repository of the hub: write OWNER/NAME, such as me/my-model")


def upload(shared: Shared, repository: str, *, private: bool = False, message: str = "Upload with permlab") -> str:
    """Make the repository where it is missing, upload the files in one commit, and return the page's address.

    Raises:
        UserError: no token, the hub may not be asked or does not answer, no right to write, a public repository where a
            private one was asked for.
    """
    check_repository(repository)
    import huggingface_hub
    from huggingface_hub import constants

    if offline():
        raise UserError("HF_HUB_OFFLINE=1 forbids to ask the hub: unset it to upload")
    if not huggingface_hub.get_token():
        raise UserError("there is no token for the hub: run `hf auth login`, or set HF_TOKEN to one that may write")
    api = huggingface_hub.HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        if private and not api.model_info(repository).private:
            raise UserError(f"{repository} is there already and public: make it private on its page, or name another")
        names = [glob.escape(name) for name in shared.sizes]
        api.upload_folder(repo_id=repository, folder_path=shared.folder, allow_patterns=names, commit_message=message)
    except UserError:
        raise
    except Exception as error:  # of the hub's client, its HTTP library and its uploader
        raise UserError(f"{repository}: {explained(error)}") from None
    return f"{constants.ENDPOINT}/{repository}"


def explained(error: Exception) -> str:
    """Say in one line why an upload failed and what to do."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return "the hub does not let this token write there: `hf auth login` with a token of the role write"
    if trouble(error) == "unreachable":
        return "the hub does not answer: try again, nothing is left half-written there"
    return f"the upload failed ({first_line(error, 200)}): try again"
