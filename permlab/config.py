"""The typed configuration of one run; every task owns its own dataclass in `permlab/tasks/`.

    permlab task=spt seed=3 run.dry_run=true        # compose, validate, print the plan

Hydra composes YAML on these schemas (unknown keys and wrong types fail there); `build_config` then re-merges the plain
result onto the dataclasses, which also refuses what `+key=value` smuggled in. Nothing heavy is imported here.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from permlab import registry, shipped
from permlab.debug import DebugConfig, check_debug
from permlab.division import check_division, shares
from permlab.errors import UserError, check_choice, check_range, did_you_mean, first_line
from permlab.experiment import ExperimentConfig, check_experiment
from permlab.hardware import HardwareConfig, JobKeys, check_hardware
from permlab.keys import choice
from permlab.tracking import TrackerConfig, check_tracker
from permlab.user_options import check_interpolations, keep_secrets_out, refuse_interpolations
from permlab.version import __version__

RESUMES = ("auto", "never")
"""What `run.resume` may say."""
KEPT_PARTS = 100
"""Parts of configurations that `typed` remembers."""
PLAIN = (str, int, float, bool)


class TaskSettings(Protocol):
    """What every task's dataclass has."""

    name: str


T = TypeVar("T", bound=TaskSettings, covariant=True)


@dataclass
class RunConfig:
    """Where a run lives and how it behaves; nothing here changes its result."""

    root: str = "outputs"
    """Folder that holds all runs: <root>/<task>/<UTC stamp>-<short id>/."""
    dir: str | None = None
    """Exact run directory; refused when it exists and is not empty."""
    name: str | None = None
    """A label for tables, reports and the tracker."""
    dry_run: bool = False
    """Resolve, validate, check files and memory, print the plan, write nothing."""
    skip_finished: bool = False
    """Do nothing when a finished run of the same fingerprint lies under root."""
    resume: str | None = choice(None, RESUMES)
    """Of the same settings under root: auto takes a finished run as it is, goes on with one that was interrupted or
    killed, and starts what else there is; never starts anew; null is auto for experiments and never for other runs."""
    force: bool = False
    """Start also what needs more memory than there is, by the estimate."""
    fail_fast: bool = False
    """Start no further job of a sweep once one has failed."""
    objective: str | None = None
    """The metric by which a sweep names its best job, and a search goes: most of it, or with a minus sign the least."""
    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints."""
    checkpoint_steps: int | None = None
    """Steps between checkpoints, for tasks that count steps; replaces checkpoint_seconds."""
    deterministic: bool = False
    """Only algorithms that give the same bits every time, on GPUs too; slower, and an operation without one fails."""
    max_jobs: int = 2000
    """Most jobs of one sweep; more are refused before the first is composed."""
    sweep: str | None = None
    """Set by permlab: the sweep directory that this run belongs to."""


@dataclass
class ReportSettings:
    """What `task=report` reads and shows."""

    runs: list[str] = field(default_factory=list)
    """Run directories, sweep directories, folders that hold them, or globs; empty is everything under run.root."""
    title: str = "permlab report"
    """Heading of the page."""
    figures: int = 4
    """Configurations per experiment whose own figures are embedded; the rest is linked."""
    watch: bool = False
    """Write the report again whenever a run has moved on, until Ctrl-C; an open page reads itself again."""
    interval: float = 10.0
    """Seconds between two looks at the runs with watch=true."""


@dataclass
class NoneConfig:
    """`model=none` and `dataset=none`: for tasks that bring their own."""

    name: str = "none"
    kind: str = "none"


@dataclass
class RootSchema:
    """The schema that Hydra composes onto."""

    task: Any = None
    model: Any = None
    dataset: Any = None
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    run: RunConfig = field(default_factory=RunConfig)
    experiment: ExperimentConfig = field(default_factory=ExperimentConfig)
    debug: DebugConfig = field(default_factory=DebugConfig)
    report: ReportSettings = field(default_factory=ReportSettings)
    seed: int = 0
    plugins: list[str] = field(default_factory=list)
    """Modules of other packages whose tasks, methods and data sets are to be known (`registry.activate`)."""


@dataclass
class Config(Generic[T]):
    """One validated run: what every `tasks.<name>.run(config, run)` receives, as `Config[SptConfig]`.

    What serves every task takes `Config[TaskSettings]`. The model and the data set are of one of the kinds that the
    task lists as `MODELS` and `DATASETS`.
    """

    task: T
    model: Any
    dataset: Any
    hardware: HardwareConfig
    tracker: TrackerConfig
    run: RunConfig
    experiment: ExperimentConfig
    seed: int
    debug: DebugConfig = field(default_factory=DebugConfig)
    report: ReportSettings = field(default_factory=ReportSettings)
    plugins: list[str] = field(default_factory=list)

    def to_container(self) -> dict[str, Any]:
        """Return plain dicts, lists and scalars, as written to `config.yaml`; `report` for task=report only,
        `debug` for debug runs only.

        How an experiment is reproduced is left out: it is about other runs.
        """
        plain = dataclasses.asdict(self)
        del plain["experiment"]["reproduce"]
        absent = {"report": self.task.name != "report", "plugins": not self.plugins}
        absent["debug"] = not self.debug.on
        return {key: value for key, value in plain.items() if not absent.get(key)}

    @property
    def resumes(self) -> bool:
        """Whether a run of the same settings that lies under the root is taken up, see `run.resume`."""
        return (self.run.resume or ("auto" if self.experiment.name else "never")) == "auto"

    def fingerprint(self) -> str:
        """Return a hash of everything that decides the result: run directory, tracker and plugins are left out."""
        aside = ("run", "tracker", "experiment", "plugins")
        decisive = {k: v for k, v in self.to_container().items() if k not in aside}
        # What a job asks of its launcher decides where it runs, not what it finds.
        asked = {each.name for each in dataclasses.fields(JobKeys)}
        decisive["hardware"] = {k: v for k, v in decisive["hardware"].items() if k not in asked}
        text = json.dumps({"version": __version__, **decisive}, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


_registered: set[tuple[str | None, str, type]] = set()


def register_schemas() -> None:
    """Put every schema into Hydra's ConfigStore under the hidden group `schema`, once each, as storing is slow."""
    from hydra.core.config_store import ConfigStore

    wanted: set[tuple[str | None, str, type]] = {(None, "root_schema", RootSchema)}
    for kind in ("task", "model", "dataset"):
        wanted |= {(f"schema/{kind}", name, schema) for name, schema in registry.schemas(kind).items()}
    for group, name, schema in wanted - _registered:
        ConfigStore.instance().store(group=group, name=name, node=schema)
    _registered.update(wanted)


