"""One run: its directory, metrics, tables, figures, progress, checkpoints and tracker; all that a task needs to know.

run.log({"loss": 0.1}, step=10); run.table("accuracy", rows); run.summary(forward_accuracy=0.98)
"""

from __future__ import annotations

import errno
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from permlab.config import Config, TaskSettings
from permlab.errors import UserError, first_line
from permlab.runs import pruning
from permlab.runs.console import LOGGER, Progress, print_table
from permlab.runs.environment import peak_rss_mb
from permlab.runs.signals import StopRequest
from permlab.runs.trackers.mirror import NullTracker, Tracker
from permlab.storage.files import finite, overwrite_json, read_json, replacing, save_figure, sync, write_csv, write_json
from permlab.storage.locks import Lock
from permlab.tables import is_number
from permlab.version import __version__

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure

KEPT_CHECKPOINTS = 2
KEPT = ("checkpoints", "artifacts/trained/*")
"""Where tasks keep what a resumed run starts from; nothing is put there before its numbers were found finite."""
MOST_WARNINGS = 50
RESERVE = ".reserve"
RESERVED_BYTES = 64 * 1024
"""Given free when the disk is full, so that result.json can still say how the run ended."""


class RunLostError(RuntimeError):
    """The run directory was removed or replaced while the run was going: there is nowhere to write to."""


