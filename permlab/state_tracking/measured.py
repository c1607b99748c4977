"""What is told of trained networks and of explicit weights: rows and numbers, without a run or a figure.

tested = Tested(words, "product_2", layers=1, trained=32, seeds=[0, 1], curves=curves, one_letter=shares)
tested.rows(), tested.points(), tested.numbers()
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from permlab.state_tracking.constructions import Machine
from permlab.state_tracking.table import NETWORKS
from permlab.state_tracking.training import reach
from permlab.state_tracking.words import Words
from permlab.tables import Row

POSITIONS = 64
"""Rows of a table of curves at most; accuracies are means over as many positions as that takes."""
SHOWN = 40
"""Positions at which a drift is told, evenly on a logarithmic axis."""


@dataclass(frozen=True)
class Tested:
    """Networks of one kind, tested.

    Attributes:
        words: the word problem.
        network: a row of `table.NETWORKS`.
        layers: of the networks.
        trained: symbols of the longest trained word.
        seeds: of the networks.
        curves: [S, length], share of right products by position.
        one_letter: [S], the same in the long run of one letter (`training.repeated_accuracy`).
        least: networks follow up to the first position with a smaller share.
    """

    words: Words
    network: str
    layers: int
    trained: int
    seeds: Sequence[int]
    curves: npt.NDArray[np.float64]
    one_letter: npt.NDArray[np.float64]
    least: float = 0.9

    @property
    def ceiling(self) -> float | None:
        """The most that eigenvalues allow of one letter (`Words.ceiling`), where something is proven."""
        period = NETWORKS[self.network].period if self.layers == 1 else None
        return None if period is None else self.words.ceiling(period)

    @property
    def chance(self) -> float:
        """Share of right answers of the best guess at the last position."""
        return float(self.words.majority(self.curves.shape[1])[-1])

    def rows(self) -> list[Row]:
        """One row per seed."""
        longer = self.curves[:, self.trained :]
        return [
            {
                "seed": seed,
                "reach": reach(curve, self.least),
                "accuracy_trained": float(curve[: self.trained].mean()),
                "accuracy_longer": float(rest.mean()) if rest.size else None,
                "one_letter": float(share),
                "one_letter_ceiling": self.ceiling,
            }
            for seed, curve, rest, share in zip(self.seeds, self.curves, longer, self.one_letter)
        ]

    def points(self) -> list[Row]:
        """Accuracy by seed and position, means over neighbours where there are many."""
        length = self.curves.shape[1]
        bins = np.array_split(np.arange(length), min(POSITIONS, length))
        return [
            {"seed": seed, "position": int(part[-1]) + 1, "accuracy": float(curve[part].mean())}
            for seed, curve in zip(self.seeds, self.curves)
            for part in bins
        ]

    def numbers(self) -> dict[str, float]:
        """The headline: how far the median, the worst and the best network follows, and the shares."""
        rows = self.rows()
        reaches = [row["reach"] for row in rows]
        found = {"reach": float(np.median(reaches)), "reach_worst": min(reaches), "reach_best": max(reaches)}
        found["solved"] = sum(each == self.curves.shape[1] for each in reaches) / len(reaches)
        found["accuracy_trained"] = float(np.mean([row["accuracy_trained"] for row in rows]))
        if self.curves.shape[1] > self.trained:
            found["accuracy_longer"] = float(self.curves[:, self.trained :].mean())
        found |= {"chance": self.chance, "one_letter": float(self.one_letter.max())}
        if self.ceiling is not None:
            found["over_ceiling"] = found["one_letter"] - self.ceiling
        return found


def drift(
    machine: Machine, words: Words, count: int, length: int, seed: int, on_step: Callable[[int], None] | None = None
) -> tuple[Row, list[Row]]:
    """Run explicit weights on words of any length.

    Args:
        machine: the weights.
        words: the word problem.
        count: words.
        length: symbols of each.
        seed: of the words.
        on_step: as for `Machine.run`.

    Returns:
        how far every product is right, the share of right ones, the largest drift from the exact state and the margin
        (half the distance between two states); and the largest drift so far by position.
    """
    symbols, states = words.draw(count, length, seed)
    answers, distances = machine.run(torch.from_numpy(symbols), on_step)
    right = (answers.numpy() == states).mean(0)
    largest = np.maximum.accumulate(distances.numpy().max(0))
    at = np.unique(np.geomspace(1, length, SHOWN).astype(int)) - 1
    points: list[Row] = [{"construction": machine.name, "position": int(t) + 1, "drift": float(largest[t])} for t in at]
    line: Row = {"construction": machine.name, "reach": reach(right, 1.0), "accuracy": float(right.mean())}
    line |= {"drift": float(largest[-1]), "margin": machine.margin(), "reflections": machine.need or None}
    return line, points