def build_config(composed: Any) -> Config[TaskSettings]:
    """Turn a composed or loaded configuration into a checked `Config`.

    Raises:
        UserError: for an unknown key, a wrong type, a value out of range, or a model or dataset the task cannot use.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        found = composed
        if OmegaConf.is_config(composed):
            check_interpolations(OmegaConf.to_container(composed, resolve=False), "the configuration")
            found = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(f"the configuration has a value that cannot be resolved: {first_line(error)}") from error
    if not isinstance(found, dict):
        raise UserError("the configuration is not a mapping of keys")
    plain = {str(key): value for key, value in found.items() if key != "hydra"}
    refuse_interpolations(plain)
    check_keys("", plain, [f.name for f in dataclasses.fields(RootSchema)])
    parts: dict[str, Any] = {"seed": plain.get("seed", 0), "plugins": list(plain.get("plugins") or [])}
    registry.activate(parts["plugins"])
    for part in ("hardware", "tracker", "run", "experiment", "debug", "report"):
        schema = {f.name: f.default_factory for f in dataclasses.fields(RootSchema)}[part]
        parts[part] = typed(part, schema, plain.get(part) or {})
    for group in ("task", "model", "dataset"):
        parts[group] = typed(group, schema_for(group, plain.get(group)), plain.get(group) or {})
    config: Config[TaskSettings] = Config(**parts)
    keep_secrets_out(config)
    validate(config)
    return config


def shipped_experiment(name: str) -> ExperimentConfig:
    """Return the `experiment:` section of an experiment's file, checked for keys and types but not composed."""
    about: ExperimentConfig = typed("experiment", ExperimentConfig, shipped.experiment(name))
    return about


