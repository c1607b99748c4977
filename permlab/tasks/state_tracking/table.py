"""What one run of `task=state_tracking` does."""

from __future__ import annotations

from permlab.registry import Row, Table

_HERE = "permlab.tasks.state_tracking.work"
MODES = Table(
    "mode of state_tracking",
    [
        Row("train", "train some seeds of one network, test them on longer words", target=f"{_HERE}:train"),
        Row("construct", "weights that are written down, run to any length", target=f"{_HERE}:written_down"),
    ],
)
