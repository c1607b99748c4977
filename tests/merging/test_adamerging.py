"""AdaMerging: the entropy and its gradient, factors that are learnt without labels, heads and statistics."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from permlab.errors import UserError
from permlab.merging import Setting, merge_arm, parse_arm
from permlab.merging.methods.adamerging import START, Task, entropy, learnt, moved
from permlab.merging.methods.ties import task_arithmetic
from permlab.models.vision import build_vision_model
from permlab.symmetry import declare


def networks(count=2, name="mlp", **options):
    """(module, base, networks, images): random networks near a base."""
    torch.manual_seed(0)
    module = build_vision_model(name, shape=(1, 8, 8), classes=10, width=16, **options).eval()
    base = {key: value.clone() for key, value in module.state_dict().items()}
    states = [
        {
            key: value + 0.2 * torch.randn_like(value) if value.is_floating_point() else value
            for key, value in base.items()
        }
        for _ in range(count)
    ]
    return module, base, states, torch.randn(32, 1, 8, 8)


def changes_of(base, states):
    return [{key: state[key] - base[key] for key in base} for state in states]


def test_entropy_is_that_of_the_outputs():
    module, base, _, images = networks()
    assert entropy(module, base, (images, None), {}).item() == pytest.approx(
        float(torch.distributions.Categorical(logits=module(images).detach()).entropy().mean()), rel=1e-5
    )
    flat = {key: torch.zeros_like(value) for key, value in base.items()}
    assert float(entropy(module, flat, (images, None), {})) == pytest.approx(math.log(10))


@pytest.mark.parametrize("layers", [True, False])
def test_the_gradient_of_the_entropy_is_that_of_finite_differences(layers):
    module, base, states, images = networks()
    module, images = module.double(), images.double()
    base = {key: value.double() for key, value in base.items()}
    changes = changes_of(base, [{key: value.double() for key, value in state.items()} for state in states])
    names = list(base)
    shape = (2, len(names) if layers else 1)
    factors = (0.3 + 0.1 * torch.randn(shape, dtype=torch.float64)).requires_grad_()

    def value(at):
        return entropy(module, moved(base, changes, at, names), (images, None), {})

    (gradient,) = torch.autograd.grad(value(factors), factors)
    for place in ((0, 0), (1, shape[1] - 1)):
        step = torch.zeros(shape, dtype=torch.float64)
        step[place] = 1e-5
        with torch.no_grad():
            slope = (value(factors + step) - value(factors - step)) / 2e-5
        assert float(gradient[place]) == pytest.approx(float(slope), rel=1e-5, abs=1e-9)


def test_no_step_is_task_arithmetic_and_steps_lower_the_entropy():
    module, base, states, images = networks()
    spec = declare(module)
    setting = Setting([(images, torch.zeros(32, dtype=torch.long))], ancestor=base, steps=0)
    start = merge_arm(parse_arm("identity/adamerging"), spec, module, states, setting)
    for key, value in task_arithmetic(base, states, START).items():
        assert torch.allclose(start.state[key], value, atol=1e-6)
    found = {}
    for kind in ("networks", "layers"):
        setting.steps, setting.coefficients = 40, kind
        merged = merge_arm(parse_arm("identity/adamerging"), spec, module, states, setting)
        found[kind] = float(entropy(module, merged.state, (images, None), {}))
        assert merged.notes.keys() >= {"factor of network 1", "factor of network 2"}
    assert found["layers"] < found["networks"] < float(entropy(module, start.state, (images, None), {}))


def test_a_change_that_makes_outputs_sure_is_taken_and_one_that_does_not_is_left():
    """Logits are scaled by 1 + f1 - f2: the entropy falls with f1 and rises with f2, up to the bounds."""
    module = nn.Linear(4, 3, bias=False)
    base = {"weight": torch.randn(3, 4, generator=torch.Generator().manual_seed(0))}
    changes = [{"weight": base["weight"].clone()}, {"weight": -base["weight"]}]
    images = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))
    found = learnt(module, base, changes, [Task([(images, None)], {})], steps=120)
    assert found.factors.flatten().tolist() == [1.0, 0.0] and found.entropy[-1] < found.entropy[0]
    with pytest.raises(UserError, match="give a data set"):
        learnt(module, base, changes, [Task([], {})])


def test_heads_stay_with_their_networks_and_statistics_are_averaged():
    module, base, states, images = networks(name="mlp", norm="batch")
    heads = tuple(name for name in base if name.startswith(list(base)[-1].rpartition(".")[0]))
    statistic = next(name for name in base if name.endswith("running_mean"))
    batches = [(images, torch.zeros(32, dtype=torch.long))]
    setting = Setting(batches, own_batches=[batches, batches], heads=heads, ancestor=base, steps=2)
    merged = merge_arm(parse_arm("identity/adamerging"), declare(module), module, states, setting)
    assert len(merged.states) == 2
    for state, own in zip(merged.states, states):
        assert all(torch.equal(state[name], own[name]) for name in heads)
        assert torch.allclose(state[statistic], (states[0][statistic] + states[1][statistic]) / 2, atol=1e-6)
