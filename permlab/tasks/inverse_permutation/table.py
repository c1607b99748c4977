"""What one run of `task=inverse_permutation` does: `task.mode=construct`."""

from __future__ import annotations

from dataclasses import dataclass

from permlab.registry import Row, Table


@dataclass(frozen=True)
class ModeRow(Row):
    """What one run does; `target`: (config, run) -> None.

    Attributes:
        networks: it builds disentangled networks of `task.n`.
        trains: it trains them; explicit weights need no training and less memory.
        swept: its layouts are those of `task.scratch_counts` and `task.positions`, not `task.variant`.
        asks: it asks the language model of `model=`.
    """

    networks: bool = False
    trains: bool = False
    swept: bool = False
    asks: bool = False


_HERE = "permlab.tasks.inverse_permutation"
MODES = Table(
    "mode of inverse_permutation",
    [
        ModeRow("train", "train some seeds of a layout", target=f"{_HERE}.train:train", networks=True, trains=True),
        ModeRow("construct", "explicit weights, no training", target=f"{_HERE}.train:construct", networks=True),
        ModeRow(
            "scratch_sweep",
            "train at every number of scratch rows",
            target=f"{_HERE}.train:scratch_sweep",
            networks=True,
            trains=True,
            swept=True,
        ),
        ModeRow("tokens", "small Transformers architectures on the token form", target=f"{_HERE}.language:tokens"),
        ModeRow("prompt", "few-shot prompts for model=", target=f"{_HERE}.language:prompt", asks=True),
    ],
)
