"""What one run of `task=state_tracking` does."""

from __future__ import annotations

from dataclasses import dataclass

from permlab.registry import Row, Table


@dataclass(frozen=True)
class ModeRow(Row):
    """What a run does; `target` is called with the configuration and the run."""


_HERE = "permlab.tasks.state_tracking.work"
MODES = Table(
    "mode of state_tracking",
    [
        ModeRow("train", "train some seeds of one network, test them on longer words", target=f"{_HERE}:train"),
        ModeRow("construct", "weights that are written down, run to any length", target=f"{_HERE}:written_down"),
    ],
)
