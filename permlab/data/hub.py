"""Data sets of `datasets`: `read_hub("roneneldan/TinyStories", split="train[:1000]", text_column="text")`.

A hub id or a folder in one of its formats, with a column of texts or with columns of pictures and labels.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from permlab.data.checks import ON_BAD_ROW, check_bad_rows, check_pictures, need_path
from permlab.data.examples import Corpus, Example
from permlab.data.texts.rows import BadRows
from permlab.errors import UserError, check_range, did_you_mean, first_line
from permlab.keys import choice
from permlab.storage.hub import look_up, offline, trouble

if TYPE_CHECKING:
    from permlab.data.images.image_set import ImageData

TEST_SPLITS = ("test", "validation", "valid", "val")
"""Names of splits that are tested on where none is named, the first that there is."""
MOST_CLASSES = 100_000
"""Class numbers are counted from 0 without gaps, so that a larger one is no class number."""


@dataclass
class HubConfig:
    """A dataset id of the Hugging Face hub, or a local dataset folder."""

    name: str = "hub"
    kind: str = "hub"
    path: str | None = None
    """Dataset id, or a folder of data files or of `save_to_disk`."""
    subset: str | None = None
    """Name of the configuration, where the data set has several."""
    split: str = "train"
    """The part that is read."""
    text_column: str = "text"
    """Column with the texts."""
    image_column: str = "image"
    """task=merge: column with pictures."""
    label_column: str = "label"
    """task=merge: column with class numbers or names."""
    test_split: str | None = None
    """task=merge: split that is tested on; null takes the set's own, or a quarter of `split` where it has none."""
    side: int = 32
    """task=merge: pictures are scaled to side x side pixels."""
    channels: int = 3
    """task=merge: 3 (colour) | 1 (grey)"""
    limit: int | None = None
    """First rows to use; null = all."""
    on_bad_row: str = choice("raise", ON_BAD_ROW)
    """raise ends the run at a bad row; skip leaves it out and says so."""


def check_hub(config: HubConfig) -> None:
    """Check path, ranges and choices; the network is not asked.

    Raises:
        UserError: naming the key.
    """
    need_path(config, "ID_OR_FOLDER")
    check_local(str(config.path), "dataset.path=")
    check_pictures(config)
    if config.limit is not None:
        check_range("dataset.limit", config.limit, 1)
    check_bad_rows(config)


def would_download(config: HubConfig) -> bool:
    """Whether reading asks the hub: the path is no folder here, and the hub is not switched off.

    Raises:
        UserError: the hub does not have it, does not let us in, or is not reachable while the cache does not hold it.
    """
    if Path(str(config.path)).expanduser().exists() or offline():
        return False
    if not cached_data(str(config.path)):
        look_up(str(config.path), [], kind="dataset")
    return True


def cached_data(name: str) -> bool:
    """Whether the cache of `datasets` holds something of a data set; `datasets` is not loaded."""
    from huggingface_hub import constants

    cache = Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets")
    return (cache / name.replace("/", "___")).is_dir()


def load_hub_corpus(config: HubConfig, seed: int) -> Corpus:
    """Read the text column of a configuration."""
    return read_hub(
        str(config.path),
        split=config.split,
        text_column=config.text_column,
        subset=config.subset,
        limit=config.limit,
        on_bad_row=config.on_bad_row,
    )


def load_hub_pictures(config: HubConfig) -> ImageData:
    """Read the pictures and labels of a configuration."""
    return load_hub_images(
        str(config.path),
        subset=config.subset,
        split=config.split,
        test_split=config.test_split,
        image_column=config.image_column,
        label_column=config.label_column,
        limit=config.limit,
        size=config.side,
        channels=config.channels,
    )


def check_local(id_or_path: str, prefix: str = "") -> None:
    """Refuse what can only be a folder or a file and is not there: `./data`, `/data`, `~/data`, `a/b/c`, `a.txt`.

    Raises:
        UserError: naming the path.
    """
    local = id_or_path.startswith((".", "/", "~")) or id_or_path.endswith((".txt", ".jsonl", ".csv"))
    if (local or id_or_path.count("/") > 1) and not Path(id_or_path).expanduser().exists():
        raise UserError(f"{prefix}{id_or_path} does not exist: give a dataset folder or a hub id such as owner/name")