class Run:
    """The directory and the outputs of one run. Made by `runs.execute`; tasks only use it."""

    def __init__(
        self,
        config: Config[TaskSettings],
        directory: Path,
        stop: StopRequest,
        resumed: bool = False,
        lock: Lock | None = None,
    ) -> None:
        self.config, self.dir, self.resumed = config, directory, resumed
        self._lock = lock
        self.seed = config.seed
        self.tracker: Tracker = NullTracker()
        self._stop = stop
        self._started = time.monotonic()
        self._last_checkpoint = self._started
        before = read_json(directory / "result.json") if resumed else None
        before = before if isinstance(before, dict) else {}
        seconds, known, warned = (before.get(key) for key in ("seconds", "artifacts", "warnings"))
        self._seconds_before = float(seconds) if is_number(seconds) else 0.0
        listed = [name for name in known if isinstance(name, str)] if isinstance(known, list) else []
        self._result: dict[str, Any] = {
            "task": config.task.name,
            "status": "running",
            "metrics": {},
            # What an earlier part of the run wrote is not written again after a resume.
            "artifacts": [name for name in listed if (directory / name).exists()],
            "warnings": [text for text in warned if isinstance(text, str)] if isinstance(warned, list) else [],
            "seconds": self._seconds_before,
            "peak_rss_mb": 0.0,
            "seed": config.seed,
            "fingerprint": config.fingerprint(),
            "version": __version__,
            "name": config.run.name,
            "experiment": config.experiment.name,
            "sweep": config.run.sweep,
        }
        if config.debug.on:
            self._result["debug"] = config.debug.name or "on"
        (directory / RESERVE).write_bytes(bytes(RESERVED_BYTES))
        self._spare: int | None = os.open(os.devnull, os.O_RDONLY)
        self._metrics_file = (directory / "metrics.jsonl").open("a", encoding="utf-8")

    # ---- numbers, tables, figures -------------------------------------------------------------------------------

    def log(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append one line to metrics.jsonl, then mirror it; a search may end the job here (`runs.pruning`)."""
        line = {**({} if step is None else {"step": step}), **finite(metrics)}
        self._metrics_file.write(json.dumps(line) + "\n")
        self._metrics_file.flush()
        self.tracker.log(line, step)
        pruning.report(line, step)

    def logged(self) -> list[dict[str, Any]]:
        """Return every line logged so far, also those from before a resume."""
        return [json.loads(line) for line in (self.dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]

    def rewind_metrics(self, step: int) -> None:
        """Drop logged lines after `step` (and torn ones): a resumed run writes them again, the same."""
        self._metrics_file.close()
        path = self.dir / "metrics.jsonl"
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry.get("step"), int) and entry["step"] <= step:
                kept.append(line + "\n")
        with replacing(path) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")
        self._metrics_file = path.open("a", encoding="utf-8")
        if self.resumed:
            self.tracker.rewind(step)

    def summary(self, **metrics: float) -> None:
        """Add final numbers to result.json."""
        self._result["metrics"].update(finite(metrics))
        self.tracker.summary(finite(metrics))

    def table(
        self,
        name: str,
        rows: list[dict[str, Any]],
        *,
        title: str | None = None,
        show: bool = True,
        columns: list[str] | None = None,
    ) -> None:
        """Write `tables/<name>.csv`, and print it unless `show` is False or the run is one job of a sweep.

        `columns` limits what is printed, not what is written.
        """
        self._check_there()
        write_csv(self.dir / "tables" / f"{name}.csv", rows)
        self.record(f"tables/{name}.csv")
        self.tracker.table(name, rows)
        if show and not self.config.run.sweep:
            print_table(rows, title, columns)

    def figure(self, name: str, figure: Figure) -> None:
        """Write `figures/<name>.png` and `.svg`, and close the figure."""
        self._check_there()
        for path in save_figure(self.dir / "figures", name, figure):
            self.record(f"figures/{path.name}")
        self.tracker.figure(name, self.dir / "figures" / f"{name}.png")

    def artifact(self, name: str) -> Path:
        """Return `artifacts/<name>` to write to; it is listed in result.json."""
        self._check_there()
        path = self.dir / "artifacts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self.record(f"artifacts/{name}")
        return path

    def warn(self, message: str) -> None:
        """Say once what one should know before believing the result, and list it in result.json."""
        warned = self._result["warnings"]
        if message not in warned and len(warned) < MOST_WARNINGS:
            warned.append(message)
            LOGGER.warning("caution: %s", message)

    def say(self, message: str) -> None:
        """Print one line and keep it in run.log."""
        LOGGER.info("%s", message)

    def progress(self, description: str, total: int, done: int = 0) -> Progress:
        """Return a progress display for a loop of `total`, of which `done` were done before."""
        return Progress(description, total, done)

    # ---- hardware -----------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """The device of the hardware profile."""
        from permlab.hardware import resolve_device

        return resolve_device(self.config.hardware)

    # ---- stopping and checkpoints -------------------------------------------------------------------------------

    @property
    def stopping(self) -> bool:
        """Whether SIGINT or SIGTERM has arrived: checkpoint, then call `check_stop`."""
        return self._stop.signum is not None

    def check_stop(self) -> None:
        """Raise `Interrupted` when a stop signal has arrived."""
        self._stop.check()

    def checkpoint_due(self, step: int | None = None) -> bool:
        """Return whether it is time to checkpoint: by steps when run.checkpoint_steps is set, else by the clock."""
        every = self.config.run.checkpoint_steps
        if every is not None and step is not None:
            return step % every == 0
        if time.monotonic() - self._last_checkpoint < self.config.run.checkpoint_seconds:
            return False
        self._last_checkpoint = time.monotonic()
        return True

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Save tensors, numbers, strings, lists and dicts; the last two checkpoints are kept."""
        import torch

        self._check_there()
        # First what the result lists: a run that goes on after this checkpoint does not write those files again.
        self.write_result()
        folder = self.dir / "checkpoints"
        known = self._checkpoints()
        number = int(known[-1].stem.split("-")[1]) + 1 if known else 1
        with replacing(folder / f"state-{number:06d}.pt") as temporary:
            torch.save({"fingerprint": self._result["fingerprint"], "state": state}, temporary)
        for old in known[: -(KEPT_CHECKPOINTS - 1) or None]:
            old.unlink()
        self._last_checkpoint = time.monotonic()

    def load_checkpoint(self) -> dict[str, Any] | None:
        """Return the newest readable checkpoint of a resumed run, or None.

        Raises:
            UserError: the checkpoint belongs to other settings.
        """
        import torch

        for path in reversed(self._checkpoints()):
            try:
                saved = torch.load(path, map_location="cpu", weights_only=True)
                mine, state = saved["fingerprint"] == self._result["fingerprint"], dict(saved["state"])
            except Exception as error:  # a torn or foreign file raises whatever its reader stumbles over
                LOGGER.warning("checkpoint %s is unreadable (%s); trying the one before", path.name, first_line(error))
                continue
            if not mine:
                raise UserError(f"{path.name} belongs to a run with other settings than config.yaml in {self.dir}")
            return state
        return None

    @property
    def last_kept(self) -> str:
        """The newest of what a stopped run would go on from, a path in the run directory; empty when there is none."""
        found = [path for folder in KEPT for path in self.dir.glob(f"{folder}/[!.]*")]
        newest = max(found, key=lambda path: path.stat().st_mtime_ns, default=None)
        return "" if newest is None else str(newest.relative_to(self.dir))

    def _checkpoints(self) -> list[Path]:
        return sorted((self.dir / "checkpoints").glob("state-*.pt"))

    # ---- the result ---------------------------------------------------------------------------------------------

    def write_result(self, status: str | None = None, error: str | None = None) -> None:
        """Write result.json atomically; on a full disk, or with no file handle left, in the room that was kept for it.

        Raises:
            RunLostError: the run directory is gone.
            OSError: it cannot be written.
        """
        self._check_there()
        if status:
            self._result["status"] = status
        if error:
            self._result["error"] = error
        self._result["seconds"] = round(self._seconds_before + time.monotonic() - self._started, 3)
        self._result["peak_rss_mb"] = peak_rss_mb()
        try:
            write_json(self.dir / "result.json", self._result)
        except OSError as problem:
            if problem.errno in (errno.EMFILE, errno.ENFILE):
                self._release_handle()
                write_json(self.dir / "result.json", self._result)
                return
            if problem.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            (self.dir / RESERVE).unlink(missing_ok=True)
            try:
                write_json(self.dir / "result.json", self._result)
            except OSError:  # no room for a second file even now
                overwrite_json(self.dir / "result.json", self._result)

    def _release_handle(self) -> None:
        """Close the file handle that is held for the last thing a run has to write."""
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None

    def close(self) -> None:
        """Close the metrics file, flushed to disk as far as that is possible."""
        self._release_handle()
        with suppress(OSError):
            (self.dir / RESERVE).unlink(missing_ok=True)
        with suppress(OSError):
            self._metrics_file.flush()
            os.fsync(self._metrics_file.fileno())
        with suppress(OSError):
            self._metrics_file.close()
        with suppress(OSError):
            sync(self.dir)

    def _check_there(self) -> None:
        if self._lock is not None and not self._lock.held:
            raise RunLostError(f"{self.dir} was removed or replaced while the run was going; its results are lost")

    @property
    def metrics(self) -> dict[str, float]:
        """The final numbers so far."""
        return dict(self._result["metrics"])

    def record(self, artifact: str) -> None:
        """List a file of the run directory (its path from there) among the artifacts of result.json."""
        if artifact not in self._result["artifacts"]:
            self._result["artifacts"].append(artifact)
