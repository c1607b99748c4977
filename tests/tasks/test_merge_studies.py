"""`task.study=lmc` and `task.study=pleas` on tiny networks: complete tables, figures, refusals."""

from __future__ import annotations

import csv
import json
from itertools import pairwise

import pytest

from permlab import cli
from permlab.merging.arm import slug
from permlab.merging.studies.lmc.arms import ARMS
from permlab.merging.studies.lmc.causal import CAUSAL_GAMMAS
from permlab.merging.studies.lmc.spectra import GAMMAS
from permlab.tasks.merge.table import ANALYSES

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


def test_a_network_agrees_with_itself_and_only_matching_aligns_two(lmc):
    _, tables, metrics = lmc
    itself = [float(row["r"]) for row in tables["spectra"] if row["arm"] == "with itself"]
    assert itself == pytest.approx([1.0] * len(itself), abs=1e-9)
    assert abs(metrics["r_naive"]) < 0.2 < metrics["r_matched"]


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


def test_summaries_are_means_over_pairs(lmc):
    _, tables, metrics = lmc
    values = [
        float(row["l2_reduction"])
        for row in tables["distances"]
        if (row["networks"], row["arm"]) == ("trained", "weight matching")
    ]
    assert metrics["l2_reduction"] == pytest.approx(sum(values) / 2)


@pytest.mark.slow
def test_pleas_command_with_labels_and_with_domains(tmp_path):
    code, tables, metrics = run_here(tmp_path / "labels", "task.study=pleas", "task.labels=2", "task.pairs=2")
    assert code == 0 and len(tables["pleas"]) == 2 * (2 + 19) and len(tables["budgets"]) == 2 * 18
    assert {"ensemble_joint", "no_permutation_repair_own", "activation_matching_qp_1.5_macs"} <= set(metrics)
    assert metrics["untrained_trunk_probe"] > 0.5
    code, tables, metrics = run_here(tmp_path / "domains", "task.study=pleas", "task.domains=[original,inverted]")
    assert code == 0 and "joint" not in tables["pleas"][0]
    assert {"network_a_alone_own", "own_network_of_each_domain_own"} <= set(metrics)
    assert (tmp_path / "domains" / "figures" / "budgets.svg").exists()


def test_bad_requests_are_refused_before_any_training(tmp_path, capsys):
    for number, (wrong, remedy) in enumerate(
        (
            (("task.study=pleas", "task.domains=[original]"), "give one each"),
            (("task.study=lmc", "task.analyses=[distance]"), "distances"),
            (("task.study=lmc", "task.labels=2"), "drop task.labels"),
        )
    ):
        assert run_here(tmp_path / str(number), *wrong)[0] == 2
        assert remedy in capsys.readouterr().err
        assert not (tmp_path / str(number)).exists()


def test_names():
    assert slug("activation matching, r = 0.5, least squares") == "activation_matching_r_0.5_least_squares"
    assert len(set(ANALYSES)) == 7
