"""Hydra overrides to checked jobs: `permlab -m task.order=original,spt seed=0,1` is four jobs, checked before any runs.

Hydra's own sweeper composes every job too, but only after it has made the sweep directory, and it cannot check ranges.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from permlab import registry, shipped
from permlab.config import Config, RootSchema, TaskSettings, build_config, register_schemas
from permlab.errors import UserError, blotted, did_you_mean, first_line
from permlab.points import Points
from permlab.runs.console import Progress
from permlab.runs.directory import check_free, check_writable
from permlab.runs.launchers import Launcher
from permlab.runs.sweep_values import check_jobs, count_values, expansions, first_values
from permlab.user_options import HYDRA_GROUPS, check_folder, check_interpolations

VERSION_BASE = "1.3"
FEW_JOBS = 20
"""Checked before anybody would want to see a progress bar."""
BRACKETS = 1_000
"""Most of one override: Hydra's grammar needs many seconds for thousands of levels."""
LAUNCHERS = {"joblib": "joblib", "submitit_slurm": "slurm", "submitit_local": "slurm", "ray": "ray"}
"""Hydra launcher -> the extra of permlab that brings it."""
SWEEPERS = ("basic", "optuna")
SWEEPS = (
    "permlab sweeps with Hydra's basic sweeper, whose jobs are all checked before the first runs; leave "
    "hydra/sweeper out and list values: permlab -m KEY=A,B 'KEY=range(1,5)'"
)
"""What is said of other sweepers."""


@dataclass
class Job:
    """One point of a sweep, or the only run: the overrides that Hydra gets for it and the checked result."""

    overrides: list[str]
    config: Config[TaskSettings]


@dataclass
class Plan:
    """All jobs of one command line.

    `overrides` is what Hydra gets, with `search` (where the options of the user and of plugins lie) before it; `varied`
    are the keys that differ between jobs.
    """

    jobs: list[Job]
    overrides: list[str]
    varied: list[str]
    multirun: bool
    search: list[str]
    launcher: Launcher
    searched: str | None = None
    """The objective of a search, whose jobs come up as it goes: `jobs` are then those that were checked before."""


def plan_jobs(overrides: list[str], multirun: bool, config_dir: str | None = None) -> Plan:
    """Compose and check every job of a command line.

    An experiment's `sweep` section is added first, except for keys that the command line sets itself.

    Raises:
        UserError: for the first thing that is wrong, in one or two lines.
    """
    # Hydra writes the overrides of a sweep down; a key that decides the result is refused below (`keep_secrets_out`).
    overrides = [blotted(each) if each.startswith(("run.name=", "tracker.")) else each for each in overrides]
    parsed = parse(overrides)
    activate_plugins(parsed)
    own = check_own_options(parsed, config_dir)
    search = search_path(config_dir)
    check_task_of_experiment({override.key_or_group: str(override.value()) for override in parsed})
    searching = any(each.key_or_group == "hydra/sweeper" and each.value() == "optuna" for each in parsed)
    first = first_values(parsed, searching)
    composed = compose_one([*first, *search], own, launcher := Launcher())
    sweep = composed.experiment.sweep
    given = {override.key_or_group for override in parsed}
    added = [f"{key}={values}" for key, values in sweep.items() if key not in given]
    parsed += parse(added)
    if searching:
        from permlab.runs.search import check_search, ends

        objective = composed.run.objective or getattr(registry.task(str(composed.task.name)), "OBJECTIVE", None)
        check_search(parsed, multirun, objective)
        ahead = [Job(point, build_config(compose_one([*point, *search], own))) for point in ends(parsed)]
        told = [] if "run.objective" in given else [f"run.objective={objective}"]
        overrides = [*overrides, *added, *told]
        varied = [each.get_key_element() for each in parsed if each.is_sweep_override()]
        return Plan(ahead, overrides, varied, True, search, launcher, str(objective))
    counts = [count_values(override) for override in parsed]
    check_jobs(math.prod(counts), composed.run.max_jobs)
    choices = [list(each) for each in expansions(parsed)]
    varied = [o.key_or_group for o, count in zip(parsed, counts) if count > 1]
    if varied and not (multirun or sweep):
        key = varied[0]
        raise UserError(f"{key} has several values; add -m to sweep over them (permlab -m {' '.join(overrides)})")
    combinations = [list(point) for point in itertools.product(*choices)]
    # The first is composed already, unless an experiment has added values to it: composing is most of the start-up.
    points = Points(parsed, lambda point: compose_one([*point, *search], own), {tuple(first): composed})
    jobs: list[Job] = []
    with Progress("checking jobs", len(combinations)) if len(combinations) > FEW_JOBS else nullcontext() as bar:
        for point in combinations:
            jobs.append(Job(point, build_config(points.composed(point))))
            if bar:
                bar.update(len(jobs))
    check_directories(jobs)
    several = multirun or len(jobs) > 1 or launcher.name != "basic"
    return Plan(jobs, [*overrides, *added], varied, several, search, launcher)


