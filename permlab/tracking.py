"""Which trackers there are and what they are told: `permlab 'tracker=[wandb,tensorboard]' tracker.artifacts=true`.

A tracker is a class with the calls of `permlab.runs.trackers.mirror.Tracker`, a row here (or in a package of your own),
and a YAML in conf/tracker that says `mirrors: {NAME: true}`: the options of a list are merged, so each adds its name.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field

from permlab.errors import UserError, check_choice, check_range
from permlab.keys import choice
from permlab.registry import Row, Table

NONE = "none"
"""The name of no tracker at all."""
MODES = ("auto", "online", "offline", "disabled")


@dataclass(frozen=True)
class TrackerRow(Row):
    """A tracker: `target` is its class.

    Attributes:
        package: what it imports; looked for, not imported, before a run starts.
        at_exit: the share of tracker.patience that its library may take when the process ends.
        extra: of permlab that brings the package (`pip install 'permlab[EXTRA]'`); empty where permlab needs it anyway.
    """

    package: str = ""
    extra: str = ""
    at_exit: float = 0.0


TRACKERS = Table(
    "tracker",
    [
        TrackerRow(
            "wandb",
            "Weights & Biases: online where a key exists, else an offline copy in the run directory",
            label="W&B",
            target="permlab.runs.trackers.to_wandb:WandbTracker",
            package="wandb",
            at_exit=0.35,
        ),
        TrackerRow(
            "tensorboard",
            "TensorBoard: event files in the run directory",
            label="TensorBoard",
            target="permlab.runs.trackers.to_tensorboard:TensorboardTracker",
            package="tensorboard",
            extra="tensorboard",
        ),
        TrackerRow(
            "mlflow",
            "MLflow: a file store in the directory of the run or its sweep, or the store of tracker.uri",
            label="MLflow",
            target="permlab.runs.trackers.to_mlflow:MlflowTracker",
            package="mlflow",
            extra="mlflow",
        ),
    ],
)


@dataclass
class TrackerConfig:
    """Where metrics are mirrored; metrics.jsonl is always written first."""

    name: str | None = None
    """One tracker, as the configurations of older runs have it."""
    mirrors: dict[str, bool] = field(default_factory=dict)
    """Tracker -> whether it is on; set by `tracker=NAME` and `tracker=[NAME,NAME]`."""
    mode: str = choice("auto", MODES)
    """offline reaches no server; auto is online where one is named: a key of W&B, tracker.uri."""
    project: str = "permlab"
    """Project (of W&B) or experiment (of MLflow) that the runs go to."""
    entity: str | None = None
    """Team or user of the project at W&B; null is the account's own."""
    group: str | None = None
    """null = the sweep, then the experiment."""
    tags: list[str] = field(default_factory=list)
    """Labels of the run."""
    uri: str | None = None
    """Store of MLflow: a folder, http://..., or sqlite:///FILE; null is mlruns in the directory of the run or sweep."""
    artifacts: bool = False
    """Keep tables and trained models with the tracker, as artifacts of W&B and MLflow."""
    artifacts_mb: float = 100.0
    """Largest artifact in MB; larger ones stay in the run directory alone."""
    init_timeout: float = 6.0
    """Seconds to wait for the server of W&B before the run goes on offline."""
    patience: float = 10.0
    """Seconds that a run waits for all trackers together, at its start and end; more for large uploads."""

    @property
    def names(self) -> list[str]:
        """The trackers that are on."""
        if self.name == NONE:
            return []
        wanted = [*([self.name] if self.name else []), *(name for name, on in self.mirrors.items() if on)]
        return list(dict.fromkeys(wanted))


def check_tracker(tracker: TrackerConfig) -> None:
    """Refuse an unknown tracker, one whose package is not installed, and times and sizes out of range.

    Raises:
        UserError: naming the key, and the command that installs what is missing.
    """
    for name in [*([tracker.name] if tracker.name else []), *tracker.mirrors]:
        if name != NONE:
            check_choice("tracker", name, [*TRACKERS, NONE])
    for name in tracker.names:
        row = TRACKERS[name]
        if row.package and importlib.util.find_spec(row.package) is None:
            install = f"permlab[{row.extra}]" if row.extra else row.package
            raise UserError(f"tracker={name} needs the package {row.package}: pip install '{install}'")
    check_choice("tracker.mode", tracker.mode, MODES)
    check_range("tracker.init_timeout", tracker.init_timeout, 0, 10)
    check_range("tracker.patience", tracker.patience, 0)
    check_range("tracker.artifacts_mb", tracker.artifacts_mb, 0)
