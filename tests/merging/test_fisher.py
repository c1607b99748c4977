"""Fisher averaging against answers known in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from permlab.errors import UserError
from permlab.merging import (
    Arm,
    Setting,
    average,
    diagonal_fisher,
    find_head,
    fisher_average,
    head_tensors,
    logits_of,
    merge_arm,
)
from permlab.merging.methods import fisher as fisher_module
from permlab.models.vision import build_vision_model
from permlab.symmetry import apply, declare


def logistic(inputs=3, classes=2, seed=0):
    torch.manual_seed(seed)
    model = nn.Linear(inputs, classes)
    return model, {name: value.detach().clone() for name, value in model.state_dict().items()}, torch.randn(40, inputs)


def by_hand(model, x):
    """E_x p_c (1 - p_c) x_k^2 for weights, E_x p_c (1 - p_c) for biases: softmax regression in closed form."""
    p = model(x).detach().double().softmax(-1)
    spread = p * (1 - p)
    return {"weight": spread.t() @ x.double().square() / len(x), "bias": spread.mean(0)}


@pytest.mark.parametrize("classes, chunk", [(2, 32), (5, 7)])
def test_the_fisher_information_of_a_logistic_regression(classes, chunk):
    model, state, x = logistic(classes=classes)
    found, wanted = diagonal_fisher(model, state, list(x.split(15)), chunk=chunk), by_hand(model, x)
    assert found.keys() == wanted.keys()
    assert all(torch.allclose(found[name], wanted[name], atol=1e-6) for name in wanted)
    first = diagonal_fisher(model, state, [(x, torch.zeros(40))], limit=10)
    assert torch.allclose(first["weight"], by_hand(model, x[:10])["weight"], atol=1e-6)


def test_many_classes_are_drawn_from_the_networks_own_distribution(monkeypatch):
    model, state, x = logistic(classes=3)
    monkeypatch.setattr(fisher_module, "EXACT_CLASSES", 2)
    found, wanted = diagonal_fisher(model, state, [x], draws=300), by_hand(model, x)
    assert torch.allclose(found["weight"], wanted["weight"], rtol=0.2)
    again = [diagonal_fisher(model, state, [x], seed=3)["bias"] for _ in range(2)]
    assert torch.equal(*again)


def test_outputs_that_are_no_classes_of_the_network_have_no_information():
    model, state, x = logistic(classes=4)
    found = diagonal_fisher(model, state, [x], outputs=[1, 3])
    assert float(found["weight"][[0, 2]].abs().max()) == 0
    p = model(x)[:, [1, 3]].softmax(-1)[:, 0].double()
    assert torch.allclose(found["bias"][1], (p * (1 - p)).mean(), atol=1e-6)


def test_equal_information_gives_the_average_and_none_gives_the_other_network():
    a, b = ({"w": torch.randn(4, generator=torch.Generator().manual_seed(k))} for k in (0, 1))
    same, none = {"w": torch.tensor([0.5, 2.0, 1e-3, 0.0]).double()}, {"w": torch.zeros(4).double()}
    mean = average([a, b])
    assert torch.allclose(fisher_average([a, b], [same, same])["w"], mean["w"], atol=1e-6)
    got = fisher_average([a, b], [same, none])["w"]
    assert torch.allclose(got[:2], a["w"][:2], atol=1e-5)
    assert got[3] == pytest.approx(float(mean["w"][3]), abs=1e-6)  # nobody knows anything: the plain average
    assert torch.allclose(fisher_average([a, b], [none, none])["w"], mean["w"], atol=1e-6)
    by_weights = fisher_average([a, b], [same, same], [1, 3])["w"]
    assert torch.allclose(by_weights, average([a, b], [1, 3])["w"], atol=1e-6)
    exact = fisher_average([a, b], [{"w": torch.full((4,), 3.0).double()}, {"w": torch.ones(4).double()}])["w"]
    assert torch.allclose(exact, 0.75 * a["w"] + 0.25 * b["w"], atol=1e-5)


def networks(name="mlp", width=12, **options):
    torch.manual_seed(0)
    found = [build_vision_model(name, shape=(1, 8, 8), classes=4, width=width, **options) for _ in range(2)]
    states = [{key: value.clone() for key, value in each.state_dict().items()} for each in found]
    return declare(found[0]), found[0].eval(), states, [(torch.randn(24, 1, 8, 8), torch.arange(24) % 4)]


def test_the_information_moves_with_the_units():
    spec, model, (state, _), batches = networks()
    permutation = spec.random(torch.Generator().manual_seed(2))
    moved = diagonal_fisher(model, apply(spec, state, permutation), batches)
    own = apply(spec, diagonal_fisher(model, state, batches), permutation)
    assert all(torch.allclose(moved[name], own[name], atol=1e-8) for name in own)


@pytest.mark.parametrize("name, width", [("mlp", 12), ("resnet-tiny", 1), ("vit-tiny", 0.25)])
def test_a_permuted_copy_merges_into_the_network_itself(name, width):
    spec, model, (state, _), batches = networks(name, width)
    other = apply(spec, state, spec.random(torch.Generator().manual_seed(5)))
    merged = merge_arm(Arm("weight", "fisher"), spec, model, [state, other], Setting(batches))
    assert torch.allclose(logits_of(model, merged.state, batches), logits_of(model, state, batches), atol=1e-4)
    assert merged.state.keys() == state.keys()


def test_networks_with_heads_of_their_own():
    spec, model, states, batches = networks()
    heads = head_tensors(states[0], find_head(model, (batches[0][0],)))
    (x, y), own = batches[0], []
    for labels in ((0, 1), (2, 3)):
        mine = (y[:, None] == torch.tensor(labels)).any(1)
        own.append([(x[mine], y[mine])])
    merged = merge_arm(Arm("weight", "fisher"), spec, model, states, Setting(batches, heads=heads, own_batches=own))
    assert [each["head.bias"].equal(state["head.bias"]) for each, state in zip(merged.states, merged.aligned)] == [
        True
    ] * 2
    assert not merged.state["layers.0.weight"].equal(average(merged.aligned)["layers.0.weight"])


def test_what_cannot_be_is_refused():
    model, state, _ = logistic()
    with pytest.raises(UserError, match="needs data"):
        diagonal_fisher(model, state, [])
    with pytest.raises(UserError, match="one per network"):
        fisher_average([state, state], [state])
