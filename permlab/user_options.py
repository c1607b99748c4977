"""YAML options of the user's own (`permlab --config-dir DIR dataset=mine`), checked before Hydra reads them.

A folder of options is passed on between people, so it may choose what permlab computes and how its jobs are launched,
and nothing else: not where Hydra writes, what it imports, or what it reads from the environment. The folders of
installed plugins are code, and trusted like code.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from permlab.errors import UserError, blotted, did_you_mean, first_line
from permlab.rules import flatten
from permlab.storage.plain import UnreadableError, read_yaml

HYDRA_GROUPS = ("launcher", "sweeper")
"""What may be set under `hydra`: how the jobs of a sweep are started."""
TARGETS = (
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
    "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher",
)
"""Classes that a `_target_` may name."""
RESOLVERS = ("hydra", "now", "python_version", "oc.select", "oc.dict.keys", "oc.dict.values")
"""What may stand before a colon in `${...}`; the others read the environment or make values out of text."""
MOST_FILES = 2000
DEEPEST_FOLDER = 8

_PLAIN = re.compile(r"\$\{[^${}:]*\}")
_PACKAGE = re.compile(r"^#\s*@package\s+(\S*)\s*$", re.MULTILINE)


def without_config_dir(arguments: list[str]) -> tuple[str | None, list[str]]:
    """Return the folder of `--config-dir DIR`, and the other arguments; the flag may stand before or after a verb.

    Raises:
        UserError: the flag without a folder, or twice.
    """
    folder, others, left = None, [], iter(arguments)
    for argument in left:
        flag, equals, value = argument.partition("=")
        if flag not in ("--config-dir", "-cd"):
            others.append(argument)
            continue
        if folder is not None:
            raise UserError("--config-dir is given twice; put the options of both folders into one")
        folder = value if equals else next(left, "")
        if not folder:
            raise UserError("--config-dir needs the folder with your options: --config-dir DIR")
    return folder, others


def check_interpolations(value: Any, place: str) -> None:
    """Refuse `${resolver:...}` anywhere in a value; `${other.key}` and Hydra's own may stay.

    Raises:
        UserError: naming the place, the resolver and what to do instead.
    """
    for text in texts(value):
        if "${" not in text:
            continue
        rest, before = text, ""
        while rest != before:  # from the inside out, so that a resolver's name is not itself put together
            before = rest
            rest = _PLAIN.sub("X", rest)
            for name in RESOLVERS:
                rest = re.sub(r"\$\{\s*" + re.escape(name) + r"\s*:[^${}]*\}", "X", rest)
        if "${" in rest:
            found = first_line(rest[rest.index("${") :], 60)
            raise UserError(
                f"{place}: {found} is not resolved; configurations are written down, so they may refer to other keys "
                "only (${run.root}): write the value itself, and leave secrets in the environment "
                "(task.segmenter.api_key_env=NAME)"
            )


def refuse_interpolations(plain: Any) -> None:
    """Refuse `${...}` in what is resolved: whoever reads it back would resolve it in an environment of his own."""
    for text in texts(plain):
        if "${" in text:
            raise UserError(f"the configuration holds an interpolation ({text[:60]}); a resolved one is plain data")


def keep_secrets_out(config: Any) -> None:
    """Blot passwords and keys out of labels, and refuse them where they would decide the result: both are written down.

    Raises:
        UserError: naming the key of the task, model, data set or store that holds one.
    """
    config.run.name = config.run.name and blotted(config.run.name)
    config.report.title = blotted(config.report.title)
    if config.tracker.uri and blotted(config.tracker.uri) != config.tracker.uri:
        raise UserError(
            "tracker.uri holds a password, and configurations are written down: name the store without it, and put the "
            "rest into MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD or MLFLOW_TRACKING_TOKEN"
        )
    for key, value in vars(config.tracker).items():
        if isinstance(value, (str, list)):
            setattr(config.tracker, key, blotted(value) if isinstance(value, str) else [*map(blotted, value)])
    for group in ("task", "model", "dataset"):
        for key, value in flatten(dataclasses.asdict(getattr(config, group))).items():
            if any(blotted(text) != text for text in texts(value)):
                raise UserError(
                    f"{group}.{key} holds a password or a key, and configurations are written down: put it into an "
                    "environment variable (the key of a server is named by task.segmenter.api_key_env=NAME)"
                )


def texts(value: Any) -> Iterator[str]:
    """Yield every text in nested lists and mappings, keys included."""
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, dict):
            left += [*each.keys(), *each.values()]
        elif isinstance(each, (list, tuple)):
            left += each
        elif isinstance(each, str):
            yield each


def check_folder(folder: Path, groups: Iterable[str], known: Collection[str]) -> None:
    """Read every option that Hydra could be asked for, and refuse what does not belong there.

    Args:
        folder: what was given as `--config-dir`.
        groups: config groups that the command line can choose from.
        known: permlab's top-level keys.

    Raises:
        UserError: naming the file and the key.
    """
    if not folder.is_dir():
        raise UserError(f"--config-dir {folder} is no folder; give one with options such as dataset/NAME.yaml in it")
    left = [path for group in dict.fromkeys([*groups, "hydra"]) for path in yaml_files(folder, group)]
    seen: set[Path] = set()
    while left:
        path = left.pop()
        if path in seen:
            continue
        seen.add(path)
        if len(seen) > MOST_FILES:
            raise UserError(
                f"--config-dir {folder} has more than {MOST_FILES:,} options; give a folder of options only"
            )
        left += [folder / f"{name}.yaml" for name in Option(folder, path).check(known)]


def yaml_files(folder: Path, group: str) -> Iterator[Path]:
    """Yield the YAML files of a group; links are followed as far as an option may lie."""
    base = folder / group
    for here, children, names in os.walk(base, followlinks=True):
        place = Path(here)
        if len(place.relative_to(base).parts) >= DEEPEST_FOLDER:
            children.clear()
        yield from (place / name for name in names if name.endswith((".yaml", ".yml")))


class Option:
    """One file of options."""

    def __init__(self, folder: Path, path: Path) -> None:
        self.path = path
        self.group = path.relative_to(folder).parent.parts

    def check(self, known: Collection[str]) -> list[str]:
        """Refuse what an option may not hold; return the files without `.yaml` that its defaults name from the top."""
        if self.group[:1] == ("hydra",) and not (len(self.group) > 1 and self.group[1] in HYDRA_GROUPS):
            self.refuse(".".join(self.group), "it is of the group")
        try:
            found = read_yaml(self.path, aliases=True)
            package = _PACKAGE.search(self.path.read_text(encoding="utf-8-sig"))
        except FileNotFoundError:
            return []  # one of ours, or none: Hydra says which
        except (OSError, UnreadableError) as error:
            raise UserError(f"{self.path}: {first_line(error)}") from None
        if found is None:
            return []
        if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
            raise UserError(f"{self.path} is not a mapping of keys (key: value)")
        check_interpolations(found, str(self.path))
        for key, value in pairs(found):
            if key == "_target_" and value not in TARGETS:
                raise UserError(f"{self.path}: _target_ {first_line(value)} is not known; it may name {TARGETS[0]} ...")
        wanted = self.check_defaults(found.pop("defaults", []))
        place = (package[1] if package else "_group_").replace("_group_", ".".join(self.group))
        parts = [part for part in place.split(".") if part != "_global_"]
        if parts == ["hydra"]:
            self.refuse("# @package hydra", "it has")
        for key, value in found.items():
            full = [*parts, *key.split(".")]
            if full[0] == "hydra":
                for child in full[1:2] or (value if isinstance(value, dict) else [value]):
                    if child not in HYDRA_GROUPS:
                        self.refuse(f"hydra.{child}", "it sets")
            elif not parts and full[0] not in known:
                raise UserError(f"{self.path}: unknown key '{key}'{did_you_mean(key, known)}")
            elif key == "hydra":  # wherever another file's defaults put it
                self.refuse(".".join(full), "it sets")
        return wanted

    def check_defaults(self, defaults: Any) -> list[str]:
        """Check a defaults list."""
        if not isinstance(defaults, list):
            raise UserError(f"{self.path}: defaults is not a list")
        wanted = []
        for entry in defaults:
            if isinstance(entry, dict) and len(entry) == 1:
                (key, value), single = next(iter(entry.items())), False
            else:
                key, value, single = entry, None, True
            values = value if isinstance(value, list) else [value]
            if not isinstance(key, str) or not all(isinstance(each, (str, type(None))) for each in values):
                raise UserError(f"{self.path}: defaults has an entry that is neither NAME nor GROUP: NAME ({entry})")
            name, _, package = key.split()[-1].partition("@") if key.split() else ("", "", "")
            top = name.lstrip("/").split("/")
            for way in (top, package.replace("_global_.", "").split(".")):
                if way[0] == "hydra" and (len(way) == 1 or way[1] not in HYDRA_GROUPS):
                    self.refuse(f"defaults: {key}", "it sets")
            if name.startswith("/"):
                wanted += ["/".join(top)] if single else ["/".join([*top, each]) for each in values if each]
        return wanted

    def refuse(self, key: str, how: str) -> None:
        """Refuse a key of Hydra's."""
        raise UserError(
            f"{self.path}: {how} {key}; of Hydra's keys options may set hydra.launcher and hydra.sweeper only, because "
            "others write files or run code (give such a key on the command line, if it is meant)"
        )


def pairs(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (key, value) at every depth."""
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, dict):
            yield from each.items()
            left += each.values()
        elif isinstance(each, list):
            left += each
