"""Where an adapter is, before anything heavy is loaded: `look_for("owner/name")` is "cached" or "on the hub"."""

from __future__ import annotations

from pathlib import Path

from permlab.errors import UserError
from permlab.storage.hub import is_hub_id, look_up

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
INDEX_NAME = "adapter_model.safetensors.index.json"
PICKLE_NAME = "adapter_model.bin"


def look_for(source: str) -> str:
    """Return "local", "cached" or "on the hub".

    Raises:
        UserError: neither a folder with an adapter in safetensors nor a repository that can be had.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir():
        if not is_hub_id(source):
            raise UserError(f"adapter {source} is neither a folder nor a hub id like owner/name")
        try:
            return look_up(source, [(CONFIG_NAME,), (WEIGHTS_NAME, INDEX_NAME)])
        except UserError as problem:
            raise UserError(f"adapter {problem}") from None
    if not (folder / CONFIG_NAME).is_file():
        raise UserError(f"{folder} holds no {CONFIG_NAME}; is it a PEFT adapter folder?")
    if not any((folder / name).is_file() for name in (WEIGHTS_NAME, INDEX_NAME)):
        if (folder / PICKLE_NAME).is_file():
            raise UserError(f"{folder.name}: {PICKLE_NAME} is a pickle and is not opened; save it as safetensors")
        raise UserError(f"{folder.name} holds no {WEIGHTS_NAME}")
    return "local"
