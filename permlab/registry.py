"""Names to code, imported on demand: `permlab ls` prints what is here.

Adding a task: one module in `permlab/tasks/` with a dataclass, `MODELS`, `DATASETS`, `HEADLINE`, `validate`, `plan` and
`run`; one YAML in `conf/task/`; one line in `TASKS`. Modules named here import nothing heavy at their top.
"""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from permlab.errors import UserError, did_you_mean

TASKS: dict[str, str] = {
    "spt": "permlab.tasks.spt:SptConfig",
    "inverse_permutation": "permlab.tasks.inverse_permutation:InversePermutationConfig",
    "lora_lego": "permlab.tasks.lora_lego:LoraLegoConfig",
    "merge": "permlab.tasks.merge:MergeConfig",
    "ntk": "permlab.tasks.ntk:NtkConfig",
    "report": "permlab.tasks.report:ReportConfig",
}
"""task name -> module of the task and its dataclass"""

MODELS: dict[str, str] = {
    "none": "permlab.config:NoneConfig",
    "causal_lm": "permlab.models.causal_lm_config:CausalLMConfig",
    "vision": "permlab.models.vision_config:VisionConfig",
}
"""model kind -> dataclass"""

DATASETS: dict[str, str] = {
    "none": "permlab.config:NoneConfig",
    "people": "permlab.data.text_configs:PeopleConfig",
    "symbolic": "permlab.data.text_configs:SymbolicConfig",
    "berglund": "permlab.data.text_configs:BerglundConfig",
    "jsonl": "permlab.data.text_configs:JsonlConfig",
    "presegmented": "permlab.data.text_configs:PresegmentedConfig",
    "hub": "permlab.data.text_configs:HubConfig",
    "digits": "permlab.data.image_configs:DigitsConfig",
    "mnist": "permlab.data.image_configs:MnistConfig",
    "imagefolder": "permlab.data.image_configs:ImageFolderConfig",
}
"""dataset kind -> dataclass"""

GROUPS = ("task", "model", "dataset", "hardware", "tracker", "experiment")


def load(target: str) -> Any:
    """Import `module:attribute`."""
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def schemas(group: str) -> dict[str, type]:
    """Return the dataclasses of a group: by task name, model kind or dataset kind."""
    table = {"task": TASKS, "model": MODELS, "dataset": DATASETS}[group]
    return {name: load(target) for name, target in table.items()}


def task(name: str) -> ModuleType:
    """Return the module of a task.

    Raises:
        UserError: for a name that is not registered.
    """
    if name not in TASKS:
        raise UserError(f"task={name} is not known{did_you_mean(name, TASKS)} (tasks: {', '.join(TASKS)})")
    return importlib.import_module(TASKS[name].partition(":")[0])


@functools.cache
def conf_dir() -> Path:
    """Return the YAML folder: in the installed package, or beside it in a checkout; never the working directory."""
    package = Path(__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise UserError(f"permlab is installed without its conf folder (looked in {package}); install it again")


def names(group: str) -> list[str]:
    """Return the option names of a config group, in alphabetical order; experiments as `task/name`."""
    folder = conf_dir() / group
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml"))


def options(group: str) -> dict[str, str]:
    """Return option name -> kind for the models or datasets that ship with permlab."""
    import yaml

    found = {}
    for name in names(group):
        text = (conf_dir() / group / f"{name}.yaml").read_text()
        schema = [d for d in yaml.safe_load(text)["defaults"] if isinstance(d, str) and d.startswith("/schema/")]
        found[name] = schema[0].rsplit("/", 1)[1].split("@")[0]
    return found


def describe(group: str, name: str) -> str:
    """Return the first header comment line of an option's YAML: the command that uses it."""
    for line in (conf_dir() / group / f"{name}.yaml").read_text().splitlines():
        if line.startswith("#") and "@package" not in line:
            return line.lstrip("# ").strip()
    return ""