def activate_plugins(parsed: list[Any]) -> None:
    """Import the packages of `plugins=[...]` before anything is composed: they bring schemas and YAML options."""
    for override in parsed:
        if override.key_or_group == "plugins" and not override.is_sweep_override():
            value = override.value()
            registry.activate([str(name) for name in (value if isinstance(value, list) else [value])])
    register_schemas()


def search_path(config_dir: str | None = None) -> list[str]:
    """Return Hydra's override for the folders of options beside ours: `--config-dir` and those of plugins."""
    folders = [*([config_dir] if config_dir else []), *map(str, registry.plugin_folders())]
    quoted = ["'file://" + folder.replace("\\", "\\\\").replace("'", "\\'") + "'" for folder in folders]
    return [f"hydra.searchpath=[{','.join(quoted)}]"] if folders else []


def check_own_options(parsed: list[Any], config_dir: str | None = None) -> list[str]:
    """Check the folders of options that the user gives, before Hydra reads them, and return them."""
    folders = [config_dir] if config_dir else []
    for override in parsed:
        if override.key_or_group == "hydra.searchpath":
            value = override.value()
            given = [str(each) for each in (value if isinstance(value, list) else [value])]
            folders += [each.removeprefix("file://") for each in given if not each.startswith("pkg://")]
    known = [field.name for field in dataclasses.fields(RootSchema)]
    for folder in folders:
        check_folder(
            Path(folder), [*shipped.GROUPS, *(o.key_or_group for o in parsed if "." not in o.key_or_group)], known
        )
    return folders


def check_task_of_experiment(choices: dict[str, str]) -> None:
    """Refuse `experiment=spt/people task=ntk` here, where the reason is plain; composing would name some other key."""
    experiment, task = choices.get("experiment", "null"), choices.get("task")
    if task and "/" in experiment and experiment.partition("/")[0] != task:
        raise UserError(f"experiment={experiment} belongs to another task than task={task}; drop one of the two")


def check_directories(jobs: list[Job]) -> None:
    """Refuse run directories that hold something, and a sweep whose jobs would share one."""
    for place in dict.fromkeys(job.config.run.dir or job.config.run.root for job in jobs):
        check_writable(Path(place))
    for job in jobs:
        taken = job.config.resumes and (Path(job.config.run.dir or "") / "config.yaml").is_file()
        if job.config.run.dir and not taken:
            check_free(Path(job.config.run.dir))
    fixed = [job.config.run.dir for job in jobs if job.config.run.dir]
    if len(set(fixed)) < len(fixed):
        raise UserError("run.dir is the same for several jobs of this sweep; use run.root=DIR, or make it vary")


def parse(overrides: list[str]) -> list[Any]:
    """Parse Hydra override strings.

    Raises:
        UserError: for one that is not `key=value`.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    parser = OverridesParser.create()
    parsed = []
    for text in overrides:
        if sum(map(text.count, "[{(")) > BRACKETS:
            raise UserError(f"cannot read '{text[:60]}...': it has more than {BRACKETS} brackets")
        try:
            parsed += parser.parse_overrides([text])
        except (OverrideParseException, RecursionError) as error:
            hint = quoting(text) if "=" in text else f"; write {text}=VALUE, or see `permlab --help`"
            raise UserError(f"cannot read '{text}': {first_line(error)}{hint}") from error
    return parsed


def quoting(text: str) -> str:
    """Return how to write an override whose value is no word of Hydra's grammar, quoted for it and for the shell."""
    key, _, value = text.partition("=")
    if value[:1] in "'\"" or "'" in value or '"' in value:
        return "; quotes must be closed, and a value with quotes quoted"
    return f"; quote the value twice, for the shell and for Hydra: '{key}=\"{value}\"'"


def compose_one(overrides: list[str], own: Sequence[str] = (), launcher: Launcher | None = None) -> Any:
    """Compose one configuration with Hydra; user mistakes become `UserError`. `own`: folders of the user's options.

    A `launcher` that is given becomes the one of these overrides: Hydra composes its own part in any case.
    """
    from hydra import compose
    from omegaconf import OmegaConf, open_dict

    with conf_search_path():
        try:
            composed = compose("config", overrides=overrides, return_hydra_config=True)
            if launcher is not None:
                launcher.read(composed.hydra)
        except Exception as error:  # all that is read here was given by the user, and Hydra stumbles in many ways
            raise UserError(explain(error, overrides, own)) from error
        if own:
            aside = tuple(f"hydra{mark}{group}" for mark in "./" for group in (*HYDRA_GROUPS, "searchpath"))
            theirs = [(each, each.lstrip("+~")) for each in overrides]
            kept = [each for each, key in theirs if key.startswith(("hydra.", "hydra/")) and not key.startswith(aside)]
            usual = compose("config", overrides=kept, return_hydra_config=True)
            check_hydra_keys(composed.hydra, usual.hydra, own)
        with open_dict(composed):
            del composed["hydra"]
    check_interpolations(OmegaConf.to_container(composed, resolve=False), "the configuration")
    return composed


