"""Ways to merge by name, and what they give on networks whose answer is known."""

from __future__ import annotations

import pytest
import torch

from permlab.errors import UserError
from permlab.matching import match_networks
from permlab.merging import (
    Setting,
    average,
    find_head,
    head_tensors,
    logits_of,
    merge_arm,
    renormalise,
    task_arithmetic,
)
from permlab.merging.arm import Arm, parse_arm
from permlab.merging.merge import combine_stored
from permlab.models.vision import build_vision_model
from permlab.symmetry import apply, declare


def networks(count=2, width=12, name="mlp", norm=None):
    torch.manual_seed(0)
    found = [build_vision_model(name, shape=(1, 8, 8), classes=4, width=width, norm=norm) for _ in range(count)]
    model = found[0].eval()
    batches = [(torch.randn(64, 1, 8, 8), torch.randint(0, 4, (64,))) for _ in range(2)]
    states = [{key: value.clone() for key, value in each.state_dict().items()} for each in found]
    return declare(model), model, states, batches


@pytest.mark.parametrize(
    "text,arm,label",
    [
        ("weight", Arm("weight"), "weight matching"),
        ("identity+reset", Arm("identity", "average", "reset"), "no permutation + reset"),
        ("activation/least_squares", Arm("activation", "least_squares"), "activation matching, least squares"),
        ("zip", Arm("zip", "zip"), "ZipIt"),
        ("identity/ties", Arm("identity", "ties"), "TIES"),
        ("weight/regmean+rescale", Arm("weight", "regmean", "rescale"), "weight matching, RegMean + rescale"),
    ],
)
def test_names_of_arms(text, arm, label):
    assert parse_arm(text) == arm and arm.label == label
    assert parse_arm(arm.text) == arm


@pytest.mark.parametrize(
    "text", ["", "wieght", "weight/avg", "weight+none/average", "weight/zip", "zip/average", "weight/ties"]
)
def test_arms_that_cannot_be(text):
    with pytest.raises(UserError):
        parse_arm(text)


@pytest.mark.parametrize(
    ("arm", "nearest"),
    [
        (Arm("wieght"), "weight"),
        (Arm("weight", "avreage"), "average"),
        (Arm("weight", "average", "resett"), "reset"),
    ],
)
def test_names_that_are_not_known_never_fall_through(arm, nearest):
    spec, model, states, batches = networks()
    with pytest.raises(UserError, match=f"did you mean '{nearest}'"):
        merge_arm(arm, spec, model, states, Setting(batches))
    with pytest.raises(UserError, match="did you mean 'weight'"):
        match_networks("wieght", spec, model, states, Setting(batches))
    merged = merge_arm(Arm("identity"), spec, model, states, Setting(batches))
    with pytest.raises(UserError, match="did you mean 'reset'"):
        renormalise("resett", merged.networks, merged.state, Setting(batches))
    with pytest.raises(UserError, match="did you mean 'greedy'"):
        merge_arm(Arm("weight"), spec, model, states, Setting(batches, budget=1.5, allocation="greedi"))
    with pytest.raises(UserError, match="did you mean 'pearson'"):
        merge_arm(Arm("activation"), spec, model, states, Setting(batches, similarity="pearsn"))


def test_stored_networks_are_combined_tensor_by_tensor():
    spec, _, states, _ = networks()
    matching = match_networks("random", spec, None, states, Setting(seed=3))
    stored = combine_stored(Arm("random"), spec, states, matching, Setting(weights=[1, 3]))
    moved = apply(spec, states[1], matching.permutation)
    wanted = average([states[0], moved], [1, 3])
    assert all(torch.equal(stored[name], value) for name, value in wanted.items())
    with pytest.raises(UserError, match="runs the networks"):
        combine_stored(Arm("weight", "regmean"), spec, states, matching, Setting())
    with pytest.raises(UserError, match="0 files for 2 networks"):  # which stand for running them
        combine_stored(Arm("weight", "fisher"), spec, states, matching, Setting())