def read_hub(
    id_or_path: str,
    *,
    split: str = "train",
    text_column: str = "text",
    subset: str | None = None,
    limit: int | None = None,
    on_bad_row: str = "raise",
) -> Corpus:
    """Read one text column of a hub dataset, a folder of data files, or a folder written by `save_to_disk`.

    Code that comes with a dataset is never run.

    Args:
        id_or_path: a hub id (`owner/name`), or a folder.
        split: as `datasets` writes it, slices included (`train[:1000]`); for a `save_to_disk` folder: `limit`.
        text_column: column with one text per row.
        subset: configuration name of a dataset that has several.
        limit: first rows to use; None for all.
        on_bad_row: raise | skip rows whose text is empty or not a string.

    Raises:
        UserError: when the dataset, the split or the column cannot be had, with the remedy; and bad rows with
            `on_bad_row="raise"`.
    """
    rows = load_rows(id_or_path, split, subset)
    columns = list(rows.column_names)
    if text_column not in columns:
        hint = did_you_mean(text_column, columns)
        raise UserError(f"{id_or_path} has no column '{text_column}'{hint} (columns: {', '.join(columns)})")
    if limit is not None:
        rows = rows.select(range(min(limit, len(rows))))
    bad, examples = BadRows(on_bad_row), []
    for number, text in enumerate(_column(rows, text_column, id_or_path), start=1):
        source = f"{id_or_path}[{split}]:{number}"
        if isinstance(text, str) and text.strip():
            examples.append(Example(text.strip(), source=source))
        else:
            bad.add(source, f"'{text_column}' empty or not a string")
    bad.finish(f"{id_or_path}[{split}]", len(examples))
    return Corpus("hub", examples, rejected=bad.rows)


def _column(rows: Any, column: str, name: str) -> Any:
    """Return the values of a column, which are decoded only now.

    Raises:
        UserError: what is stored cannot be decoded.
    """
    try:
        return rows[column][:]
    except Exception as error:  # datasets, its decoders and Arrow have errors of their own
        raise UserError(f"column '{column}' of {name} cannot be read ({first_line(error, 120)}): mend it") from None


def load_rows(id_or_path: str, split: str, subset: str | None = None) -> Any:
    """Return the `datasets.Dataset` of one split of a hub id, a data folder or a `save_to_disk` folder.

    Raises:
        UserError: when it cannot be had, with the remedy.
    """
    folder = Path(id_or_path).expanduser()
    local = folder.exists()
    check_local(id_or_path)
    import datasets  # here: it takes a second, and messages above need nothing

    # What goes wrong is raised as well; its own lines and bars would stand between ours.
    datasets.utils.logging.set_verbosity(logging.CRITICAL)
    if local:
        datasets.disable_progress_bars()
    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "dataset_info.json").is_file():
            return _saved_split(datasets.load_from_disk(str(folder)), id_or_path, split)
        return datasets.load_dataset(str(folder) if local else id_or_path, subset, split=split)
    except UserError:
        raise
    except Exception as error:  # datasets raises many kinds; each becomes one line with the remedy
        raise UserError(_explain(error, id_or_path, local)) from None


def own_test_split(id_or_path: str, split: str, subset: str | None = None) -> str | None:
    """The split of a data set that is there for testing: the first of `TEST_SPLITS` beside `split`, or None."""
    import datasets

    folder = Path(id_or_path).expanduser()
    try:
        if (folder / "dataset_dict.json").is_file():
            names = list(datasets.load_from_disk(str(folder)))
        else:
            names = datasets.get_dataset_split_names(str(folder) if folder.exists() else id_or_path, subset)
    except Exception:  # of many kinds; what is wrong with the set itself is said by `load_rows`
        return None
    trained = {part.partition("[")[0] for part in split.split("+")}
    return next((name for name in TEST_SPLITS if name in names and name not in trained), None)


def _saved_split(saved: Any, id_or_path: str, split: str) -> Any:
    """Return the split of a `save_to_disk` folder; a folder with one nameless split is that split."""
    if not isinstance(saved, dict):
        return saved
    if split not in saved:
        raise UserError(f"{id_or_path} has no split '{split}'{did_you_mean(split, saved)} (splits: {', '.join(saved)})")
    return saved[split]


