"""Changes since an ancestor, thinned out: what the papers keep, in expectation, by rank, and per network."""

from __future__ import annotations

import pytest
import torch

from permlab.errors import UserError
from permlab.merging.methods.changes import combine_changes
from permlab.merging.methods.spherical import barycentre, gram, slerp
from permlab.merging.setting import Setting

BASE = {"w": torch.zeros(40, 250), "v": torch.zeros(10)}


def changed(seed):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(value.shape, generator=generator) for name, value in BASE.items()}


def test_della_keeps_large_entries_of_a_row_more_often_and_the_sum_on_average():
    state = changed(0)
    runs = [
        combine_changes("della_linear", BASE, [state], Setting(density=0.5, epsilon=0.2, seed=seed))
        for seed in range(60)
    ]
    kept = torch.stack([run["w"] != 0 for run in runs]).float().mean(0)
    rank = state["w"].abs().argsort(1).argsort(1)
    for low, high in ((0, 50), (100, 150), (200, 250)):
        wanted = 0.3 + 0.4 * (low + high - 1) / 2 / 249
        assert float(kept[(rank >= low) & (rank < high)].mean()) == pytest.approx(wanted, abs=0.01)
    # Every entry is divided by the probability that it stays, 0.3 for the smallest of a row, 0.7 for the largest.
    run, largest = runs[0]["w"], rank == 249
    ratio = (run / state["w"])[largest & (run != 0)]
    assert len(ratio) and torch.allclose(ratio, torch.full_like(ratio, 1 / 0.7))
    assert float((torch.stack([run["w"] for run in runs]).mean(0) - state["w"]).abs().mean()) < 0.15


def test_breadcrumbs_drop_outliers_and_small_entries_of_every_tensor():
    state = changed(1)
    found = combine_changes("breadcrumbs", BASE, [state], Setting(density=0.6, gamma=0.1))
    order = state["w"].abs().flatten().argsort(descending=True)
    kept = (found["w"] != 0).flatten()
    assert not kept[order[:1000]].any() and kept[order[1000:7000]].all() and not kept[order[7000:]].any()
    assert torch.equal(found["w"].flatten()[kept], state["w"].flatten()[kept])
    assert int((found["v"] != 0).sum()) == 6  # one outlier of ten


def test_dare_with_signs_elected_is_ties_over_what_is_left():
    states = [changed(2), changed(3)]
    setting = Setting(density=0.5, seed=4)
    parts = [combine_changes("dare", BASE, states, Setting(density=0.5, seed=4, weights=w)) for w in ([1, 0], [0, 1])]
    stacked = torch.stack([part["w"] for part in parts])
    agrees = stacked.sign() == stacked.sum(0).sign()
    assert torch.allclose(combine_changes("dare_ties", BASE, states, setting)["w"], (stacked * agrees).sum(0))


def test_model_stock_goes_as_far_as_the_angle_says():
    # Two changes at an angle of 60 degrees: t = 2 cos / (1 + cos) = 2/3 of the way to their mean.
    base = {"w": torch.ones(2)}
    states = [{"w": 1 + torch.tensor([2.0, 0.0])}, {"w": 1 + torch.tensor([1.0, 3**0.5])}]
    found = combine_changes("model_stock", base, states, Setting())
    assert torch.allclose(found["w"], 1 + 2 / 3 * torch.tensor([1.5, 3**0.5 / 2]))
    same = combine_changes("model_stock", base, [states[0]] * 3, Setting())
    assert torch.allclose(same["w"], states[0]["w"])
    apart = combine_changes(
        "model_stock", base, [{"w": torch.tensor([2.0, 1.0])}, {"w": torch.tensor([1.0, 2.0])}], Setting()
    )
    assert torch.allclose(apart["w"], base["w"])


def test_the_mean_of_two_on_the_sphere_is_slerp_halfway():
    a, b = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    b = b * a.norm() / b.norm()
    one, other = barycentre(gram([a, b]), [0.5, 0.5])
    assert torch.allclose(one * a + other * b, slerp(a, b, 0.5), atol=1e-6)
    three = [torch.tensor([3.0, 0, 0]), torch.tensor([0, 3.0, 0]), torch.tensor([0, 0, 3.0])]
    factors = barycentre(gram(three), [1 / 3] * 3)
    assert torch.allclose(sum(f * x for f, x in zip(factors, three)), torch.full((3,), 3**0.5))


def test_lambda_densities_and_weights_are_those_of_every_network():
    states = [changed(5), changed(6)]
    setting = Setting(scale=0.5, weights=[2.0, 1.0], densities=[1.0, 0.1], trim_tensors=True, normalize=False)
    found = combine_changes("ties", BASE, states, setting)["w"]
    limit = states[1]["w"].abs().flatten().sort(descending=True).values[999]
    second = states[1]["w"].where(states[1]["w"].abs() >= limit, 0.0)
    votes = torch.stack([2 * states[0]["w"], second])
    assert torch.allclose(found, 0.5 * (votes * (votes.sign() == votes.sum(0).sign())).sum(0))
    task = combine_changes("task_arithmetic", BASE, states, Setting(scale=2.0, weights=[1.0, 3.0], normalize=True))["w"]
    assert torch.allclose(task, 2 * (0.25 * states[0]["w"] + 0.75 * states[1]["w"]))


@pytest.mark.parametrize(
    ("name", "keys", "line"),
    [
        ("della", {"density": 0.5, "epsilon": 0.5}, "probability 0 to 1"),
        ("ties", {"densities": [0.5]}, "1 densities given for 2 models"),
        ("dare", {"density": 0.0}, "density=0 would drop every change"),
        ("breadcrumbs", {"gamma": 1.5}, "gamma"),
    ],
)
def test_numbers_that_leave_nothing_are_refused(name, keys, line):
    with pytest.raises(UserError, match=line):
        combine_changes(name, BASE, [changed(0), changed(1)], Setting(**keys))
