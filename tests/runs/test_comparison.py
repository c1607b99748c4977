"""What a sweep leaves: numbers in its CSV files, the run directories, and a figure whatever was varied."""

from __future__ import annotations

import csv
import json
from types import SimpleNamespace

import pytest

from permlab import registry
from permlab.runs import comparison
from permlab.runs.outcome import Outcome
from permlab.runs.sweep import close_sweep, note_job

TASK = SimpleNamespace(HEADLINE=("score", "loss"))


def sweep_of(tmp_path, jobs):
    """A sweep directory with the notes of (varied, metrics or None for a failed job)."""
    sweep = tmp_path / "sweeps" / "one"
    for number, (varied, metrics) in enumerate(jobs):
        directory = tmp_path / "toy" / f"run{number}"
        directory.mkdir(parents=True)
        status = "failed" if metrics is None else "done"
        # A job that failed late has numbers already; they must not count.
        (directory / "result.json").write_text(json.dumps({"metrics": metrics or {"score": 99.0}, "seconds": 1.0}))
        note_job(sweep, number, varied, Outcome(directory, status, 0, "" if metrics else "it broke"))
    return sweep


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_comparison_holds_numbers_and_jobs_their_directories(tmp_path, capsys):
    jobs = [({"task.order": o, "seed": str(s)}, {"score": 0.5 + s / 10}) for o in ("spt", "original") for s in (0, 1)]
    sweep = sweep_of(tmp_path, [*jobs, ({"task.order": "spt", "seed": "2"}, None)])
    assert close_sweep(sweep, [[]] * 5, TASK) == 1
    first, second = rows_of(sweep / "comparison.csv")
    assert first["task.order"] == "spt" and first["seeds"] == "2"
    assert float(first["score_mean"]) == pytest.approx(0.55) and float(first["score_sd"]) == pytest.approx(0.0707, 0.01)
    assert first["score_n"] == "2" and "±" not in (sweep / "comparison.csv").read_text()
    assert second["task.order"] == "original"
    directories = [row["directory"] for row in rows_of(sweep / "jobs.csv")]
    assert directories == [str(tmp_path / "toy" / f"run{number}") for number in range(5)]
    printed = capsys.readouterr().out
    assert "0.550 ± 0.071" in printed, "people read both in one cell"
    assert "job 4 failed: it broke" in printed


def test_without_repeated_seeds_there_are_numbers_too(tmp_path):
    sweep = sweep_of(tmp_path, [({"task.n": str(n)}, {"score": n / 10}) for n in (4, 8)])
    assert close_sweep(sweep, [[]] * 2, TASK) == 0
    first, _ = rows_of(sweep / "comparison.csv")
    assert (first["task.n"], first["score_mean"], first["score_sd"], first["score_n"]) == ("4", "0.4", "", "1")
    assert {p.name for p in (sweep / "figures").iterdir()} == {"headline.png", "headline.svg"}


@pytest.mark.parametrize("task", [name for name in registry.table("tasks") if name != "report"])
def test_every_task_has_a_figure_of_a_sweep(task):
    """Over a key of which no task knows more than its headline."""
    import matplotlib.pyplot as plt

    module = registry.task(task)
    jobs = [{name: 0.1 + seed / 10 for name in module.HEADLINE} for seed in (0, 1)]
    found = comparison.sweep_figures(module, [({"hardware.dtype": kind}, jobs) for kind in ("float32", "bfloat16")])
    assert len(found) == 1
    plt.close("all")


def drawn(groups, names=("score",)):
    import matplotlib.pyplot as plt

    (figure,) = comparison.headline_figure(groups, names).values()
    figure.canvas.draw()
    plt.close(figure)
    return [ax for ax in figure.axes if ax.get_visible()], figure