def _explain(error: Exception, id_or_path: str, local: bool) -> str:
    """Return one line that says what went wrong and how to mend it."""
    kept_away = trouble(error)
    said = str(error).strip().partition("\n")[0][:200] or type(error).__name__
    if local:
        return f"{id_or_path} cannot be read as a dataset ({said}): check split, subset and data files"
    if kept_away == "gated":
        return f"{id_or_path} is gated: accept its terms on the hub, then log in with `hf auth login`"
    if kept_away == "unreachable":
        return (
            f"{id_or_path} cannot be fetched: the hub is not reachable and the cache does not hold it. "
            "Name a local folder (save_to_disk or data files), or fetch it once where there is a network"
        )
    if kept_away == "missing":
        return f"{id_or_path} was not found on the hub ({said}): check the id; for a private one `hf auth login`"
    return f"{id_or_path} cannot be read ({said}): check split and subset"


def load_hub_images(
    name: str,
    *,
    subset: str | None = None,
    split: str = "train",
    test_split: str | None = None,
    image_column: str = "image",
    label_column: str = "label",
    size: int = 32,
    channels: int = 3,
    limit: int | None = None,
    test_share: float = 0.25,
    seed: int = 0,
) -> ImageData:
    """Any image set of the `datasets` library: a hub id, a folder of data files, or one of `save_to_disk`.

    Args:
        split, test_split: training and test images; None: the set's own, or `test_share` of `split` where it has none.
        limit: rows used per split.
        label_column: class numbers or names.

    Raises:
        UserError: the set cannot be loaded, has no such split or columns, or an image that cannot be read.
    """
    import torch
    from torch import Tensor

    from permlab.data.images.image_set import ImageData, normalised, picture_tensor, split_images

    test_split = test_split or own_test_split(name, split, subset)
    parts = [load_rows(name, each, subset) for each in (split, test_split) if each]
    for rows in parts:
        for column in (image_column, label_column):
            if column not in rows.column_names:
                raise UserError(f"{name} has no column '{column}' (columns: {', '.join(rows.column_names)})")
    parts = [rows.select(range(min(len(rows), limit or len(rows)))) for rows in parts]
    names = _class_names(parts, label_column)
    halves: list[tuple[Tensor, Tensor]] = []
    for rows in parts:
        try:
            images = _column(rows, image_column, name)
            pictures = torch.stack([picture_tensor(image, size, channels) for image in images])
        except AttributeError:
            raise UserError(f"column '{image_column}' of {name} holds no pictures: name another") from None
        except UserError:
            raise
        except Exception as error:  # every decoder has errors of its own
            raise UserError(f"{name} has a picture that cannot be read ({first_line(error, 120)}): mend it") from None
        labels = [names.index(v) if isinstance(v, str) else v for v in _column(rows, label_column, name)]
        if not all(isinstance(v, int) and 0 <= v < len(names) for v in labels):
            raise UserError(f"column '{label_column}' of {name} holds what is no class number: name another")
        numbers = torch.tensor(labels)
        halves.append((pictures, numbers))
    x, y = halves[0]
    split_up = (x, y, *halves[1]) if test_split else split_images(x, y, test_share, seed)
    note = f"{name}, split {split}" + (f", tested on {test_split}" if test_split else f", {test_share:.0%} for testing")
    return normalised(ImageData(Path(name).name, *split_up, names, note))


def _class_names(parts: list[Any], column: str) -> list[str]:
    """Class names: from the column's type, the sorted names themselves, or the numbers up to the largest."""
    known = getattr(parts[0].features[column], "names", None)
    if known:
        return list(known)
    values = [value for rows in parts for value in _column(rows, column, "the data set")]
    if not all(isinstance(value, (str, int)) for value in values):
        raise UserError(f"column '{column}' holds neither class numbers nor names: name another with label_column")
    if any(isinstance(value, str) for value in values):
        return sorted(set(map(str, values)))
    last = int(max(values, default=-1))
    if not 0 <= last < MOST_CLASSES:
        raise UserError(
            f"column '{column}' holds class numbers up to {last}: they must be from 0 to {MOST_CLASSES - 1}"
        )
    return [str(number) for number in range(last + 1)]
