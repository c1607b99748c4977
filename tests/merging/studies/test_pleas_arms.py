"""Arms and budgets of merging in part on tiny networks: exact prices, and what the extremes must be."""

from __future__ import annotations

import pytest
import torch

from permlab.data.images import load_digits_images
from permlab.merging import ALLOCATIONS, average, batches_of, head_tensors, label_split, logits_of
from permlab.merging.studies.pleas.arms import arm_rows, plans
from permlab.merging.studies.pleas.budgets import BUDGET_GRID, budget_rows
from permlab.merging.studies.pleas.case import Case
from permlab.symmetry import apply


def make_case(networks, labels=True, **options):
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
def case(networks):
    return make_case(networks)


@pytest.fixture(scope="module")
def shared_case(networks):
    return make_case(networks, labels=False)


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
    rows = {row["arm"]: row for row in arm_rows(case)}
    assert set(rows) == {"ensemble", *(arm for arm, *_ in plans(case))}
    assert all(0 <= row[key] <= 1 for row in rows.values() for key in ("own", "joint"))
    r = 0.5  # 64 inputs, three layers of 16; the heads are not counted
    base, whole = 64 * 16 + 2 * 16 * 16, 64 * 16 * (1 + r) + 2 * 16 * 16 * ((1 + r) ** 2 - 2 * r * r)
    assert rows["no permutation, r = 0.5, least squares"]["macs"] == pytest.approx(whole / base)
    assert rows["ensemble"]["macs"] == 2 and rows["activation matching, least squares"]["macs"] == 1


def test_allocators_stay_within_the_budget_and_name_their_solver(case):
    rows = budget_rows(case)
    assert len(rows) == len(BUDGET_GRID) * (len(ALLOCATIONS) + 2)
    for row in rows:
        assert 1 < row["macs"] <= row["budget"] + 1e-9 and row["solver"]
    assert {row["allocator"] for row in rows if "SLSQP" in row["solver"]} == {"qp"}


def test_batchnorm_networks_get_a_row_with_their_statistics_reset(networks):
    case = make_case(networks, name="resnet-tiny", width=0.5, epochs=1)
    rows = {row["arm"] for row in arm_rows(case)}
    assert {"ensemble + reset", "no permutation, average + reset", "activation matching, least squares + reset"} <= rows
    assert "no permutation, REPAIR" in rows and "no permutation, REPAIR + reset" not in rows
