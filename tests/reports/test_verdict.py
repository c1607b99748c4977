"""Verdicts: every way in which rules can hold, half hold, or have nothing to judge."""

from __future__ import annotations

import pytest
from synthetic import write_run

from permlab.reports.collect import collect
from permlab.reports.verdict import judge

CHECKS = ["mean(acc) >= 0.9 where task.order=spt -- spt", "max(acc) <= 0.05 where task.order=original"]


def experiment(**more):
    return {"name": "spt/x", "claim": "A claim.", "checks": CHECKS, "scale": "paper", **more}


def runs(root, spt=(1.0, 0.9), original=(0.0, 0.01), **about):
    for order, values in (("spt", spt), ("original", original)):
        for seed, value in enumerate(values):
            metrics = {} if value is None else {"acc": value}
            sweep = {"task.order": "spt,original", "seed": "0,1"}
            write_run(root, "spt", seed, metrics, {"order": order, "epochs": 5}, experiment(sweep=sweep, **about))


def only(root, shipped=lambda name: None):
    (claim,) = judge(collect([str(root)]).runs, shipped)
    return claim


@pytest.mark.parametrize(
    "spt, original, scale, verdict",
    [
        ((1.0, 0.9), (0.0, 0.01), "paper", "reproduced"),
        ((1.0, 0.9), (0.0, 0.01), "toy", "toy scale only"),
        ((1.0, 0.7), (0.0, 0.01), "paper", "partly"),
        ((1.0, 0.7), (0.0, 0.01), "toy", "partly"),
        ((1.0, 0.7), (0.5, 0.01), "paper", "not reproduced"),
        ((None, None), (None, None), "paper", "not judged"),
        ((None, None), (0.0, 0.0), "paper", "partly"),
        ((), (), "paper", None),
    ],
)
def test_verdicts(tmp_path, spt, original, scale, verdict):
    runs(tmp_path, spt, original, scale=scale)
    if verdict is None:
        assert judge(collect([str(tmp_path)]).runs) == []
        return
    assert only(tmp_path).verdict == verdict


@pytest.mark.parametrize(
    "spt, original, scale, verdict",
    [
        ((1.0, 0.9), (0.0, 0.01), "paper", "holds"),
        ((1.0, 0.9), (0.0, 0.01), "toy", "holds"),
        ((1.0, 0.7), (0.0, 0.01), "toy", "partly"),
        ((1.0, 0.7), (0.5, 0.01), "paper", "does not hold"),
        ((None, None), (None, None), "paper", "not judged"),
    ],
)
def test_verdicts_on_our_own_claims_are_other_words(tmp_path, spt, original, scale, verdict):
    runs(tmp_path, spt, original, scale=scale, claim_by="permlab")
    claim = only(tmp_path)
    assert claim.verdict == claim.row()["verdict"] == verdict and claim.by == "permlab"


def test_our_own_claims_run_otherwise_say_so_and_older_runs_take_the_files_word(tmp_path):
    runs(tmp_path)
    about = experiment(claim_by="permlab")
    assert only(tmp_path).by == "paper"
    same = {"task": {"name": "spt", "epochs": 5}, "experiment": about}
    assert only(tmp_path, lambda name: same).row()["verdict"] == "holds"
    shipped = {"task": {"name": "spt", "epochs": 80}, "experiment": about}
    assert only(tmp_path, lambda name: shipped).row()["verdict"] == "holds (with other keys)"


def test_a_nan_is_not_passed_over(tmp_path):
    runs(tmp_path)
    about = experiment(sweep={"task.order": "spt,original", "seed": "0,1"})
    write_run(tmp_path, "spt", 2, {"acc": float("nan")}, {"order": "spt", "epochs": 5}, about)
    claim = only(tmp_path)
    assert claim.verdict == "partly"
    assert [check.outcome.held for check in claim.checks] == [None, True]


def test_numbers_seeds_and_minutes(tmp_path):
    runs(tmp_path)
    claim = only(tmp_path)
    first = claim.checks[0]
    assert (first.outcome.value, first.spread.count, first.seeds) == (pytest.approx(0.95), 2, 2)
    assert first.line == "spt [order=spt]: 0.95 ± 0.07071, needs ≥ 0.9 (2 seeds)"
    assert claim.minutes == pytest.approx(4.0)
    assert claim.row()["minutes"] == 4.0
    assert [held for _, held in claim.ours().lines] == [True, True]
    assert claim.check_rows()[0]["measured"] == pytest.approx(0.95)