def test_a_number_is_the_axis_and_its_spread_a_bar():
    groups = [({"task.k": f"[{k}]"}, [{"score": k + s} for s in (0.0, 1.0)]) for k in (200, 5, 10)]
    (ax,), _ = drawn(groups)
    assert ax.get_xlabel() == "task.k" and ax.get_ylabel() == "score" and ax.get_xscale() == "log"
    (bars,) = ax.containers
    assert list(bars.lines[0].get_xdata()) == [5, 10, 200]
    lows_highs = [segment[:, 1] for segment in bars.lines[2][0].get_segments()]
    assert lows_highs[0] == pytest.approx([5.5 - 0.7071, 5.5 + 0.7071], abs=1e-3)


def test_two_keys_are_an_axis_and_a_line_each():
    groups = [({"task.order": o, "task.n": str(n)}, [{"score": n}]) for o in ("spt", "original") for n in (4, 6, 8)]
    (ax,), figure = drawn(groups)
    assert ax.get_xlabel() == "task.n" and ax.get_xscale() == "linear"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["order=spt", "order=original"]


@pytest.mark.parametrize(
    ("varied", "labels"),
    [
        ([{}], ["3 seeds"]),
        ([{"task.order": "spt"}, {"task.order": "original"}], ["order=spt", "order=original"]),
        ([{"a": "1", "b": "2", "c": "x"}, {"a": "2", "b": "2", "c": "x"}], ["a=1, b=2, c=x", "a=2, b=2, c=x"]),
    ],
    ids=["seeds only", "names", "three keys"],
)
def test_everything_else_has_a_row_per_configuration(varied, labels):
    axes, _ = drawn(
        [(each, [{"score": s, "loss": 1.0} for s in (0.1, 0.2, 0.3)]) for each in varied], ("score", "loss")
    )
    assert [text.get_text() for text in axes[0].get_yticklabels()] == labels
    assert len(axes) == 2 and axes[0].get_xlabel() == "score (mean ± sd)"


def test_nothing_to_compare_is_no_figure_and_a_figure_that_fails_is_said(tmp_path, capsys):
    assert comparison.sweep_figures(TASK, [({}, [{"score": 1.0}])]) == {}
    assert comparison.sweep_figures(TASK, [({"a": "1"}, []), ({"a": "2"}, [])]) == {}
    assert comparison.headline_figure([({"a": "1"}, [{"score": 1.0}])], []) == {}

    def broken(groups):
        raise ValueError("no such arm")

    sweep = sweep_of(tmp_path, [({"a": str(n)}, {"score": 1.0}) for n in (1, 2)])
    assert close_sweep(sweep, [[]] * 2, SimpleNamespace(HEADLINE=("score",), sweep_figures=broken)) == 0
    assert "the figures of this sweep could not be drawn: no such arm" in capsys.readouterr().out


def test_the_tasks_own_figures_come_first_and_show_the_spread():
    import matplotlib.pyplot as plt

    probe, merge = registry.task("inverse_permutation"), registry.task("merge")
    jobs = [
        {"n": n, "seeds_solved": 1, "steps_to_target": 100.0 * n + seed, "train_seconds": n + seed}
        for n in (4, 8)
        for seed in (0, 1)
    ]
    groups = [({"task.n": str(n)}, [job for job in jobs if job["n"] == n]) for n in (4, 8)]
    (scaling,) = comparison.sweep_figures(probe, groups).values()
    (bars,) = scaling.axes[0].containers
    assert list(bars.lines[0].get_xdata()) == [4, 8] and list(bars.lines[0].get_ydata()) == [400.5, 800.5]
    arms = {"weight_matching_loss_barrier": 0.1, "weight_matching_midpoint_accuracy": 0.9}
    widths = [({"model.width": w}, [arms, {k: v / 2 for k, v in arms.items()}]) for w in ("16", "32")]
    (width,) = comparison.sweep_figures(merge, widths).values()
    segments = width.axes[0].containers[0].lines[2][0].get_segments()
    assert segments[0][1][1] > segments[0][0][1], "an error bar of two seeds"
    plt.close("all")
