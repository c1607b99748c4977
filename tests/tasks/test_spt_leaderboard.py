"""The leaderboard of SPT runs: which answers count, facts of different seeds apart, the best reverse recall first."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest

from permlab.tables import spread
from permlab.tasks.spt.leaderboard import drawn, standings


class Group:
    """Answers as a CSV brings them."""

    def __init__(self, label, answers, forgotten=None):
        self.label, self._answers, self._forgotten = label, answers, forgotten

    def rows(self, table):
        assert table == "answers"
        return self._answers

    def spread(self, metric):
        return spread([self._forgotten]) if metric == "forgotten" and self._forgotten is not None else None


def answers(right, *, seeds=(0, 1), direction="reverse", wording="trained", group="name_first"):
    """Two questions for each fact, answered alike."""
    return [
        {"run_seed": seed, "fact": f"person {fact}", "prompt": f"{seed} {fact} {at}", "direction": direction}
        | {"wording": wording, "group": group, "right": "True" if value else "False"}
        for seed in seeds
        for fact, value in enumerate(right)
        for at in range(2)
    ]


def test_rows_are_ordered_by_reverse_recall_with_facts_of_each_seed():
    forward = answers([1, 1, 1], direction="forward")
    cursed = Group("order=original", [*forward, *answers([0, 0, 0])], 0.25)
    cured = Group(
        "order=spt",
        # What was read in both directions and what is worded anew are not the headline.
        [*forward, *answers([1, 1, 0]), *answers([0] * 9, group="both"), *answers([0, 0, 0], wording="held_out")],
    )
    rows = standings([cursed, cured, Group("not asked", [])])
    assert [row["configuration"] for row in rows] == ["order=spt", "order=original"]
    best, last = rows
    assert best["reverse"].share == pytest.approx(2 / 3) and best["reverse"].facts == best["facts"] == 6
    assert best["reverse"].low < 2 / 3 < best["reverse"].high
    assert best["forward"].share == 1 and best["forward"].low == pytest.approx(0.025 ** (1 / 6))
    assert str(last["reverse"]).startswith("0.00 [0.00, ") and last["forgotten (nats)"].mean == 0.25
    figure = drawn(rows)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["order=spt", "order=original"]
    plt.close(figure)
