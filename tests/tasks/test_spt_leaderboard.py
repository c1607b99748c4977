"""The leaderboard of SPT runs: which answers count, facts of different seeds apart, the best reverse recall first."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest

from permlab.tables import spread
from permlab.tasks.spt.figures import recall_by_arm
from permlab.tasks.spt.leaderboard import drawn, standings
from permlab.tasks.spt.section import curves


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
        [
            *(*forward, *answers([1, 1, 0]), *answers([0] * 9, group="both"), *answers([0, 0, 0], wording="held_out")),
            *(*answers([0] * 9, wording="in_text"), *answers([0] * 9, wording="question")),
        ],
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


def test_switches_and_numbers_are_named_in_the_figure_of_arms():
    varied = {"task.order": "random_segment", "task.dynamic": "false", "model.scratch.hidden_size": "64"}
    groups = [(varied | {"task.order": each}, [{"forward_accuracy": 1.0, "reverse_accuracy": 0.5}]) for each in "ab"]
    figure = recall_by_arm([(varied, groups[0][1]), *groups])["recall_by_arm"]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[-1] == "random segment, dynamic=false, hidden size=64"
    plt.close(figure)


def test_every_arm_has_a_loss_curve_that_can_be_told_apart():
    """Eleven arms of one order: more than there are colours."""

    class Arm:
        def __init__(self, number):
            self.label, self.runs, self.newest = f"share={number}", [self], self
            self.config = {"task": {"order": "spt"}}

        def logged(self):
            return [{"step": step, "loss": 3.0 / step} for step in (1, 2)]

    class Collection:
        groups = tuple(Arm(number) for number in range(11))

        def prefix(self, name):
            return name

    class Out:
        def figure(self, name, figure, alt, caption):
            return figure

    figure = curves(Collection(), Out())
    looks = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].get_lines()}
    assert len(looks) == 11
    plt.close(figure)
