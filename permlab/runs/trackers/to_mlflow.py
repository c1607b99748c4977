"""`tracker=mlflow`: a file store, `mlruns` in the directory of the run or of its sweep, or the store of tracker.uri.

permlab -m seed=0,1 tracker=mlflow; mlflow ui --backend-store-uri outputs/sweeps/<stamp>-<id>/mlruns
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from permlab.config import Config, TaskSettings
from permlab.errors import UserError
from permlab.runs.trackers.naming import flat, group_of, run_name, status_of, sweep_name
from permlab.storage.files import read_json, write_json
from permlab.storage.locks import hold
from permlab.tables import is_number

FOLDER = "mlruns"
STATUS = {"done": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
MOST_PARAMS, MOST_METRICS = 100, 1000
"""Of one request, by MLflow's rules."""
VALUE_CHARACTERS = 500
"""Longest value of a parameter that every server takes."""
FLUSH_SECONDS = 1.0
"""Metrics are sent together, so that a server at a distance is not asked for each."""
LOCK_SECONDS = 5.0
"""To wait for another process that makes the same store."""


class MlflowTracker:
    """One MLflow run."""

    def __init__(self, client: Any, run_id: str, run_dir: Path, goes_on: bool = False) -> None:
        self._client, self._id, self._dir, self._step = client, run_id, run_dir, 0
        self._goes_on = goes_on
        self._there: dict[str, set[int]] = {}
        self._waiting: list[Any] = []
        self._sent = time.monotonic()

    @staticmethod
    def wanted(config: Config[TaskSettings]) -> bool:
        """Return True: it has a store in any case."""
        return True

    @staticmethod
    def prepare(config: Config[TaskSettings]) -> None:
        """Import the client, without its reports of use, and with short waits for a server."""
        for name, value in (
            ("MLFLOW_DISABLE_TELEMETRY", "true"),
            ("MLFLOW_ALLOW_FILE_STORE", "true"),
            ("MLFLOW_HTTP_REQUEST_TIMEOUT", "5"),
            ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1"),
        ):
            os.environ.setdefault(name, value)
        import mlflow.tracking  # noqa: F401

    @staticmethod
    def open(config: Config[TaskSettings], run_dir: Path) -> MlflowTracker:
        """Start a run; its id is kept in the run directory, so that a resumed run continues it."""
        from mlflow import MlflowClient
        from mlflow.entities import Param

        store = store_of(config, run_dir)
        client = MlflowClient(tracking_uri=store)
        id_file = run_dir / "mlflow.json"
        known = read_json(id_file) or {}
        if known.get("id") and known.get("store") == store:
            client.update_run(known["id"], status="RUNNING")
            return MlflowTracker(client, known["id"], run_dir, goes_on=True)
        tags = {
            "permlab.task": config.task.name,
            "permlab.group": group_of(config),
            "permlab.sweep": sweep_name(config),
            "permlab.experiment": config.experiment.name,
            "permlab.run_dir": str(run_dir),
            **dict.fromkeys(config.tracker.tags, "true"),
        }
        found = client.create_run(
            experiment_of(client, store, config.tracker.project),
            run_name=run_name(config, run_dir),
            tags={key: value for key, value in tags.items() if value},
        )
        run_id = found.info.run_id
        write_json(id_file, {"id": run_id, "project": config.tracker.project, "store": store})
        params = [Param(allowed(key), str(value)[:VALUE_CHARACTERS]) for key, value in flat(config.to_container())]
        for first in range(0, len(params), MOST_PARAMS):
            client.log_batch(run_id, params=params[first : first + MOST_PARAMS])
        client.log_artifact(run_id, str(run_dir / "config.yaml"))
        return MlflowTracker(client, run_id, run_dir)

    def log(self, metrics: dict[str, float], step: int | None) -> None:
        """Log one step, together with others of the same second; without a step it gets the one after the last."""
        self._step = self._step + 1 if step is None else step
        self._add({key: value for key, value in metrics.items() if key != "step" and not self._has(key)})
        if time.monotonic() - self._sent > FLUSH_SECONDS:
            self._flush()

    def rewind(self, step: int) -> None:
        """Go back in counting only: a store keeps its points, and what it has of a step is not sent again."""
        self._step = step

    def table(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Keep the table's file; MLflow's pages show CSV as a table."""
        self._client.log_artifact(self._id, str(self._dir / "tables" / f"{name}.csv"), "tables")

    def figure(self, name: str, png: Path) -> None:
        """Keep the figure's file."""
        self._client.log_artifact(self._id, str(png), "figures")

    def summary(self, metrics: dict[str, float]) -> None:
        """Log final numbers."""
        self._add(metrics)
        self._flush()

    def artifact(self, name: str, files: Sequence[Path], kind: str) -> None:
        """Keep models and other files; the tables are there already."""
        for path in files if kind != "tables" else ():
            if path.is_dir():
                self._client.log_artifacts(self._id, str(path), f"artifacts/{path.name}")
            else:
                self._client.log_artifact(self._id, str(path), "artifacts")

    def finish(self, exit_code: int) -> None:
        """Send what waits and close the run."""
        try:
            self._flush()
        finally:
            self._client.set_terminated(self._id, STATUS[status_of(exit_code)])

    def _add(self, metrics: dict[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._waiting += [Metric(allowed(k), float(v), now, self._step) for k, v in metrics.items() if is_number(v)]

    def _has(self, key: str) -> bool:
        """Whether the part of the run before a resume has logged `key` at this step."""
        if not self._goes_on:
            return False
        if key not in self._there:
            self._there[key] = {point.step for point in self._client.get_metric_history(self._id, allowed(key))}
        return self._step in self._there[key]

    def _flush(self) -> None:
        waiting, self._waiting, self._sent = self._waiting, [], time.monotonic()
        for first in range(0, len(waiting), MOST_METRICS):
            self._client.log_batch(self._id, metrics=waiting[first : first + MOST_METRICS])


def store_of(config: Config[TaskSettings], run_dir: Path) -> str:
    """Return the address of the store: tracker.uri, else a folder of the sweep (jobs are compared) or of the run."""
    uri = config.tracker.uri
    local = uri is None or "://" not in uri
    if not local and not (config.tracker.mode == "offline" and str(uri).startswith("http")):
        return str(uri)
    folder = Path(uri or "") if local and uri else Path(config.run.sweep or run_dir) / FOLDER
    return folder.absolute().as_uri()


def experiment_of(client: Any, store: str, name: str) -> str:
    """Return the id of an experiment of the store, which is made where it is not there, by one process at a time."""
    if not store.startswith("file:"):
        return made(client, name)
    from urllib.parse import unquote, urlparse

    folder = Path(unquote(urlparse(store).path))
    folder.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            with hold(folder):
                return made(client, name)
        except UserError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def made(client: Any, name: str) -> str:
    """Return the id of an experiment, which is made where it is not there."""
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found else client.create_experiment(name))


def allowed(key: str) -> str:
    """Return a name with the characters that MLflow allows; with more of them, a file store would leave its folder."""
    return re.sub(r"[^\w./ -]", "_", key).strip("/.") or "_"
