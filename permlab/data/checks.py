"""What the checks of data sets share: `check_file(config, "test_path")`. Nothing heavy is imported, no file is read.

Every data set has its check beside its configuration and its reader, in one file; `loading.check_dataset` calls it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from permlab.errors import UserError, check_choice, check_range

ON_BAD_ROW = ("raise", "skip")
"""What a reader does with a row that it cannot use."""


def need_path(config: Any, what: str) -> Path:
    """Return `config.path`.

    Args:
        config: of a data set that is read from disk.
        what: stands for the value in the message: FILE, FOLDER.

    Raises:
        UserError: no path is given.
    """
    if not config.path:
        raise UserError(f"dataset={config.name} needs dataset.path={what}")
    return Path(config.path)


def check_file(config: Any, key: str = "path") -> None:
    """Refuse a configured file that is not there; an empty key names none.

    Raises:
        UserError: naming key and value.
    """
    value = getattr(config, key)
    if value and not Path(value).is_file():
        raise UserError(f"dataset.{key}={value}: there is no such file")


def check_bad_rows(config: Any) -> None:
    """Check `on_bad_row`."""
    check_choice("dataset.on_bad_row", config.on_bad_row, ON_BAD_ROW)


def check_test_share(config: Any) -> None:
    """Check the share of the images that is kept for testing."""
    check_range("dataset.test_share", config.test_share, 0, 1, open_interval=True)


def check_image_folder(config: Any) -> None:
    """Check that the folder with images is given and there.

    Raises:
        UserError: naming key and value.
    """
    if not need_path(config, "FOLDER").is_dir():
        raise UserError(f"dataset.path={config.path} is not a folder: give the one that holds the {config.kind} images")


def check_pictures(config: Any) -> None:
    """Check what pictures are turned into: side and channels.

    Raises:
        UserError: naming the key.
    """
    check_range("dataset.side", config.side, 4)
    if config.channels not in (1, 3):
        raise UserError(f"dataset.channels={config.channels}: pictures have 1 (grey) or 3 (colour) channels")
