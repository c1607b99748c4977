"""Mirrors of the metrics: `tracker=wandb` (Weights & Biases) or `tracker=none`. Nothing is ever read back."""

from __future__ import annotations

import os
import secrets
import sys
import time
from pathlib import Path
from typing import Any, Literal, Protocol

from permlab.config import TRACKERS, Config, TaskSettings
from permlab.errors import blotted, check_choice, first_line
from permlab.runs.console import LOGGER
from permlab.storage.deadline import within
from permlab.storage.files import read_json, write_json

REFUSED = 2
"""Exit code of a run that ended by a mistake of the user."""
PROBE_SECONDS = 3.0
"""How long the W&B server may take to answer at all before its client is started; without a network it never does."""
MOST_SECONDS = 10.0
"""All that a server that does not do its work may cost a run."""
OFFLINE_SECONDS = 4.0
"""What starting an offline copy takes of that on a busy machine."""


class Tracker(Protocol):
    """The five calls a tracker answers."""

    def log(self, metrics: dict[str, float], step: int | None) -> None:
        """Record metrics of one step."""

    def table(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Record a table."""

    def figure(self, name: str, png: Path) -> None:
        """Record a figure."""

    def summary(self, metrics: dict[str, float]) -> None:
        """Record final numbers."""

    def finish(self, exit_code: int) -> None:
        """Close the run; called exactly once, whatever happened."""


class NullTracker:
    """Records nothing."""

    def log(self, metrics: dict[str, float], step: int | None) -> None:
        """Do nothing."""

    def table(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Do nothing."""

    def figure(self, name: str, png: Path) -> None:
        """Do nothing."""

    def summary(self, metrics: dict[str, float]) -> None:
        """Do nothing."""

    def finish(self, exit_code: int) -> None:
        """Do nothing."""


class WandbTracker:
    """One W&B run. A failure of the mirror is a warning, never the end of the run."""

    def __init__(self, run: Any, offline: bool) -> None:
        self.run, self.offline = run, offline

    def log(self, metrics: dict[str, float], step: int | None) -> None:
        """Log one step; W&B's own step only grows, so ours travels as a metric."""
        self._try(lambda: self.run.log({**metrics, **({} if step is None else {"step": step})}))

    def table(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Log a table."""
        import wandb

        columns = list(dict.fromkeys(key for row in rows for key in row))
        data = [[_plain(row.get(column)) for column in columns] for row in rows]
        self._try(lambda: self.run.log({f"tables/{name}": wandb.Table(columns=[*columns], data=data)}))

    def figure(self, name: str, png: Path) -> None:
        """Log a figure."""
        import wandb

        self._try(lambda: self.run.log({f"figures/{name}": wandb.Image(str(png))}))

    def summary(self, metrics: dict[str, float]) -> None:
        """Set the run's summary."""
        self._try(lambda: self.run.summary.update(metrics))

    def finish(self, exit_code: int) -> None:
        """Close the run, so that the next job of a sweep does not log into it."""
        self._try(lambda: self.run.finish(exit_code=exit_code))
        if self.offline and exit_code != REFUSED:  # the directory of a refused run, and the copy in it, do not stay
            LOGGER.info("W&B kept an offline copy; upload it with: wandb sync %s", Path(self.run.dir).parent)

    def _try(self, action: Any) -> None:
        try:
            action()
        except Exception as error:
            LOGGER.warning("W&B: %s", first_line(error))


def open_tracker(config: Config[TaskSettings], run_dir: Path) -> Tracker:
    """Start the tracker of a run; its id is kept in the run directory, so that a resumed run continues it."""
    mode = tracker_mode(config)
    if mode == "disabled":
        return NullTracker()
    id_file = run_dir / "wandb.json"
    known = read_json(id_file) or {}
    options = dict(
        project=config.tracker.project,
        entity=config.tracker.entity,
        group=config.tracker.group or sweep_name(config) or config.experiment.name,
        job_type=config.task.name,
        name=config.run.name or f"{config.task.name}-{config.model.name}-{run_dir.name[-4:]}",
        tags=config.tracker.tags or None,
        config={**config.to_container(), "run_dir": str(run_dir)},
        dir=str(run_dir),
        # An id of our own: one that W&B draws can repeat between jobs, whose random states are set to equal seeds.
        id=known.get("id") or secrets.token_hex(4),
        resume="allow" if known else None,
        reinit="finish_previous",
    )
    try:
        run, offline = start_wandb(options, mode, config.tracker.init_timeout)
    except Exception as error:
        LOGGER.warning("W&B could not start (%s); metrics.jsonl goes on", first_line(error))
        return NullTracker()
    write_json(id_file, {"id": run.id, "project": config.tracker.project, "mode": "offline" if offline else "online"})
    return WandbTracker(run, offline)


def start_wandb(options: dict[str, Any], mode: str, timeout: float) -> tuple[Any, bool]:
    """Start a W&B run; fall back to offline when the server does not answer in time. Returns (run, offline)."""
    started = time.monotonic()
    os.environ.setdefault("WANDB_SILENT", "true")
    if not os.environ.get("WANDB_MODE"):
        os.environ.pop("WANDB_MODE", None)  # wandb refuses an empty one
    if mode == "online" and not answers(server_url(), min(PROBE_SECONDS, timeout)):
        LOGGER.warning("W&B: %s does not answer; going on offline", server_url())
        mode = "offline"
    # Its own error reports would be sent when the process ends, and wait there for a server that is not reached.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    if mode == "online":
        try:
            left = MOST_SECONDS - OFFLINE_SECONDS - (time.monotonic() - started)
            settings = wandb.Settings(init_timeout=max(1.0, min(timeout, left)), silent=True)
            return initialise(options, "online", settings), False
        except Exception as error:
            LOGGER.warning("W&B is not reachable within %.0f s (%s); going on offline", timeout, first_line(error))
            # The server, or its client here, may hold the first id for taken: the offline copy gets one of its own.
            options = {**options, "id": secrets.token_hex(4), "resume": None}
    return initialise(options, "offline", wandb.Settings(silent=True)), True


def initialise(options: dict[str, Any], mode: Literal["online", "offline"], settings: Any) -> Any:
    """Start W&B's client, which writes the command line down: without what is secret in it."""
    import wandb

    before = sys.argv
    sys.argv = [blotted(argument) for argument in before]
    try:
        return wandb.init(**options, mode=mode, settings=settings)
    finally:
        sys.argv = before


def server_url() -> str:
    """Return the address of the W&B server."""
    return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").rstrip("/")


def answers(url: str, seconds: float) -> bool:
    """Return whether a server answers a query in time, with whatever; a proxy before it may answer all but queries."""
    import urllib.error
    import urllib.request

    query, kind = b'{"query": "{ __typename }"}', {"Content-Type": "application/json"}
    try:
        request = urllib.request.Request(f"{url}/graphql", query, kind)
        within(seconds, lambda: urllib.request.urlopen(request, timeout=seconds))
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False
    return True


def tracker_mode(config: Config[TaskSettings]) -> str:
    """Resolve tracker.mode: auto is online if a key exists and WANDB_MODE does not say otherwise, else offline."""
    check_choice("tracker.name", config.tracker.name, TRACKERS)
    if config.tracker.name == "none":
        return "disabled"
    if config.tracker.mode != "auto":
        return config.tracker.mode
    wanted = os.environ.get("WANDB_MODE")
    if wanted in ("online", "offline", "disabled"):
        return wanted
    return "online" if has_key() else "offline"


def has_key() -> bool:
    """Return whether a W&B key is set or stored by `wandb login`, without importing wandb."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    import netrc

    host = server_url().split("//")[-1].split("/")[0]
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def sweep_name(config: Config[TaskSettings]) -> str | None:
    """Return the sweep's name, or None outside a sweep."""
    return Path(config.run.sweep).name if config.run.sweep else None


def _plain(value: Any) -> Any:
    return value if isinstance(value, (int, float, str, bool)) or value is None else str(value)
