"""`tracker=tensorboard`: event files in the run directory; `tensorboard --logdir outputs` shows all runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from permlab.config import Config, TaskSettings
from permlab.listing import markdown
from permlab.runs.trackers.naming import flat, status_of
from permlab.tables import is_number

FOLDER = "tensorboard"
MOST_ROWS = 200
"""Of a table that are shown; its CSV has all."""


class TensorboardTracker:
    """One event file: scalars, figures, tables and configuration as text, final numbers as hyperparameter metrics."""

    def __init__(self, writer: Any, config: Config[TaskSettings]) -> None:
        self._writer, self._config, self._step = writer, config, 0
        self._final: dict[str, float] = {}

    @staticmethod
    def wanted(config: Config[TaskSettings]) -> bool:
        """Return True: it writes files, whatever the mode."""
        return True

    @staticmethod
    def prepare(config: Config[TaskSettings]) -> None:
        """Import the writer."""
        import torch.utils.tensorboard  # noqa: F401

    @staticmethod
    def open(config: Config[TaskSettings], run_dir: Path) -> TensorboardTracker:
        """Start an event file; a resumed run starts a second one in the same folder, which TensorBoard joins."""
        from torch.utils.tensorboard import SummaryWriter

        goes_on = any((run_dir / FOLDER).glob("events.*"))
        tracker = TensorboardTracker(SummaryWriter(str(run_dir / FOLDER)), config)
        if not goes_on:
            tracker._describe()
        return tracker

    def _describe(self) -> None:
        settings = [{"key": key, "value": value} for key, value in flat(self._config.to_container())]
        self._writer.add_text("config", markdown(settings), 0)

    def log(self, metrics: dict[str, float], step: int | None) -> None:
        """Write scalars; without a step they get the one after the last."""
        self._step = self._step + 1 if step is None else step
        for key, value in metrics.items():
            if is_number(value) and key != "step":
                self._writer.add_scalar(key, value, self._step)

    def rewind(self, step: int) -> None:
        """Hide what this file and those before it have after `step`, with the mark of a restart."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        self._step = step
        for _ in range(2):  # the first mark of a run is taken for its beginning, and hides nothing
            self._writer.file_writer.add_event(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))
        if step < 0:
            self._describe()

    def table(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Write a table as text."""
        columns = list(dict.fromkeys(key for row in rows for key in row))
        filled = [{column: row.get(column, "") for column in columns} for row in rows[:MOST_ROWS]]
        more = f"\n\n{len(rows)} rows; the rest is in tables/{name}.csv" if len(rows) > MOST_ROWS else ""
        self._writer.add_text(f"tables/{name}", (markdown(filled) if filled else "no rows") + more, self._step)

    def figure(self, name: str, png: Path) -> None:
        """Write a figure."""
        import numpy as np
        from PIL import Image

        with Image.open(png) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        self._writer.add_image(f"figures/{name}", pixels, self._step, dataformats="HWC")

    def summary(self, metrics: dict[str, float]) -> None:
        """Write final numbers, as `final/NAME`."""
        self._final |= {key: value for key, value in metrics.items() if is_number(value)}
        for key, value in metrics.items():
            if is_number(value):
                self._writer.add_scalar(f"final/{key}", value, self._step)

    def artifact(self, name: str, files: Sequence[Path], kind: str) -> None:
        """Keep nothing: TensorBoard has no files, and these lie beside its own."""

    def finish(self, exit_code: int) -> None:
        """Write settings and final numbers for the table of hyperparameters, the status, and close the file."""
        from torch.utils.tensorboard.summary import hparams

        settings = {
            key: value for key, value in flat(self._config.to_container()) if isinstance(value, (int, str, float))
        }
        for part in hparams(settings, {f"final/{key}": value for key, value in self._final.items()}):
            self._writer.file_writer.add_summary(part)
        self._writer.add_text("status", status_of(exit_code), self._step)
        self._writer.close()
