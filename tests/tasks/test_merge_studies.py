"""`task.study=lmc` and `task.study=pleas` on tiny networks: exact invariants, complete tables, figures."""

from __future__ import annotations

import csv
import json
from itertools import pairwise

import pytest
import torch

from permlab import cli
from permlab.data.images import load_digits_images
from permlab.matching import weight_matching
from permlab.merging import (
    BUDGETS,
    Decomposition,
    average,
    batches_of,
    head_tensors,
    initial_state,
    label_split,
    logits_of,
    train_endpoint,
)
from permlab.models.vision import build_vision_model
from permlab.symmetry import apply, declare
from permlab.tasks.merge import ANALYSES
from permlab.tasks.merge.lmc import means
from permlab.tasks.merge.lmc_parts import ARMS, CAUSAL_GAMMAS, GAMMAS, Subject, causal, descent_steps, random_ranks
from permlab.tasks.merge.pleas import paired, slug
from permlab.tasks.merge.pleas_parts import BUDGET_GRID, Case, budget_rows, plans, table_rows

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


def networks(parts, width=16, name="mlp", epochs=4, **options):
    """(model, spec, one trained state dict per part)."""
    data = load_digits_images()
    model = build_vision_model(name, shape=data.shape, classes=10, width=width, **options)
    states = [
        train_endpoint(
            model, part, start=initial_state(name, data, k, width=width, **options), epochs=epochs, seed=k
        ).state
        for k, part in enumerate(parts)
    ]
    return model, declare(model), states


def make_case(labels=True, **options):
    data = load_digits_images()
    parts = label_split(data, 2) if labels else [data, data]
    model, spec, states = networks(parts, **options)
    own = [batches_of(part.x_train[:200], part.y_train[:200]) for part in parts]
    return Case(
        pair=0,
        spec=spec,
        model=model,
        states=states,
        untrained=states[0],
        head="head",
        heads=head_tensors(states[0], "head") if labels else (),
        labels=[list(range(5)), list(range(5, 10))] if labels else None,
        train=own,
        test=[batches_of(part.x_test, part.y_test) for part in parts],
        data=[tuple(torch.cat(values) for values in zip(*batches)) for batches in zip(*own)],
        probes=False,
    )


@pytest.fixture(scope="module")
def case():
    return make_case()


@pytest.fixture(scope="module")
def shared_case():
    return make_case(labels=False)


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
    naive = {row["pair"]: row for row in tables["distances"] if (row["networks"], row["arm"]) == ("trained", ARMS[0])}
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
    line = means([{"a": "x", "v": 1.0}, {"a": "x", "v": 3.0, "w": 2.0}], ["a"])[0]
    assert line["v"] == 2 and line["v_sd"] == pytest.approx(2**0.5) and line["w"] == 2 and line["pairs"] == 2


def test_steps_of_the_descent_end_where_weight_matching_from_the_identity_does():
    _, spec, (a, b) = networks([load_digits_images()] * 2, epochs=1)
    *_, (_, last) = descent_steps(spec, a, b, seed=3)
    found = weight_matching(spec, a, last_applied := apply(spec, b, last), start=spec.identity())
    assert found.moved() == 0 and last_applied.keys() == b.keys()


def test_leading_vectors_alone_recover_a_permuted_copy():
    _, spec, (a,) = networks([load_digits_images()], epochs=2)
    model = build_vision_model("mlp", shape=(1, 8, 8), classes=10, width=16)
    permutation = spec.random(torch.Generator().manual_seed(1))
    x, y = torch.randn(20, 1, 8, 8), torch.arange(20) % 10
    sets = {"train": [(x, y)], "test": [(x, y)]}
    subject = Subject(0, spec, model, [a, apply(spec, a, permutation)], [a, a], sets, sets["train"])
    rows = causal(subject)["causal"]
    for row in rows:
        if row["part"] == "all" or (row["part"] == "leading" and row["gamma"] <= 0.3):
            assert row["l2_reduction"] == pytest.approx(1, abs=1e-5), row
            assert row["r_0.3"] == pytest.approx(1, abs=1e-6) and abs(row["loss_barrier"]) < 1e-4
            assert row["vectors"] == 1 if row["part"] == "all" else 0 < row["vectors"] < 1
    shares = {row["gamma"]: {} for row in rows}
    for row in rows:
        shares[row["gamma"]][row["part"]] = row["energy"]
    for gamma in CAUSAL_GAMMAS:
        assert shares[gamma]["leading"] + shares[gamma]["rest"] == pytest.approx(1)