@pytest.mark.parametrize("match", ["weight", "activation", "straight_through"])
def test_a_permuted_copy_merges_into_the_network_itself(match):
    spec, model, (state, _), batches = networks()
    other = apply(spec, state, spec.random(torch.Generator().manual_seed(5)))
    merged = merge_arm(Arm(match), spec, model, [state, other], Setting(batches, steps=2))
    # Units that never fire may change places, so the functions are compared and not the weights.
    assert torch.allclose(logits_of(model, merged.state, batches), logits_of(model, state, batches), atol=1e-5)
    assert merged.macs == 1 and merged.states == [merged.state]


def test_weights_of_the_average_and_of_task_arithmetic():
    spec, model, states, batches = networks()
    merged = merge_arm(Arm("identity"), spec, model, states, Setting(batches, weights=[1, 3]))
    expected = average(states, [0.25, 0.75])
    assert all(torch.allclose(merged.state[name], expected[name], atol=1e-7) for name in expected)
    base = networks(3)[2][2]
    shifted = task_arithmetic(base, states, [0.5, 2.0])
    name = "head.weight"
    by_hand = base[name] + 0.5 * (states[0][name] - base[name]) + 2 * (states[1][name] - base[name])
    assert torch.allclose(shifted[name], by_hand, atol=1e-6)
    with pytest.raises(UserError, match="one per model"):
        task_arithmetic(base, states, [1.0])
    with pytest.raises(UserError, match="ancestor"):
        merge_arm(Arm("identity", "ties"), spec, model, states, Setting(batches))


@pytest.mark.parametrize("allocation", ["uniform", "prefix", "greedy", "qp"])
@pytest.mark.parametrize("combine", ["average", "least_squares"])
def test_twice_the_cost_is_the_ensemble(allocation, combine):
    spec, model, states, batches = networks()
    setting = Setting(batches, budget=2.0, allocation=allocation)
    merged = merge_arm(Arm("weight", combine), spec, model, states, setting)
    assert merged.macs == pytest.approx(2)
    mean = sum(logits_of(model, state, batches) for state in states) / 2
    assert torch.allclose(logits_of(model, merged.state, batches), mean, atol=1e-5)


@pytest.mark.parametrize(
    "arm", [Arm("weight"), Arm("zip", "zip"), Arm("activation", "least_squares"), Arm("random", "regmean")]
)
def test_heads_stay_with_their_networks(arm):
    spec, model, (state, _), batches = networks()
    copy = {**apply(spec, state, spec.random(torch.Generator().manual_seed(1)))}
    if arm.match == "random":
        copy = dict(state)
    heads = head_tensors(state, find_head(model, (batches[0][0],)))
    merged = merge_arm(arm, spec, model, [state, copy], Setting(batches, heads=heads))
    assert len(merged.states) == 2 and heads == ("head.weight", "head.bias")
    if arm.match in ("weight", "activation"):
        # The trunks are one and the same up to the order of units, so each head answers as its network did.
        for found, original in zip(merged.states, (state, copy)):
            got, wanted = (logits_of(model, each, batches) for each in (found, original))
            assert torch.allclose(got, wanted, atol=2e-3)


def test_greedy_budgets_ask_for_training_accuracy():
    spec, model, states, batches = networks()
    asked = []
    setting = Setting(batches, budget=1.3, allocation="greedy", measure=lambda found: asked.append(len(found)) or 0.5)
    merge_arm(Arm("weight"), spec, model, states, setting)
    assert asked == [1] * (2 + 2 * len(spec.groups))


def test_more_than_two_networks():
    spec, model, states, batches = networks(3)
    merged = merge_arm(Arm("weight"), spec, model, states, Setting(batches))
    assert len(merged.aligned) == 3
    with pytest.raises(UserError, match="join two"):
        merge_arm(Arm("weight", "least_squares"), spec, model, states, Setting(batches))
    with pytest.raises(UserError, match="join two"):
        merge_arm(Arm("weight", "average", "rescale"), spec, model, states, Setting(batches))
    spec, model, states, batches = networks(3, width=1, name="resnet-tiny")
    reset = merge_arm(Arm("weight", "average", "reset"), spec, model, states, Setting(batches)).state
    plain = merge_arm(Arm("weight"), spec, model, states, Setting(batches)).state
    assert torch.equal(reset["stem.weight"], plain["stem.weight"])
    assert not torch.equal(reset["stem_norm.running_mean"], plain["stem_norm.running_mean"])
