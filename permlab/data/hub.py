"""Text columns of `datasets`: `read_hub("roneneldan/TinyStories", split="train[:1000]", text_column="text")`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from permlab.data.examples import Corpus, Example
from permlab.data.text_files import BadRows
from permlab.errors import UserError, did_you_mean


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
    for number, text in enumerate(rows[text_column], start=1):
        source = f"{id_or_path}[{split}]:{number}"
        if isinstance(text, str) and text.strip():
            examples.append(Example(text.strip(), source=source))
        else:
            bad.add(source, f"'{text_column}' empty or not a string")
    bad.finish(f"{id_or_path}[{split}]", len(examples))
    return Corpus("hub", examples, rejected=bad.rows)


def load_rows(id_or_path: str, split: str, subset: str | None = None) -> Any:
    """Return the `datasets.Dataset` of one split of a hub id, a data folder or a `save_to_disk` folder.

    Raises:
        UserError: when it cannot be had, with the remedy.
    """
    folder = Path(id_or_path).expanduser()
    local = folder.exists()
    if not local and (id_or_path.startswith((".", "/", "~")) or id_or_path.count("/") > 1):
        raise UserError(f"{id_or_path} does not exist: give a dataset folder or a hub id such as owner/name")
    import datasets  # here: it takes a second, and messages above need nothing

    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "dataset_info.json").is_file():
            return _saved_split(datasets.load_from_disk(str(folder)), id_or_path, split)
        return datasets.load_dataset(str(folder) if local else id_or_path, subset, split=split)
    except UserError:
        raise
    except Exception as error:  # datasets raises many kinds; each becomes one line with the remedy
        raise UserError(_explain(error, id_or_path, local)) from None


def _saved_split(saved: Any, id_or_path: str, split: str) -> Any:
    """Return the split of a `save_to_disk` folder; a folder with one nameless split is that split."""
    if not isinstance(saved, dict):
        return saved
    if split not in saved:
        raise UserError(f"{id_or_path} has no split '{split}'{did_you_mean(split, saved)} (splits: {', '.join(saved)})")
    return saved[split]


def _explain(error: Exception, id_or_path: str, local: bool) -> str:
    """Return one line that says what went wrong and how to mend it."""
    names = " ".join(kind.__name__ for kind in type(error).__mro__)
    said = str(error).strip().partition("\n")[0][:200] or type(error).__name__
    if local:
        return f"{id_or_path} cannot be read as a dataset ({said}): check split, subset and data files"
    if "Gated" in names:
        return f"{id_or_path} is gated: accept its terms on the hub, then log in with `hf auth login`"
    if "ConnectionError" in names or "Offline" in names or "Timeout" in names or "Connect" in names:
        return (
            f"{id_or_path} cannot be fetched: the hub is not reachable and the cache does not hold it. "
            "Name a local folder (save_to_disk or data files), or fetch it once where there is a network"
        )
    if "DatasetNotFound" in names:
        return f"{id_or_path} was not found on the hub ({said}): check the id; for a private one `hf auth login`"
    return f"{id_or_path} cannot be read ({said}): check split and subset"