def schema_for(group: str, values: Any) -> type:
    """Return the dataclass for a composed task (by `name`), model or dataset (by `schema` key `kind`)."""
    key = "name" if group == "task" else "kind"
    name = values.get(key) if isinstance(values, dict) else None
    options = registry.schemas(group)
    if not isinstance(name, str) or name not in options:
        raise UserError(f"{group}.{key}={name} is not known{did_you_mean(str(name), options)} ({', '.join(options)})")
    return options[name]


_typed: dict[tuple[str, Any, str], Any] = {}


def typed(prefix: str, schema: Any, values: dict[str, Any]) -> Any:
    """Merge plain values onto a dataclass and return the instance.

    The jobs of a sweep share most of their parts: what was merged before is copied, which is far faster.

    Raises:
        UserError: naming the key, for an unknown key or a value of the wrong type.
    """
    key = (prefix, schema, repr(values))
    if key not in _typed:
        made = _merge_typed(prefix, schema, values)
        if len(_typed) >= KEPT_PARTS:
            _typed.clear()
        _typed[key] = made
    return copy.deepcopy(_typed[key])


def _merge_typed(prefix: str, schema: Any, values: dict[str, Any]) -> Any:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    structured = OmegaConf.structured(schema)
    check_nested_keys(prefix, values, structured)
    try:
        return OmegaConf.to_object(OmegaConf.merge(structured, OmegaConf.create(values)))
    except OmegaConfBaseException as error:
        raise UserError(f"{prefix}.{error.full_key or ''}: {first_line(error)}") from error


def check_nested_keys(prefix: str, values: dict[str, Any], structured: Any) -> None:
    """Refuse keys that a structured config does not have, at any depth, naming the closest one.

    Refused too is what OmegaConf lets through: a mapping or a list among the plain values of a list.
    """
    from omegaconf import DictConfig, ListConfig

    check_keys(prefix, values, list(structured.keys()))
    for key, value in values.items():
        child = structured._get_node(key)
        if (
            isinstance(value, dict)
            and isinstance(child, DictConfig)
            and child._metadata.object_type not in (dict, None)
        ):
            check_nested_keys(f"{prefix}.{key}", value, child)
        if isinstance(value, list) and isinstance(child, ListConfig) and child._metadata.element_type in PLAIN:
            for item in value:
                if isinstance(item, (dict, list)):
                    raise UserError(f"{prefix}.{key}: {str(item)[:60]} is no plain value")


def check_keys(prefix: str, values: dict[str, Any], known: list[str]) -> None:
    """Refuse unknown keys of one level."""
    for key in values:
        if key not in known:
            where = f"{prefix}." if prefix else ""
            hint = did_you_mean(str(key), known)
            raise UserError(f"unknown key '{where}{key}'{hint} (known: {', '.join(known)})")


def validate(config: Config[TaskSettings]) -> None:
    """Check ranges, choices and that task, model and dataset fit; the task's own checks come last.

    Raises:
        UserError: with one line that names the key and the remedy.
    """
    task = registry.task(config.task.name)
    for group, part, fitting in (("model", config.model, task.MODELS), ("dataset", config.dataset, task.DATASETS)):
        if part.kind not in fitting:
            options = [name for name, kind in shipped.kinds(group).items() if kind in fitting]
            raise UserError(
                f"{group}={part.name} does not fit task={config.task.name}; fitting: {', '.join(options) or 'nothing'}"
            )
    check_tracker(config.tracker)
    check_hardware(config.hardware)
    check_range("run.checkpoint_seconds", config.run.checkpoint_seconds, 0)
    check_range("run.max_jobs", config.run.max_jobs, 1)
    if config.run.resume is not None:
        check_choice("run.resume", config.run.resume, RESUMES)
    if config.run.checkpoint_steps is not None:
        check_range("run.checkpoint_steps", config.run.checkpoint_steps, 1)
    check_range("seed", config.seed, 0, 2**32 - 1)
    if config.task.name != "report" and config.report != ReportSettings():
        raise UserError(f"the keys report.* belong to task=report, not to task={config.task.name}")
    check_experiment(config.experiment, config.to_container())
    check_debug(config.debug, config.to_container())
    task.validate(config)
    check_division(config.hardware, config.task.name, shares(config))
