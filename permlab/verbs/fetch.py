"""`permlab fetch model=llama-1b dataset=hub dataset.path=ID`: what a run would download, downloaded ahead."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from permlab.compose import activate_plugins, compose_one, parse, search_path
from permlab.config import schema_for, typed
from permlab.data.table import DATASETS
from permlab.errors import UserError
from permlab.models.causal_lm_config import is_local
from permlab.models.checkpoints import FILES
from permlab.models.table import WEIGHTS
from permlab.runs.console import console
from permlab.storage.hub import look_up, offline, snapshot
from permlab.verbs.push import readable

USAGE = "usage: permlab fetch model=NAME dataset=NAME [KEY=VALUE ...]; `permlab ls models datasets` lists them"
WANTED = ("model", "dataset", "experiment", "task")
"""What the command line may name for something to be fetched."""


def fetch(words: list[str], folder: str | None = None) -> int:
    """Download what the model and the data set of a command line need, and print where it lies and how large it is.

    Raises:
        UserError: a name that is not known, a model of this disk, and whatever keeps a download away.
    """
    parsed = parse(words)
    named = {each.key_or_group.partition(".")[0] for each in parsed}
    if not named & set(WANTED):
        raise UserError(USAGE)
    activate_plugins(parsed)
    config = compose_one([*words, *search_path(folder)])
    from omegaconf import OmegaConf

    plain: Any = OmegaConf.to_container(config, resolve=True)
    whole = bool(named & {"experiment", "task"})
    parts = {
        group: typed(group, schema_for(group, plain[group]), plain[group])
        for group in ("model", "dataset")
        if whole or group in named
    }
    if "model" in parts:
        tell(fetch_model(parts["model"], strict="model" in named))
    if "dataset" in parts:
        tell(fetch_data(parts["dataset"]))
    return 0


def tell(lines: Iterator[str]) -> None:
    """Print lines as they come: the first before a download that takes minutes."""
    for line in lines:
        console().print(line, markup=False)


def fetch_model(model: Any, strict: bool) -> Iterator[str]:
    """Download the files of a hub's model that loading reads, and yield what happened.

    Raises:
        UserError: a model that is a folder of this disk, where it was asked for (`strict`).
    """
    path = getattr(model, "path", None)
    label = f"model={model.name}"
    if path is None and model.name == "local":
        raise UserError("model=local is a folder of your own, model.path=DIR: there is nothing to fetch")
    if path is None:
        yield f"{label}: built here, nothing to fetch"
        return
    if is_local(path):
        if strict:
            raise UserError(f"{label}: {path} is a folder of this disk: there is nothing to fetch")
        yield f"{label}: {path} is a folder of this disk, nothing to fetch"
        return
    patterns = list(FILES) if WEIGHTS[model.weights].needs else [name for name in FILES if "safetensors" not in name]
    patterns += ["*.py"] if model.trust_remote_code else []
    look_up(path, [("config.json",)], model.revision)
    yield f"{label}: {path} from the hub, {', '.join(patterns)}"
    started = time.time()
    place = snapshot(path, patterns, model.revision)
    files = [file for file in place.rglob("*") if file.is_file()]
    if WEIGHTS[model.weights].needs and not any(file.suffix == ".safetensors" for file in files):
        raise UserError(f"{path} has no safetensors weights (pickled weights are refused): name another model")
    yield summed(place, files, started)


def fetch_data(data: Any) -> Iterator[str]:
    """Let `datasets` download and prepare a data set, and yield what happened."""
    row, label = DATASETS[data.kind], f"dataset={data.name}"
    if not row.fetches:
        yield f"{label}: made here or read from your files, nothing to fetch"
        return
    from permlab import registry

    if not data.path:
        raise UserError(f"{label} needs dataset.path=ID, a data set of the hub")
    if Path(str(data.path)).expanduser().exists():
        yield f"{label}: {data.path} is a folder of this disk, nothing to fetch"
        return
    registry.load(row.check)(data)
    if not offline():  # `datasets` knows what is in its own cache
        look_up(str(data.path), [], kind="dataset")
    from permlab.data.hub import load_rows, own_test_split

    yield f"{label}: {data.path}, split {data.split}"
    started = time.time()
    files: list[Path] = []
    tested = data.test_split or own_test_split(str(data.path), data.split, data.subset)
    for split in filter(None, (data.split, tested)):
        files += [Path(each["filename"]) for each in load_rows(str(data.path), split, data.subset).cache_files]
    files = list(dict.fromkeys(files))
    yield summed(files[0].parent if files else Path(), files, started)


def summed(place: Path, files: list[Path], started: float) -> str:
    """Return a line with the place, the size, and whether anything had to be downloaded."""
    size = readable(sum(file.stat().st_size for file in files))
    fresh = sum(file.stat().st_ctime >= started - 1 for file in files)
    what = f"{fresh} of {len(files)} files downloaded" if fresh else "already in the cache, nothing downloaded"
    return f"  {place}  {size}, {what}"