def test_a_failed_job_takes_the_verdict_down(tmp_path):
    runs(tmp_path)
    about = experiment(sweep={"task.order": "spt,original", "seed": "0,1"})
    write_run(tmp_path, "spt", 3, {}, {"order": "spt", "epochs": 5}, about, status="failed", error="E")
    claim = only(tmp_path)
    assert claim.verdict == "partly" and claim.unfinished == 1
    assert "1 of 5 jobs did not finish" in claim.notes
    write_run(tmp_path, "spt", 3, {"acc": 1.0}, {"order": "spt", "epochs": 5}, about)
    assert only(tmp_path).verdict == "reproduced"


def test_nothing_finished(tmp_path):
    write_run(tmp_path, "spt", 0, {}, {"order": "spt"}, experiment(), status="running")
    assert only(tmp_path).verdict == "unfinished"


def test_variants_are_judged_apart_and_say_what_was_changed(tmp_path):
    runs(tmp_path)
    write_run(tmp_path, "spt", 0, {"acc": 1.0}, {"order": "spt", "epochs": 1}, experiment(sweep={"task.order": "spt"}))
    shipped = {"task": {"name": "spt", "order": "spt", "epochs": 5}, "seed": 0, "experiment": experiment()}
    full, short = judge(collect([str(tmp_path)]).runs, lambda name: shipped)
    assert full.verdict == "reproduced" and not full.changed
    assert short.verdict == "partly" and short.notes[0] == "run with task.epochs=1 (shipped: 5)"
    assert short.row()["verdict"] == "partly (with other keys)"


def test_what_holds_with_other_keys_is_not_called_reproduced(tmp_path):
    runs(tmp_path)
    shipped = {"task": {"name": "spt", "order": "spt", "epochs": 80}, "experiment": experiment()}
    claim = only(tmp_path, lambda name: shipped)
    assert claim.verdict == "toy scale only" and claim.changed
    moved = {"task": {"name": "spt", "epochs": 5}, "hardware": {"threads": 8}, "experiment": experiment()}
    assert only(tmp_path, lambda name: moved).verdict == "reproduced"


def test_rules_written_after_the_runs_are_used_and_named(tmp_path):
    runs(tmp_path, checks=[])
    assert only(tmp_path).verdict == "not judged"
    shipped = {"task": {"epochs": 5}, "experiment": experiment(scale="toy")}
    claim = only(tmp_path, lambda name: shipped)
    assert claim.verdict == "toy scale only" and "(rules written after these runs)" in claim.notes


def test_missing_jobs_of_the_sweep_are_named(tmp_path):
    runs(tmp_path, spt=(1.0,), original=(0.0,))
    assert "2 of 4 jobs of its sweep" in only(tmp_path).notes


def test_a_recorded_rule_that_cannot_be_read_is_named_and_holds_nothing(tmp_path):
    runs(tmp_path, checks=[*CHECKS, "acc is high"])
    claim = only(tmp_path)
    assert any("cannot read 'acc is high'" in note for note in claim.notes)
    assert claim.verdict == "partly"


def test_runs_without_an_experiment_make_no_claim(tmp_path):
    write_run(tmp_path, "spt", 0, {"acc": 1.0})
    assert judge(collect([str(tmp_path)]).runs) == []


def test_a_rule_about_another_data_set_is_left_out(tmp_path):
    checks = ["mean(acc) >= 0.9 where task.data=digits", "mean(acc) >= 0.2"]
    about = experiment(checks=checks)
    write_run(tmp_path, "spt", 0, {"acc": 0.5}, {"data": "mnist"}, about)
    shipped = {"task": {"name": "spt", "data": "digits"}, "experiment": about}
    claim = only(tmp_path, lambda name: shipped)
    assert [check.outcome.held for check in claim.checks] == [True]
    assert claim.verdict == "toy scale only" and any("mnist" in note for note in claim.notes)