def check_hydra_keys(composed: Any, usual: Any, own: Sequence[str]) -> None:
    """Refuse what options of the user changed in Hydra beside its launcher and sweeper, by whichever way."""
    from omegaconf import OmegaConf

    aside = {*HYDRA_GROUPS, "runtime", "overrides", "searchpath", "mode"}
    now: Any = OmegaConf.to_container(composed, resolve=False)
    before: Any = OmegaConf.to_container(usual, resolve=False)
    for each in (now, before):
        del each["job"]["override_dirname"]
    for key in sorted((now.keys() | before.keys()) - aside):
        if now.get(key) != before.get(key):
            raise UserError(
                f"options in {', '.join(own)} set hydra.{key}; they may set hydra.launcher and hydra.sweeper"
            )


@contextmanager
def conf_search_path() -> Iterator[None]:
    """Point Hydra's compose API at our conf folder, and leave no global state behind."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(shipped.conf_dir()), version_base=VERSION_BASE, job_name="permlab"):
        yield


def explain(error: Exception, overrides: list[str], own: Sequence[str] = ()) -> str:
    """Say in one line what Hydra found wrong, with the closest existing name."""
    from hydra.errors import MissingConfigException

    text = str(error)
    if isinstance(error, MissingConfigException):
        missing = re.search(r"Could not (?:find|load) '([^']+)'", text)
        if missing and "/" in missing[1]:
            group, _, name = missing[1].rpartition("/")
            if group == "hydra/launcher":
                hint = (
                    f": pip install 'permlab[{LAUNCHERS[name]}]'"
                    if name in LAUNCHERS
                    else did_you_mean(name, LAUNCHERS)
                )
                return f"{group}={name} is not installed{hint}"
            if group == "hydra/sweeper":
                return f"{group}={name} is not there{did_you_mean(name, SWEEPERS)}; {SWEEPS}"
            if group.startswith("hydra/"):
                return f"{group}={name} is not known to Hydra; see `permlab --hydra-help`"
            group, _, name = missing[1].partition("/")
            return shipped.unknown(group, name)
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    unknown = re.search(r"Key '([^']+)' (?:is not in struct|not in '[^']*')", f"{cause}\n{text}")
    where = re.search(r"full_key: (\S+)", f"{cause}\n{text}")
    if unknown and where:
        key = where[1]
        file = re.search(r"^In '([^']+)'", text)
        prefix = f"in {file_of(file[1], own)}: " if file else ""
        return f"{prefix}unknown key '{key}'{did_you_mean(key, known_keys(overrides, key))}"
    override = re.search(r"Could not override '([^']+)'", text)
    if override:
        return f"unknown key '{override[1]}'{did_you_mean(override[1], known_keys(overrides, override[1]))}"
    if where and "does not support deletion" in str(cause):
        return (
            f"~{where[1]}: a key of permlab always has a value; set {where[1]}=VALUE, or leave it out for its default"
        )
    if where:
        return f"{where[1]}: {first_line(cause)}"
    plus = re.search(r"An item is already at '([^']+)'", text)
    if plus:
        return f"{plus[1]} exists already: write it without '+'"
    return re.sub(r"\s*\n\s*", "; ", text.strip()) or type(error).__name__


def file_of(name: str, own: Sequence[str]) -> str:
    """Return where an option lies that Hydra calls `dataset/mine`: with the user, or in our conf folder."""
    places = [Path(folder) / f"{name}.yaml" for folder in own]
    return str(next((place for place in places if place.is_file()), f"conf/{name}.yaml"))


def known_keys(overrides: list[str], unknown: str) -> list[str]:
    """Return every key path of the configuration that the group choices alone compose to, and the group names."""
    from hydra import compose
    from hydra.errors import HydraException
    from omegaconf import DictConfig

    composing = (*shipped.GROUPS, "hydra.searchpath")
    groups = [o for o in overrides if o.partition("=")[0] in composing and o.partition("=")[0] != unknown]
    with conf_search_path():
        try:
            config = compose("config", overrides=groups)
        except HydraException:
            return list(shipped.GROUPS)

    def walk(node: DictConfig, prefix: str) -> Iterator[str]:
        for key in map(str, node):
            yield f"{prefix}{key}"
            child = node._get_node(key)
            if isinstance(child, DictConfig) and not child._is_none():
                yield from walk(child, f"{prefix}{key}.")

    return [*shipped.GROUPS, *walk(config, "")]
