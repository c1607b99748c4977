"""The leaderboard of SPT runs: which answers count, facts of different seeds apart, the best reverse recall first."""

from __future__ import annotations

import dataclasses

import matplotlib.pyplot as plt
import pytest

from permlab.compose import plan_jobs
from permlab.config import shipped_experiment
from permlab.rules import parse_rule
from permlab.tables import spread
from permlab.tasks.spt.figures import IN_TEXT, recall_by_arm
from permlab.tasks.spt.leaderboard import drawn, standings
from permlab.tasks.spt.section import curves


class Group:
    """Answers as a CSV brings them."""

    def __init__(self, label, answers, forgotten=None, varied=None):
        self.label, self._answers, self._forgotten = label, answers, forgotten
        self.varied, self.newest = varied or {}, self
        self.config = {"model": {"objective": self.varied.get("model.objective", "causal")}}

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
            *answers([0] * 9, wording="question"),
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


def control():
    """Groups of three orders and of a masked model, which was read oftener and knows what stood first in its text."""
    forward, both = answers([1, 1], direction="forward"), answers([0] * 9, wording="in_text", group="both")
    arms = [(order, order != "original", "150", "causal") for order in ("original", "spt", "entity_reverse")]
    arms.append(("original", False, "600", "causal"))
    keys = ("task.order", "task.train.epochs", "model.objective")
    groups = [
        Group(
            f"order={order}, epochs={epochs}",
            [*forward, *answers([right, 0])],
            None,
            dict(zip(keys, (order, epochs, kind))),
        )
        for order, right, epochs, kind in arms
    ]
    asked = [*forward, *answers([0, 0]), *answers([1, 1], wording="in_text"), *both]
    masked = dict(zip(keys, ("original", "600", "masked")))
    return [Group("order=original, epochs=600", asked, None, masked), *groups]


def test_a_masked_model_is_no_order_and_is_asked_in_two_ways():
    """It was named like an order, and its 0.00 in the other wording stood alone."""
    rows = standings(control())
    assert [row["configuration"] for row in rows] == [
        "order=spt",
        "order=entity_reverse",
        "order=original",
        "order=original, epochs=600",
        "covered tokens (masked model)",
    ]
    last = rows[-1]
    assert last["reverse"].share == 0 and last[IN_TEXT].share == 1 and last[IN_TEXT].facts == last["facts"] == 4
    assert 0 < last[IN_TEXT].low < 1
    assert not any(IN_TEXT in row for row in rows[:-1])
    figure = drawn(rows)
    (ax,) = figure.axes
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["forward", "reverse", IN_TEXT]
    assert [line.get_ydata()[0] for line in ax.get_lines() if list(line.get_xdata()) == [0, 1]] == [3.5]  # above it
    plt.close(figure)
    (plain,) = drawn(rows[:-1]).axes
    assert [text.get_text() for text in plain.get_legend().get_texts()] == ["forward", "reverse"]
    plt.close("all")
    masked, causal, *_ = control()
    causal.varied, masked.varied = ({"model.objective": kind} for kind in ("causal", "masked"))
    alone = [row["configuration"] for row in standings([masked, causal])]
    assert alone == ["objective=causal", "covered tokens (masked model)"]


def test_a_masked_model_has_both_its_numbers_in_the_figure_of_arms():
    metrics = {"forward_accuracy": 1.0, "reverse_accuracy": 0.0}
    arms = [
        ({"model.objective": "masked"}, [{**metrics, "reverse_accuracy_in_text": share} for share in (0.75, 1.0)]),
        ({"model.objective": "causal"}, [metrics]),
    ]
    figure = recall_by_arm(arms)["recall_by_arm"]
    (ax,) = figure.axes
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == ["causal", "covered tokens (masked model)"]
    assert [line.get_xdata()[0] for line in ax.get_lines() if line.get_label() == IN_TEXT] == [0.875]
    assert "0.88" in [text.get_text() for text in ax.texts]
    plt.close(figure)


def test_the_control_is_an_arm_of_the_leaderboard_and_no_rule_about_orders_counts_it():
    about = shipped_experiment("spt/leaderboard")
    controls = [run.keys for run in about.reproduce.runs if "masked" in str(run.keys.get("model.objective"))]
    assert [keys["task.order"] for keys in controls] == ["original"]
    assert set(controls[0]) <= set(about.sweep)  # runs with other keys are judged apart, as another variant
    keys = [f"{key}={str(value).split(',')[0]}" for key, value in (about.sweep | controls[0]).items()]
    (job,) = plan_jobs(["experiment=spt/leaderboard", *keys], False).jobs
    config = dataclasses.asdict(job.config)
    assert config["model"]["objective"] == "masked"
    judged = [rule for rule in map(parse_rule, about.checks) if rule.matches(config)]
    assert {rule.metrics[0] for rule in judged} == {"forward_accuracy", "reverse_accuracy", "reverse_accuracy_in_text"}
    assert len(judged) == 3 and all(("model.objective", "masked") in rule.where for rule in judged)


def test_switches_and_numbers_are_named_in_the_figure_of_arms():
    varied = {"task.order": "random_segment", "task.dynamic": "false", "model.scratch.hidden_size": "64"}
    groups = [(varied | {"task.order": each}, [{"forward_accuracy": 1.0, "reverse_accuracy": 0.5}]) for each in "ab"]
    figure = recall_by_arm([(varied, groups[0][1]), *groups])["recall_by_arm"]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[-1] == "random segment, dynamic=false, hidden size=64"
    plt.close(figure)


class Arm:
    """A group of one run with a loss curve."""

    def __init__(self, label, objective="causal"):
        self.label, self.runs, self.newest = label, [self], self
        self.config = {"task": {"order": "spt"}, "model": {"objective": objective}}

    def logged(self):
        return [{"step": step, "loss": 3.0 / step} for step in (1, 2)]


class Collection:
    def __init__(self, groups):
        self.groups = groups

    def prefix(self, name):
        return name


class Out:
    def figure(self, name, figure, alt, caption):
        return figure, caption


def test_losses_of_the_next_token_and_of_covered_tokens_are_not_compared():
    figure, caption = curves(Collection([Arm("control", "masked"), Arm("spt")]), Out())
    assert [line.get_label() for line in figure.axes[0].get_lines()] == ["spt (1 run)"] and "covered" in caption
    figure, caption = curves(Collection([Arm("control", "masked")]), Out())
    assert len(figure.axes[0].get_lines()) == 1 and "covered" not in caption
    plt.close("all")


def test_every_arm_has_a_loss_curve_that_can_be_told_apart():
    """Eleven arms of one order: more than there are colours."""

    figure, _ = curves(Collection([Arm(f"share={number}") for number in range(11)]), Out())
    looks = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].get_lines()}
    assert len(looks) == 11
    plt.close(figure)
