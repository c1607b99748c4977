"""The YAML options of conf/, of the user's folder and of plugins: `shipped.names("model")` -> ["gpt2", ...].

Read as text, without Hydra: `permlab ls`, `--help` and the messages for unknown options use it.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from permlab import registry
from permlab.errors import UserError, did_you_mean, first_line

GROUPS = ("task", "model", "dataset", "hardware", "tracker", "experiment", "debug")


@functools.cache
def conf_dir() -> Path:
    """Return the YAML folder: in the installed package, or beside it in a checkout; never the working directory."""
    package = Path(__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise UserError(f"permlab is installed without its conf folder (looked in {package}); install it again")


_beside: list[Path] = []


def look_in(folders: Iterable[str]) -> None:
    """Look in these folders of options too (`--config-dir`), and no longer in those of the call before.

    Raises:
        UserError: one that is not there.
    """
    _beside.clear()
    for folder in folders:
        if not Path(folder).is_dir():
            raise UserError(f"--config-dir {folder}: there is no such folder")
        _beside.append(Path(folder))


def files(group: str) -> dict[str, Path]:
    """Return option name -> file of a config group, in alphabetical order; experiments as `task/name`.

    A folder beside an option of its name holds parts of it: debug/fast/ntk.yaml is no option.
    """
    found: dict[str, Path] = {}
    for root in (conf_dir(), *_beside, *registry.plugin_folders()):
        for path in (root / group).rglob("*.yaml"):
            if path.parent.with_suffix(".yaml").is_file():
                continue
            found.setdefault(str(path.relative_to(root / group).with_suffix("")), path)
    return dict(sorted(found.items()))


def names(group: str) -> list[str]:
    """Return the option names of a config group."""
    return list(files(group))


def unknown(group: str, name: str) -> str:
    """Say that a group has no such option, with the nearest one and all of them."""
    options = names(group) if group in GROUPS else []
    listed = f" (options: {', '.join(options)})" if options else ""
    return f"{group}={name} is not known{did_you_mean(name, options)}{listed}"


def file_of(group: str, name: str) -> Path:
    """Return the file of an option.

    Raises:
        UserError: an unknown one, with the nearest.
    """
    found = files(group)
    if name not in found:
        raise UserError(unknown(group, name))
    return found[name]


def read(path: Path) -> dict[str, Any]:
    """Return what the YAML of an option holds.

    Raises:
        UserError: it cannot be read, with its own path and the place.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise UserError(f"{path} cannot be read as YAML: {reason}") from None
    return copy.deepcopy(_parsed(path, text))


@functools.lru_cache(maxsize=1024)
def _parsed(path: Path, text: str) -> dict[str, Any]:
    """Parse the text of an option once: a refusal that lists what fits reads every option of its group."""
    import yaml

    try:
        found = yaml.safe_load(text) or {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f":{mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or first_line(error)
        raise UserError(f"{path}{place} cannot be read as YAML: {reason}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no keys: an option is a mapping of keys to values")
    return found


def values(group: str, name: str) -> dict[str, Any]:
    """Return the keys that an option sets in its own group, nested as in its YAML."""
    path = file_of(group, name)
    found = read(path)
    if "@package _global_" in path.read_text(encoding="utf-8"):
        found = found.get(group) or {}
    return {str(key): value for key, value in found.items() if key != "defaults"}


def brings(group: str, name: str) -> dict[str, str]:
    """Return the options of other groups that an option chooses: task=spt brings model=one-block-llama."""
    chosen: dict[str, str] = {}
    for each in read(file_of(group, name)).get("defaults") or []:
        for key, value in each.items() if isinstance(each, dict) else ():
            target = str(key).removeprefix("override").strip().lstrip("/")
            if target in GROUPS and target != group:
                chosen[target] = str(value)
    return chosen


def kind(group: str, name: str) -> str:
    """Return the schema that an option is of: model=gpt2 is of kind causal_lm, task=spt of spt; empty for none."""
    return _kind(group, file_of(group, name))


def kinds(group: str) -> dict[str, str]:
    """Return option name -> kind for the models or datasets."""
    return {name: _kind(group, path) for name, path in files(group).items()}


def _kind(group: str, path: Path) -> str:
    for each in read(path).get("defaults") or []:
        if isinstance(each, str) and each.startswith(f"/schema/{group}/"):
            return each.rsplit("/", 1)[1].split("@")[0]
    return ""


def describe(group: str, name: str) -> str:
    """Return the first header comment line of an option's YAML: the command that uses it."""
    return _header(file_of(group, name))


def headers(group: str) -> dict[str, str]:
    """Return option name -> what `describe` says of it; the folders are listed once for all."""
    return {name: _header(path) for name, path in files(group).items()}


def _header(path: Path) -> str:
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("#") and "@package" not in line:
            return line.lstrip("# ").strip()
    return ""


def experiment(name: str) -> dict[str, Any]:
    """Return the `experiment:` section of an experiment's YAML: claim, source, checks, minutes."""
    return _section(file_of("experiment", name))


def experiments() -> dict[str, dict[str, Any]]:
    """Return experiment -> its `experiment:` section; the folders are listed once for all."""
    return {name: _section(path) for name, path in files("experiment").items()}


def _section(path: Path) -> dict[str, Any]:
    section = read(path).get("experiment")
    return dict(section) if isinstance(section, dict) else {}
