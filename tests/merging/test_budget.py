from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch
from architectures import build

from permlab.errors import UserError
from permlab.merging import ALLOCATIONS, Layout, MacCounter, allocate, measured_gains, not_separable, weight_gains
from permlab.merging.partial import budget
from permlab.symmetry import ChannelGroup


def random_ratios(spec, fixed, seed):
    generator = torch.Generator().manual_seed(seed)
    ratios = {}
    for name, group in spec.groups.items():
        if name not in fixed:
            most = group.size if isinstance(group, ChannelGroup) else 1
            ratios[name] = int(torch.randint(0, most + 1, (1,), generator=generator)) / most
    return ratios


LARGER = [pytest.param(name, marks=pytest.mark.slow) for name in ("resnet20", "vit-tiny")]


@pytest.mark.parametrize("name", ["mlp", "vgg11", "llama", *LARGER])
def test_counts_equal_a_counted_forward_pass(name):
    model, inputs, spec = build(name)
    fixed = not_separable(spec, model, inputs)
    counter = MacCounter(spec, model, inputs, fixed=list(fixed))
    state = {key: value.detach() for key, value in model.state_dict().items()}
    assert counter.base == counter.measure(state)
    for seed in range(3):
        ratios = random_ratios(spec, fixed, seed)
        scores = {key: torch.arange(float(group.units)) for key, group in spec.groups.items()}
        layout = Layout(spec, model, scores=scores, ratios=ratios)
        macs = counter.count(ratios)
        assert macs.dense == pytest.approx(counter.measure(layout.merge([state, state])), rel=1e-12)
        zeros = sum(
            positions * int((~layout.mask(weight, state[weight])).sum())
            for weight, positions in counter.positions.items()
        )
        assert macs.block == pytest.approx(macs.dense - zeros, rel=1e-12)
        assert macs.ratio == counter.ratio(ratios)


def test_formula_of_the_paper():
    model, inputs, spec = build("mlp")
    counter = MacCounter(spec, model, inputs)
    r = {"layers.0": 0.25, "layers.1": 0.5, "layers.2": 0.75}
    wanted = 64 * 24 * 1.25 + 24 * 24 * (1.25 * 1.5 - 2 * 0.125) + 24 * 24 * (1.5 * 1.75 - 2 * 0.375) + 240 * 1.75
    assert counter.count(r).block == pytest.approx(wanted)
    assert counter.ratio(dict.fromkeys(spec.groups, 1.0)) == 2.0
    trunk = MacCounter(spec, model, inputs, heads=("head.weight", "head.bias"))
    assert trunk.base == counter.base - 240 and trunk.ratio(dict.fromkeys(spec.groups, 1.0)) == 2.0


@pytest.fixture(scope="module")
def small():
    model, inputs, spec = build("mlp")
    return MacCounter(spec, model, inputs)


@pytest.mark.parametrize("method", list(ALLOCATIONS))
@pytest.mark.parametrize("wanted", [1.0, 1.3, 1.7, 2.0])
def test_allocations_keep_the_budget(small, method, wanted):
    gains = {"layers.0": 1.0, "layers.1": 2.0, "layers.2": 3.0}
    found = allocate(method, small, wanted, gains=gains)
    assert found.macs <= wanted + 1e-9 and found.macs == small.ratio(found.ratios)
    assert found.macs > wanted - 0.06
    assert all(abs(24 * ratio - round(24 * ratio)) < 1e-9 for ratio in found.ratios.values())
    assert found.method == method and found.solver
    if wanted == 1.0:
        assert not any(found.ratios.values())
    if wanted == 2.0:
        assert set(found.ratios.values()) == {1.0}


def test_uniform_and_prefix(small):
    uniform = allocate("uniform", small, 1.5).ratios
    assert len(set(uniform.values())) == 1
    more = {name: ratio + 1 / 24 for name, ratio in uniform.items()}
    assert small.ratio(more) > 1.5
    prefix = allocate("prefix", small, 1.3).ratios
    assert prefix["layers.0"] == 0 and prefix["layers.2"] == 1 and 0 < prefix["layers.1"] < 1