def test_random_ranks_hold_no_more_than_the_rest():
    _, spec, (a,) = networks([load_digits_images()], epochs=1)
    found = Decomposition(spec, a)
    for name, mask in random_ranks(found, 0.5, seed=0).items():
        s = found.parts[name][1]
        assert float(s[mask].square().sum()) <= float(s[s < 0.5 * s[0]].square().sum()) * (1 + 1e-12)


def test_nothing_separate_and_plain_average_is_re_basin(shared_case):
    case = shared_case
    for match in ("no permutation", "weight matching"):
        trunk, _ = case.combine(match, "average", {})
        moved = apply(case.spec, case.states[1], {**case.spec.identity(), **case.match(match).permutation})
        wanted = average([case.states[0], moved])
        assert all(torch.allclose(trunk[name], wanted[name], atol=1e-6) for name in wanted)
        zero, _ = case.combine(match, "average", dict.fromkeys(case.free, 0.0))
        assert all(torch.equal(zero[name], trunk[name]) for name in trunk)


@pytest.mark.parametrize("how", ["average", "least squares"])
def test_everything_separate_is_the_ensemble(case, shared_case, how):
    ratios = dict.fromkeys(case.free, 1.0)
    _, states = case.combine("activation matching", how, ratios)
    batches = [batch for each in case.test for batch in each]
    for state, own in zip(states, case.states):
        assert torch.allclose(logits_of(case.model, state, batches), logits_of(case.model, own, batches), atol=1e-5)
    assert case.counter.ratio(ratios) == pytest.approx(2)
    _, states = shared_case.combine("activation matching", how, ratios)
    wanted = sum(logits_of(shared_case.model, own, batches) for own in shared_case.states) / 2
    assert torch.allclose(logits_of(shared_case.model, states[0], batches), wanted, atol=1e-5)


def test_every_arm_has_a_row_and_the_price_is_exact(case):
    rows = {row["arm"]: row for row in table_rows(case)}
    assert set(rows) == {"ensemble", *(arm for arm, *_ in plans(case))}
    assert all(0 <= row[key] <= 1 for row in rows.values() for key in ("own", "joint"))
    r = 0.5  # 64 inputs, three layers of 16; the heads are not counted
    base, whole = 64 * 16 + 2 * 16 * 16, 64 * 16 * (1 + r) + 2 * 16 * 16 * ((1 + r) ** 2 - 2 * r * r)
    assert rows["no permutation, r = 0.5, least squares"]["macs"] == pytest.approx(whole / base)
    assert rows["ensemble"]["macs"] == 2 and rows["activation matching, least squares"]["macs"] == 1


def test_allocators_stay_within_the_budget_and_name_their_solver(case):
    rows = budget_rows(case)
    assert len(rows) == len(BUDGET_GRID) * (len(BUDGETS) + 2)
    for row in rows:
        assert 1 < row["macs"] <= row["budget"] + 1e-9 and row["solver"]
    assert {row["allocator"] for row in rows if "SLSQP" in row["solver"]} == {"qp"}


def test_batchnorm_networks_get_a_row_with_their_statistics_reset():
    case = make_case(name="resnet-tiny", width=0.5, epochs=1)
    rows = {row["arm"] for row in table_rows(case)}
    assert {"ensemble + reset", "no permutation, average + reset", "activation matching, least squares + reset"} <= rows
    assert "no permutation, REPAIR" in rows and "no permutation, REPAIR + reset" not in rows


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


def test_paired_differences():
    rows = [
        {"pair": pair, "arm": arm, "own": value}
        for arm, values in (("x", (0.5, 0.7)), ("y", (0.6, 0.6)), ("z", (None, 0.9)))
        for pair, value in enumerate(values)
    ]
    y, z = paired(rows, "x", "own")
    assert y["own"] == pytest.approx(0) and y["sd"] == pytest.approx(0.02**0.5) and (y["above"], y["pairs"]) == (1, 2)
    assert z["own"] == pytest.approx(0.2) and z["pairs"] == 1


def test_names():
    assert slug("activation matching, r = 0.5, least squares") == "activation_matching_r_0.5_least_squares"
    assert len(set(ANALYSES)) == 7
