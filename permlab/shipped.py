"""The YAML options of conf/, of plugins and of experiments: `shipped.names("model")` -> ["bert-tiny", ...].

Read as text, without Hydra: `permlab ls`, `--help` and the messages for unknown options use it.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from permlab import registry
from permlab.errors import UserError

GROUPS = ("task", "model", "dataset", "hardware", "tracker", "experiment")


@functools.cache
def conf_dir() -> Path:
    """Return the YAML folder: in the installed package, or beside it in a checkout; never the working directory."""
    package = Path(__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise UserError(f"permlab is installed without its conf folder (looked in {package}); install it again")


def files(group: str) -> dict[str, Path]:
    """Return option name -> file of a config group, in alphabetical order; experiments as `task/name`."""
    found: dict[str, Path] = {}
    for root in (conf_dir(), *registry.plugin_folders()):
        for path in (root / group).rglob("*.yaml"):
            found.setdefault(str(path.relative_to(root / group).with_suffix("")), path)
    return dict(sorted(found.items()))


def names(group: str) -> list[str]:
    """Return the option names of a config group."""
    return list(files(group))


def kinds(group: str) -> dict[str, str]:
    """Return option name -> kind for the models or datasets."""
    import yaml

    found = {}
    for name, path in files(group).items():
        text = path.read_text(encoding="utf-8")
        schema = [d for d in yaml.safe_load(text)["defaults"] if isinstance(d, str) and d.startswith("/schema/")]
        found[name] = schema[0].rsplit("/", 1)[1].split("@")[0]
    return found


def describe(group: str, name: str) -> str:
    """Return the first header comment line of an option's YAML: the command that uses it."""
    for line in files(group)[name].read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and "@package" not in line:
            return line.lstrip("# ").strip()
    return ""


def experiment(name: str) -> dict[str, Any]:
    """Return the `experiment:` section of an experiment's YAML: claim, source, checks, minutes."""
    import yaml

    section = yaml.safe_load(files("experiment")[name].read_text(encoding="utf-8")).get("experiment", {})
    return dict(section)