def best_on_a_grid(counter, gains, wanted, steps):
    """The best allocation among all on a grid, by trying every one."""
    best = 0.0
    for point in itertools.product(range(steps + 1), repeat=len(gains)):
        ratios = {name: step / steps for name, step in zip(gains, point)}
        if counter.ratio(ratios) <= wanted:
            best = max(best, sum(gains[name] * ratio for name, ratio in ratios.items()))
    return best


@pytest.mark.parametrize("seed", range(4))
def test_quadratic_programme_against_all_points(small, seed):
    draw = torch.rand(3, generator=torch.Generator().manual_seed(seed)).tolist()
    gains = dict(zip(small.spec.groups, draw))
    found = allocate("qp", small, 1.4, gains=gains, seed=seed)
    assert found.objective >= best_on_a_grid(small, gains, 1.4, 24) - 1e-9
    assert len(found.starts) == 8 and "SLSQP" in found.solver
    greedy = allocate("greedy", small, 1.4, gains=gains)
    assert found.objective >= greedy.objective - 1e-9


def test_heads_are_never_split():
    model, inputs, spec = build("llama")
    fixed = not_separable(spec, model, inputs)
    counter = MacCounter(spec, model, inputs, fixed=list(fixed))
    gains = {name: float(number) for number, name in enumerate(spec.groups)}
    for method in list(ALLOCATIONS):
        found = allocate(method, counter, 1.35, gains=gains, fixed=fixed)
        assert "residual" not in found.ratios and "residual" in found.notes
        assert found.macs <= 1.35 + 1e-9
        assert all(r in (0, 1) for name, r in found.ratios.items() if not isinstance(spec.groups[name], ChannelGroup))


def test_nothing_takes_the_place_of_a_failed_solver(small, monkeypatch):
    gains = dict.fromkeys(small.spec.groups, 1.0)
    failed = SimpleNamespace(x=[0.0, 0.0, 0.0], success=False)
    monkeypatch.setattr(budget, "minimize", lambda *args, **options: failed)
    with pytest.raises(UserError, match="converged from none of 8 starts"):
        allocate("qp", small, 1.5, gains=gains)


def test_bad_budgets_are_refused(small):
    with pytest.raises(UserError, match="out of range"):
        allocate("uniform", small, 2.5)
    with pytest.raises(UserError, match="needs the gain of every group"):
        allocate("greedy", small, 1.5)
    with pytest.raises(UserError, match="did you mean 'uniform'"):
        allocate("unifrom", small, 1.5)
    with pytest.raises(UserError, match="cannot be spent"):
        allocate("uniform", small, 1.5, fixed=dict.fromkeys(small.spec.groups, "because"))
    partly = allocate("uniform", small, 1.9, fixed={"layers.0": "a", "layers.1": "b"})
    assert partly.ratios == {"layers.2": 1.0} and "every group that can is separate" in partly.notes["budget"]


def test_gains_blend_the_two_ends():
    table = {(): 0.1, ("a",): 0.3, ("b",): 0.2, ("a", "b"): 0.9}
    found = measured_gains(["a", "b"], 1.25, lambda ratios: table[tuple(sorted(ratios))])
    assert found["a"] == pytest.approx(0.75 * 0.2 + 0.25 * 0.7)
    assert found["b"] == pytest.approx(0.75 * 0.1 + 0.25 * 0.6)
    assert measured_gains(["a"], 1.5, lambda ratios: 0.5) == {"a": 1e-5}


def test_gains_without_data_are_relative_distances():
    model, _, spec = build("mlp-batch")
    a = {key: value.detach() for key, value in model.state_dict().items()}
    b = {key: value.detach() for key, value in build("mlp-batch", seed=1)[0].state_dict().items()}
    assert weight_gains(spec, a, a, list(spec.groups)) == dict.fromkeys(spec.groups, 0.0)
    found = weight_gains(spec, a, b, ["layers.2"])["layers.2"]
    names = ["layers.2.weight", "layers.2.bias", "norms.2.weight", "norms.2.bias", "head.weight"]
    apart = sum(float((a[key] - b[key]).square().sum()) for key in names)
    assert found == pytest.approx(2 * apart / sum(float(s[key].square().sum()) for s in (a, b) for key in names))
    opposite = {key: -value for key, value in a.items()}
    assert weight_gains(spec, a, opposite, ["layers.0"])["layers.0"] == pytest.approx(4)
