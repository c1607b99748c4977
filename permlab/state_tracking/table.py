"""The names of `task=state_tracking`: networks, constructions, alphabets, modes; nothing heavy is imported."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from permlab.registry import Row, Table


@dataclass(frozen=True)
class NetworkRow(Row):
    """A sequence model.

    Attributes:
        arguments: of `target`, a layer of `mixers`, behind (seeds, name, width).
        period: what one symbol, read again and again, can make the state repeat in the long run: 1 with positive
            eigenvalues, 2 with real ones, None where nothing is known (`words.ceiling`).
        held: memory of a block while it is tested, over that of a diagonal recurrence (measured).
        quadratic: every position looks at every other, so that memory grows with the square of the length.
    """

    arguments: tuple[Any, ...] = ()
    period: int | None = None
    held: float = 1.0
    quadratic: bool = False


_MIXERS = "permlab.state_tracking.mixers"
NETWORKS = Table(
    "sequence model",
    [
        NetworkRow(
            "diagonal_positive", "diagonal linear recurrence, eigenvalues in (0, 1)", label="diagonal (0, 1)",
            paper="2312.00752", period=1, target=f"{_MIXERS}:Diagonal",
            arguments=("positive",), color="grey",
        ),
        NetworkRow(
            "diagonal_signed", "diagonal linear recurrence, eigenvalues in (-1, 1)", label="diagonal (-1, 1)",
            paper="2411.12537", period=2, target=f"{_MIXERS}:Diagonal",
            arguments=("signed",), color="sky",
        ),
        NetworkRow(
            "diagonal_complex", "diagonal linear recurrence, eigenvalues in the unit disc", label="diagonal complex",
            paper="2111.00396", held=1.8, target=f"{_MIXERS}:Diagonal",
            arguments=("complex",), color="blue",
        ),
        NetworkRow(
            "delta_positive", "delta rule with beta in (0, 1)", label="DeltaNet (0, 1)", paper="2406.06484",
            period=1, held=1.3, target=f"{_MIXERS}:Delta",
            arguments=(1.0,), color="brown",
        ),
        NetworkRow(
            "delta_signed", "delta rule with beta in (0, 2): one reflection a token", label="DeltaNet (0, 2)",
            paper="2411.12537", period=2, held=1.3, target=f"{_MIXERS}:Delta",
            arguments=(2.0,), color="orange",
        ),
        NetworkRow(
            "product_2", "two reflections a token", label="DeltaProduct, 2", paper="2502.10297",
            held=1.8, target=f"{_MIXERS}:Delta",
            arguments=(2.0, 2), color="red",
        ),
        NetworkRow(
            "product_3", "three reflections a token", label="DeltaProduct, 3", paper="2502.10297",
            held=2.2, target=f"{_MIXERS}:Delta",
            arguments=(2.0, 3), color="red",
        ),
        NetworkRow(
            "product_4", "four reflections a token", label="DeltaProduct, 4", paper="2502.10297",
            held=2.6, target=f"{_MIXERS}:Delta",
            arguments=(2.0, 4), color="red",
        ),
        NetworkRow(
            "dense", "linear recurrence with orthogonal matrices: the upper control", label="dense orthogonal",
            held=1.5, target=f"{_MIXERS}:Dense",
            color="purple",
        ),
        NetworkRow("lstm", "gates and a cell (LSTM)", label="LSTM", paper="Hochreiter and Schmidhuber 1997",
            held=1.3, target=f"{_MIXERS}:Gated",
            arguments=("lstm",), color="green"),
        NetworkRow("gru", "gates (GRU)", label="GRU", paper="1406.1078", held=1.3, target=f"{_MIXERS}:Gated",
            arguments=("gru",), color="green"),
        NetworkRow("transformer", "causal attention, rotary positions", label="transformer", paper="2404.08819",
            quadratic=True, target=f"{_MIXERS}:Attention",
            arguments=(True,), color="black"),
        NetworkRow("transformer_none", "causal attention, no positions", label="transformer, no positions",
            quadratic=True, target=f"{_MIXERS}:Attention",
            arguments=(False,), color="black"),
    ],
)  # fmt: skip


@dataclass(frozen=True)
class AlphabetRow(Row):
    """Which elements of a group are read."""


ALPHABETS = Table(
    "alphabet",
    [
        AlphabetRow("all", "every element"),
        AlphabetRow("generators", "a small set of generators"),
        AlphabetRow("transpositions", "swaps of two points"),
        AlphabetRow("swaps", "swaps of two points, and the identity"),
    ],
)


@dataclass(frozen=True)
class ConstructionRow(Row):
    """Weights that are written down.

    Attributes:
        groups: a pattern of the names of the groups it solves.
    """

    groups: str = ".*"

    def suits(self, group: str) -> bool:
        """Whether it solves the word problem of a group."""
        return re.fullmatch(self.groups, group) is not None


_HERE = "permlab.state_tracking.constructions"
CONSTRUCTIONS = Table(
    "construction",
    [
        ConstructionRow("sign", "eigenvalue -1: parity", target=f"{_HERE}:sign", groups="[ZS]2"),
        ConstructionRow("rotation", "one complex eigenvalue: Z<m>", target=f"{_HERE}:rotation", groups=r"Z\d+"),
        ConstructionRow("reflections", "products of Householder reflections: any group", target=f"{_HERE}:reflections"),
        ConstructionRow(
            "automaton", "a one-hot state and the multiplication table: any group", target=f"{_HERE}:automaton"
        ),
    ],
)
