"""`task.study=lmc` and `task.study=pleas` on tiny networks: complete tables, figures, refusals."""

from __future__ import annotations

import csv
import json
import os
import signal
from dataclasses import dataclass
from itertools import pairwise

import pytest

from permlab import cli, registry
from permlab.merging.arm import slug
from permlab.merging.studies.lmc.arms import ARMS
from permlab.merging.studies.lmc.causal import CAUSAL_GAMMAS
from permlab.merging.studies.lmc.spectra import GAMMAS
from permlab.tasks.merge import pairs
from permlab.tasks.merge.figures.lmc import draw_many
from permlab.tasks.merge.table import ANALYSES, AnalysisRow, Measured

SMALL = ["task=merge", "model.width=16", "task.train.epochs=3", "task.points=3", "task.images=300"]
QUIET = ["tracker=none", "hardware=cpu", "hardware.threads=1"]


def run_here(folder, *arguments: str):
    """(exit code, tables as name -> rows, metrics) of one run."""
    try:
        code = int(cli.main([*SMALL, *arguments, *QUIET, f"run.dir={folder}"]) or 0)
    except SystemExit as stop:
        code = int(stop.code or 0)
    tables = {}
    for path in (folder / "tables").glob("*.csv"):
        with path.open() as handle:
            tables[path.stem] = list(csv.DictReader(handle))
    result = folder / "result.json"
    return code, tables, json.loads(result.read_text())["metrics"] if result.exists() else {}


@pytest.fixture(scope="module")
def lmc(tmp_path_factory):
    return run_here(
        tmp_path_factory.mktemp("lmc") / "run", "task.study=lmc", "task.pairs=2", "task.steps=3", "task.train.epochs=6"
    )


@pytest.mark.slow
def test_lmc_writes_every_table_in_full(lmc):
    code, tables, metrics = lmc
    assert code == 0
    assert len(tables["networks"]) == 2 * 3
    assert len(tables["distances"]) == 2 * (len(ARMS) + 2)
    assert len(tables["spectra"]) == 2 * len(GAMMAS) * (len(ARMS) + 1 + 3)
    assert len(tables["causal"]) == 2 * (1 + 3 * len(CAUSAL_GAMMAS))
    assert len(tables["taylor"]) == 2 * 2
    # naive, anchor and all: three pairs and the mean of three; direct: one; the naive rows stand once
    assert len(tables["three"]) == 2 * (4 + 2 * (4 + 4 + 1))
    assert {row["start"] for row in tables["start"]} == {"weight matching", "warm", "cold"}
    assert metrics["naive_loss_barrier"] > metrics["loss_barrier"]
    assert {"taylor_estimate", "leading_loss_barrier", "bc_naive", "bc_straight_through_direct", "cold_r"} <= set(
        metrics
    )


@pytest.mark.slow
def test_a_network_agrees_with_itself_and_only_matching_aligns_two(lmc):
    _, tables, metrics = lmc
    itself = [float(row["r"]) for row in tables["spectra"] if row["arm"] == "with itself"]
    assert itself == pytest.approx([1.0] * len(itself), abs=1e-9)
    assert abs(metrics["r_naive"]) < 0.2 < metrics["r_matched"]


@pytest.mark.slow
def test_trace_starts_without_a_permutation_and_only_gets_closer(lmc):
    _, tables, _ = lmc
    naive = {
        row["pair"]: row for row in tables["distances"] if (row["networks"], row["arm"]) == ("trained", ARMS[0].label)
    }
    for pair in ("0", "1"):
        steps = [row for row in tables["trace"] if row["pair"] == pair]
        assert len(steps) > 3 and float(steps[0]["l2_reduction"]) == 0
        assert float(steps[0]["loss_barrier"]) == pytest.approx(float(naive[pair]["loss_barrier"]), abs=1e-6)
        cut = [float(row["l2_reduction"]) for row in steps]
        assert all(later > earlier for earlier, later in pairwise(cut))


@pytest.mark.slow
def test_summaries_are_means_over_pairs(lmc):
    _, tables, metrics = lmc
    values = [
        float(row["l2_reduction"])
        for row in tables["distances"]
        if (row["networks"], row["arm"]) == ("trained", "weight matching")
    ]
    assert metrics["l2_reduction"] == pytest.approx(sum(values) / 2)


