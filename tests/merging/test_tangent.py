"""Networks in the tangent space of an ancestor: exact for linear ones, first order for others, changes add up."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from permlab.data.images import load_digits_images
from permlab.errors import UserError
from permlab.merging import initial_state, task_arithmetic, train_endpoint
from permlab.merging.networks.tangent import linearised
from permlab.models.vision import build_vision_model
from permlab.symmetry.functional import call


def mlp(**options):
    torch.manual_seed(0)
    return build_vision_model("mlp", shape=(1, 8, 8), classes=10, width=12, **options).double().eval()


def shaken(state, seed, size=0.3):
    generator = torch.Generator().manual_seed(seed)
    return {
        key: value + size * torch.randn(value.shape, generator=generator, dtype=value.dtype)
        for key, value in state.items()
    }


IMAGES = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def test_a_linear_network_is_its_tangent():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
    other = shaken(model.state_dict(), 1)
    tangent = linearised(model, model.state_dict())
    assert tangent.state_dict().keys() == model.state_dict().keys()
    assert torch.allclose(call(tangent, other, (IMAGES,)), call(model, other, (IMAGES,)), atol=1e-12)


def test_it_agrees_with_the_network_to_first_order():
    model = mlp()
    base = {key: value.clone() for key, value in model.state_dict().items()}
    tangent = linearised(model, base)
    assert torch.allclose(tangent(IMAGES), model(IMAGES), atol=1e-12)
    moved = shaken(base, 1)
    far = call(tangent, moved, (IMAGES,))
    assert not torch.allclose(far, call(model, moved, (IMAGES,)), atol=1e-2)
    step = 1e-6
    near = {key: base[key] + step * (moved[key] - base[key]) for key in base}
    slope = (call(model, near, (IMAGES,)) - model(IMAGES)) / step
    assert torch.allclose(far, model(IMAGES) + slope, atol=1e-4)


def test_changes_of_tangent_networks_add_up_in_the_outputs():
    """f(t0 + a tau1 + b tau2) - f(t0) = a (f(t0 + tau1) - f(t0)) + b (...): task arithmetic mixes outputs exactly."""
    model = mlp()
    base = {key: value.clone() for key, value in model.state_dict().items()}
    tangent, states = linearised(model, base), [shaken(base, seed) for seed in (1, 2)]
    merged = task_arithmetic(base, states, [0.5, 2.0])
    start = model(IMAGES)
    ends = [call(tangent, state, (IMAGES,)) - start for state in states]
    assert torch.allclose(call(tangent, merged, (IMAGES,)) - start, 0.5 * ends[0] + 2 * ends[1], atol=1e-10)
    plain = [call(model, state, (IMAGES,)) - start for state in states]
    assert not torch.allclose(call(model, merged, (IMAGES,)) - start, 0.5 * plain[0] + 2 * plain[1], atol=1e-2)


def test_it_trains_like_a_network_and_leaves_the_model_alone():
    data = load_digits_images()
    torch.manual_seed(0)
    model = build_vision_model("mlp", shape=data.shape, classes=10, width=16)
    start = initial_state("mlp", data, 0, width=16)
    first = train_endpoint(model, data, start=start, epochs=5)
    found = train_endpoint(linearised(model, first.state), data, start=first.state, epochs=3)
    assert found.metrics["train_loss"] < 0.9 * first.metrics["train_loss"]
    assert all(torch.equal(value, first.state[key]) for key, value in model.state_dict().items())
    with pytest.raises(UserError, match="BatchNorm"):
        linearised(mlp(norm="batch"), {})
