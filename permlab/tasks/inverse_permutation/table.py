"""What one run of `task=inverse_permutation` does: `task.mode=construct`."""

from __future__ import annotations

from dataclasses import dataclass

from permlab.registry import Row, Table

LESS_MEMORY = ("a smaller task.n", "a smaller task.train.batch", "task.seeds=1")
"""Keys that help where memory is not enough."""


@dataclass(frozen=True)
class ModeRow(Row):
    """What one run does; `target`: (config, run) -> None.

    Attributes:
        networks: it builds disentangled networks of `task.n`.
        trains: it trains them; explicit weights need no training and less memory.
        swept: many networks, each until its error stops falling (`task.train.patience`).
        models: the function of `train` that returns what it trains or measures.
        asks: it asks the language model of `model=`.
    """

    networks: bool = False
    trains: bool = False
    swept: bool = False
    models: str = "arms"
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
            models="scratch",
        ),
        ModeRow(
            "depth",
            "deeper networks, with and without feed-forward blocks",
            target=f"{_HERE}.deeper:depth",
            networks=True,
            trains=True,
            swept=True,
            models="shapes",
        ),
        ModeRow(
            "lengths",
            "train on small problems, test on larger ones",
            target=f"{_HERE}.deeper:lengths",
            networks=True,
            trains=True,
            swept=True,
            models="lengths",
        ),
        ModeRow("tokens", "small Transformers architectures on the token form", target=f"{_HERE}.language:tokens"),
        ModeRow("fillers", "the same with 0 to 2n filler tokens", target=f"{_HERE}.fillers:fillers"),
        ModeRow("prompt", "few-shot prompts for model= or a server", target=f"{_HERE}.language:prompt", asks=True),
        ModeRow("text", "train model= on prompts, test before and after", target=f"{_HERE}.text:text", asks=True),
    ],
)