@pytest.mark.slow
@pytest.mark.parametrize("study", ["lmc", "pleas"])
def test_interrupted_studies_resume_to_the_same_tables_and_metrics(tmp_path, monkeypatch, study):
    arguments = [f"task.study={study}", "task.pairs=3", "task.train.epochs=1", "model.width=8", "task.labels=1"]
    arguments += ["task.analyses=[taylor]"]
    code, whole, _ = run_here(tmp_path / "whole", *arguments)
    assert code == 0
    train = pairs.train_pair

    def train_and_stop(run, pairs, model, pair, *rest):
        if pair == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return train(run, pairs, model, pair, *rest)

    monkeypatch.setattr(pairs, "train_pair", train_and_stop)
    assert run_here(tmp_path / "run", *arguments)[0] == 128 + signal.SIGTERM
    monkeypatch.setattr(pairs, "train_pair", train)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as handle:
        handle.write('{"step": 3, "torn": 1}\n')  # of a pair whose checkpoint was never written
    with pytest.raises(SystemExit, match="0"):
        cli.main(["resume", str(tmp_path / "run")])
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged] == [1, 2, 3] and all(len(line) > 3 for line in logged)
    for name, rows in whole.items():
        with (tmp_path / "run" / "tables" / f"{name}.csv").open() as handle:
            resumed = list(csv.DictReader(handle))
        assert [timeless(row) for row in resumed] == [timeless(row) for row in rows], name


def timeless(row):
    return {key: value for key, value in row.items() if not key.startswith("seconds")}


@dataclass(frozen=True)
class Plugin:
    PERMLAB_ROWS: list


@pytest.mark.slow
def test_an_analysis_of_a_plugin_is_run_written_and_summed_up(tmp_path, monkeypatch):
    row = AnalysisRow(
        "norms",
        "norm of the weights",
        target=f"{__name__}:norms",
        tables=(
            Measured("norms", "Norms", keys=("network",), shown=("network", "norm"), metrics=f"{__name__}:largest"),
        ),
    )
    run_here(tmp_path / "dry", "run.dry_run=true")  # defaults of the schema are taken once in a process: without it
    monkeypatch.setitem(registry._activated, "norms_of_weights", Plugin([row]))
    monkeypatch.setattr(registry, "plugin_folders", list)
    assert "norms" in ANALYSES.choices
    code, tables, metrics = run_here(
        tmp_path / "run", "task.study=lmc", "task.analyses=[norms]", "task.pairs=2", "task.train.epochs=1"
    )
    assert code == 0 and len(tables["norms"]) == 4 and len(tables["norms_mean"]) == 2
    assert metrics["largest_norm"] == pytest.approx(max(float(line["norm"]) for line in tables["norms_mean"]))


def norms(subject):
    rows = [
        {"pair": subject.pair, "network": name, "norm": sum(float(value.norm()) for value in state.values())}
        for name, state in zip("AB", subject.states)
    ]
    return {"norms": rows}


def largest(lines):
    return {"largest_norm": max(line["norm"] for line in lines)}


@pytest.mark.slow
def test_pleas_command_with_labels_and_with_domains(tmp_path):
    code, tables, metrics = run_here(
        tmp_path / "labels", "task.study=pleas", "task.labels=2", "task.pairs=2", "task.compare=[activation/fisher]"
    )
    assert code == 0 and len(tables["pleas"]) == 2 * (2 + 23 + 1) and len(tables["budgets"]) == 2 * 18
    assert 0 < metrics["activation_matching_fisher_joint"] <= 1
    assert {"ensemble_joint", "no_permutation_repair_own", "activation_matching_qp_1.5_macs"} <= set(metrics)
    assert metrics["untrained_trunk_probe"] > 0.5
    code, tables, metrics = run_here(tmp_path / "domains", "task.study=pleas", "task.domains=[original,inverted]")
    assert code == 0 and "joint" not in tables["pleas"][0]
    assert {"network_a_alone_own", "own_network_of_each_domain_own"} <= set(metrics)
    assert (tmp_path / "domains" / "figures" / "budgets.svg").exists()


@pytest.mark.slow
def test_bad_requests_are_refused_before_any_training(tmp_path, capsys):
    for number, (wrong, remedy) in enumerate(
        (
            (("task.study=pleas", "task.domains=[original]"), "give one each"),
            (("task.study=lmc", "task.analyses=[distance]"), "distances"),
            (("task.study=lmc", "task.labels=2"), "drop task.labels"),
            (("task.study=lmc", "task.compare=[activation]"), "drop task.compare"),
            (("task.study=width", "task.weights=[1,2]"), "drop task.weights"),
            (("task.study=pleas", "task.compare=[identity/ties]"), "no common ancestor"),
        )
    ):
        assert run_here(tmp_path / str(number), *wrong)[0] == 2
        assert remedy in capsys.readouterr().err
        assert not (tmp_path / str(number)).exists()


def test_the_figure_of_many_networks_is_drawn_against_their_number():
    arms, scores = ("single networks", "weight matching"), {"loss": 0.1, "calibration_error": 0.01}
    rows = [{"pair": pair, "count": count, "arm": arm, **scores} for pair in (0, 1) for count in (2, 8) for arm in arms]
    for ax in draw_many({"many": rows}).axes:
        assert [list(bars[0].get_xdata()) for bars in ax.containers] == [[2, 8]] * 2


def test_names():
    assert slug("activation matching, r = 0.5, least squares") == "activation_matching_r_0.5_least_squares"
    assert len(set(ANALYSES)) == 11
