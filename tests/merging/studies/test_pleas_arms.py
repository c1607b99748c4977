"""Arms and budgets of merging in part on tiny networks: exact prices, and what the extremes must be."""

from __future__ import annotations

import pytest
import torch

from permlab.data.images import load_digits_images
from permlab.merging import (
    ALLOCATIONS,
    Setting,
    Subject,
    average,
    batches_of,
    head_tensors,
    initial_state,
    label_split,
    logits_of,
    parse_arm,
)
from permlab.merging.studies.pleas.arms import PartialArm, arm_rows, plans
from permlab.merging.studies.pleas.budgets import BUDGET_GRID, budget_rows, planned_budgets
from permlab.merging.studies.pleas.scores import TASKS, set_name, set_of
from permlab.models.vision import build_vision_model
from permlab.symmetry import apply, declare


def make_subject(networks, labels=True, **options):
    data = load_digits_images()
    parts = label_split(data, 2) if labels else [data, data]
    model, spec, states = networks(parts, **options)
    own = [batches_of(part.x_train[:200], part.y_train[:200]) for part in parts]
    sets = {set_name("train", task): batches for task, batches in enumerate(own)}
    sets |= {set_name("test", task): batches_of(part.x_test, part.y_test) for task, part in enumerate(parts)}
    mixed = [tuple(torch.cat(values) for values in zip(*batches)) for batches in zip(*own)]
    heads = head_tensors(states[0], "head") if labels else ()
    return Subject(
        model,
        spec,
        states,
        sets,
        Setting(mixed, own_batches=own, heads=heads),
        labels=[list(range(5)), list(range(5, 10))] if labels else (),
        untrained=states[:1],
    )


@pytest.fixture(scope="module")
def subject(networks):
    return make_subject(networks)


@pytest.fixture(scope="module")
def shared_labels(networks):
    return make_subject(networks, labels=False)


def test_nothing_separate_and_plain_average_is_re_basin(shared_labels):
    subject = shared_labels
    for match in ("identity", "weight"):
        merged = PartialArm(match).merge(subject).state
        moved = apply(subject.spec, subject.states[1], {**subject.spec.identity(), **subject.match(match).permutation})
        wanted = average([subject.states[0], moved])
        assert all(torch.allclose(merged[name], wanted[name], atol=1e-6) for name in wanted)
        zero = PartialArm(match, ratios=dict.fromkeys(subject.free, 0.0)).merge(subject).state
        assert all(torch.equal(zero[name], merged[name]) for name in merged)


@pytest.mark.parametrize("how", ["average", "least_squares"])
def test_everything_separate_is_the_ensemble(subject, shared_labels, how):
    whole = PartialArm("activation", how, ratios=dict.fromkeys(subject.free, 1.0))
    merged = whole.merge(subject)
    batches = [batch for task in TASKS for batch in set_of(subject, "test", task)]
    for state, own in zip(merged.states, subject.states):
        assert torch.allclose(
            logits_of(subject.model, state, batches), logits_of(subject.model, own, batches), atol=1e-5
        )
    assert merged.macs == pytest.approx(2)
    model = shared_labels.model
    (state,) = whole.merge(shared_labels).states
    wanted = sum(logits_of(model, own, batches) for own in shared_labels.states) / 2
    assert torch.allclose(logits_of(model, state, batches), wanted, atol=1e-5)


def test_every_arm_has_a_row_and_the_price_is_exact(subject):
    arms = list(plans(subject, [parse_arm("activation+reset")]))
    rows = {row["arm"]: row for row in arm_rows(subject, arms, probes=False)}
    assert set(rows) == {"ensemble", *(arm.label for arm in arms)} and len(rows) == 1 + len(arms)
    assert "activation matching, average + reset" in rows  # arms of `task.compare` stand beside ours
    assert all(0 <= row[key] <= 1 for row in rows.values() for key in ("own", "joint"))
    r = 0.5  # 64 inputs, three layers of 16; the heads are not counted
    base, whole = 64 * 16 + 2 * 16 * 16, 64 * 16 * (1 + r) + 2 * 16 * 16 * ((1 + r) ** 2 - 2 * r * r)
    assert rows["no permutation, r = 0.5, least squares"]["macs"] == pytest.approx(whole / base)
    assert rows["ensemble"]["macs"] == 2 and rows["activation matching, least squares"]["macs"] == 1


def test_allocators_stay_within_the_budget_and_name_their_solver(subject):
    rows = budget_rows(subject)
    assert len(rows) == len(planned_budgets()) == len(BUDGET_GRID) * (len(ALLOCATIONS) + 2)
    for row in rows:
        assert 1 < row["macs"] <= row["budget"] + 1e-9 and row["solver"]
    assert {row["allocator"] for row in rows if "SLSQP" in row["solver"]} == {"qp"}


def test_statistics_of_a_merge_in_part_are_measured_under_a_head_that_fits():
    data = load_digits_images()
    model = build_vision_model("resnet-tiny", shape=data.shape, classes=10, width=0.5)
    states = [initial_state("resnet-tiny", data, seed, width=0.5) for seed in (0, 1)]
    setting = Setting([(data.x_train[:64], data.y_train[:64])], heads=head_tensors(states[0], "head"))
    labels = [list(range(5)), list(range(5, 10))]
    subject = Subject(model, declare(model), states, {}, setting, labels=labels)
    ratios = {subject.free[-1]: 1.0}  # what the heads read is twice as wide
    plain, reset = (subject.merge(parse_arm(f"identity{end}"), ratios=ratios) for end in ("", "+reset"))
    changed = [name for name in reset.state if not torch.equal(reset.state[name], plain.state[name])]
    assert changed and all("running" in name or "tracked" in name for name in changed)
    assert all(logits_of(model, state, setting.batches).isfinite().all() for state in reset.states)


@pytest.mark.slow
def test_batchnorm_networks_get_a_row_with_their_statistics_reset(networks):
    subject = make_subject(networks, name="resnet-tiny", width=0.5, epochs=1)
    rows = {row["arm"] for row in arm_rows(subject, list(plans(subject)), probes=False)}
    assert {"ensemble + reset", "no permutation, average + reset", "activation matching, least squares + reset"} <= rows
    assert "no permutation, REPAIR" in rows and "no permutation, REPAIR + reset" not in rows
