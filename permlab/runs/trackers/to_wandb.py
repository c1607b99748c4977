"""`tracker=wandb`: Weights & Biases, online where a key exists, else a copy in the run directory for `wandb sync`."""

from __future__ import annotations

import os
import re
import secrets
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from permlab.config import Config, TaskSettings
from permlab.errors import blotted, first_line
from permlab.runs.console import LOGGER
from permlab.runs.trackers.naming import group_of, run_name
from permlab.storage.deadline import within
from permlab.storage.files import read_json, write_json
from permlab.tracking import TRACKERS

REFUSED = 2
"""Exit code of a run that ended by a mistake of the user."""
PROBE_SECONDS = 3.0
"""How long the W&B server may take to answer at all before its client is started; without a network it never does."""
MOST_SECONDS = 10.0
"""All that a server that does not do its work may cost a run."""
OFFLINE_SECONDS = 4.0
"""What starting an offline copy takes of that on a busy machine."""


class WandbTracker:
    """One W&B run."""

    def __init__(self, run: Any, offline: bool) -> None:
        self.run, self.offline = run, offline

    @staticmethod
    def wanted(config: Config[TaskSettings]) -> bool:
        """Whether WANDB_MODE does not turn it off."""
        return mode_of(config) != "disabled"

    @staticmethod
    def prepare(config: Config[TaskSettings]) -> None:
        """Import wandb, quiet."""
        os.environ.setdefault("WANDB_SILENT", "true")
        if not os.environ.get("WANDB_MODE"):
            os.environ.pop("WANDB_MODE", None)  # wandb refuses an empty one
        # Its own error reports would be sent when the process ends, and wait there for a server that is not reached.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb  # noqa: F401

    @staticmethod
    def open(config: Config[TaskSettings], run_dir: Path) -> WandbTracker:
        """Start a run; its id is kept in the run directory, so that a resumed run continues it."""
        id_file = run_dir / "wandb.json"
        known = read_json(id_file) or {}
        options = dict(
            project=config.tracker.project,
            entity=config.tracker.entity,
            group=group_of(config),
            job_type=config.task.name,
            name=run_name(config, run_dir),
            tags=config.tracker.tags or None,
            config={**config.to_container(), "run_dir": str(run_dir)},
            dir=str(run_dir),
            # An id of our own: one that W&B draws can repeat between jobs, whose random states are set to equal seeds.
            id=known.get("id") or secrets.token_hex(4),
            resume="allow" if known else None,
            reinit="finish_previous",
        )
        run, offline = start_wandb(options, mode_of(config), config.tracker.init_timeout, config.tracker.patience)
        kept = {"id": run.id, "project": config.tracker.project, "mode": "offline" if offline else "online"}
        write_json(id_file, kept)
        return WandbTracker(run, offline)

    def log(self, metrics: dict[str, float], step: int | None) -> None:
        """Log one step; W&B's own step only grows, so ours travels as a metric."""
        self.run.log({**metrics, **({} if step is None else {"step": step})})

    def rewind(self, step: int) -> None:
        """Do nothing: W&B's history is only added to; lines that come again have the same `step`."""

    def table(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Log a table."""
        import wandb

        columns = list(dict.fromkeys(key for row in rows for key in row))
        data = [[_plain(row.get(column)) for column in columns] for row in rows]
        self.run.log({f"tables/{name}": wandb.Table(columns=[*columns], data=data)})

    def figure(self, name: str, png: Path) -> None:
        """Log a figure."""
        import wandb

        self.run.log({f"figures/{name}": wandb.Image(str(png))})

    def summary(self, metrics: dict[str, float]) -> None:
        """Set the run's summary."""
        self.run.summary.update(metrics)

    def artifact(self, name: str, files: Sequence[Path], kind: str) -> None:
        """Log an artifact `<name>-<run id>`; the files are read where they are, without a second copy."""
        import wandb

        found = wandb.Artifact(re.sub(r"[^\w.-]", "_", f"{name}-{self.run.id}"), type=kind)
        for path in files:
            add = found.add_dir if path.is_dir() else found.add_file
            add(str(path), name=None if path.is_dir() else path.name, policy="immutable", skip_cache=True)
        self.run.log_artifact(found)

    def finish(self, exit_code: int) -> None:
        """Close the run, so that the next job of a sweep does not log into it."""
        kept = Path(self.run.dir).parent
        try:
            self.run.finish(exit_code=exit_code)
        except TimeoutError:
            LOGGER.warning(
                "W&B did not take everything in time (tracker.patience); upload the rest: wandb sync %s", kept
            )
        if self.offline and exit_code != REFUSED:  # the directory of a refused run, and the copy in it, do not stay
            LOGGER.info("W&B kept an offline copy; upload it with: wandb sync %s", kept)


def start_wandb(options: dict[str, Any], mode: str, timeout: float, patience: float = 10.0) -> tuple[Any, bool]:
    """Start a W&B run; fall back to offline when the server does not answer in time. Returns (run, offline).

    Args:
        options: of `wandb.init`.
        mode: online or offline.
        timeout: seconds for the server to start the run.
        patience: seconds, of which it may take the row's `at_exit` to close, and again when the process ends.
    """
    started = time.monotonic()
    if mode == "online" and not answers(server_url(), min(PROBE_SECONDS, timeout)):
        LOGGER.warning("W&B: %s does not answer; going on offline", server_url())
        mode = "offline"
    import wandb

    if mode == "online":
        try:
            left = MOST_SECONDS - OFFLINE_SECONDS - (time.monotonic() - started)
            settings = wandb.Settings(
                init_timeout=max(1.0, min(timeout, left)),
                finish_timeout=max(TRACKERS["wandb"].at_exit * patience, 0.1),
                finish_timeout_raises=True,
                silent=True,
            )
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


def mode_of(config: Config[TaskSettings]) -> str:
    """Resolve tracker.mode: auto is online if a key exists and WANDB_MODE does not say otherwise, else offline."""
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


def _plain(value: Any) -> Any:
    return value if isinstance(value, (int, float, str, bool)) or value is None else str(value)
