from __future__ import annotations

import copy

import pytest
import torch
from architectures import build, pair

from permlab.errors import UserError
from permlab.merging import Layout, average, repair, reset_batchnorm
from permlab.symmetry.functional import call


def images(count=64, seed=0):
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_train_mode_updates_the_buffers_of_the_state_and_not_the_module():
    model, _, _ = build("mlp-batch")
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    before = copy.deepcopy(state)
    own = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    call(model, state, (images(),))
    changed = {name for name in state if not torch.equal(state[name], before[name])}
    kinds = ("running_mean", "running_var", "num_batches_tracked")
    assert changed == {f"norms.{i}.{kind}" for i in range(3) for kind in kinds}
    assert all(torch.equal(own[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["mlp-batch", "resnet20"])
def test_reset_equals_a_fresh_copy_in_train_mode(name):
    model, _, states = pair(name)
    merged = average(states)
    kept = {key: value.clone() for key, value in merged.items()}
    got = reset_batchnorm(model, merged, [images(40, 1), images(40, 2)])
    twin = copy.deepcopy(model)
    twin.load_state_dict(merged)
    for module in twin.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None
    twin.train()
    with torch.no_grad():
        twin(images(40, 1))
        twin(images(40, 2))
    assert all(torch.allclose(got[key].float(), value.float()) for key, value in twin.state_dict().items())
    assert all(torch.equal(merged[key], kept[key]) for key in kept), "the given state must not change"
    assert not model.training
    assert all(m.momentum == 0.1 for m in model.modules() if hasattr(m, "momentum"))


def test_reset_leaves_dropout_off_and_networks_without_batchnorm_alone():
    model, _, _ = build("mlp")
    state = model.state_dict()
    same = reset_batchnorm(model, state, [])
    assert all(same[name] is value for name, value in state.items())
    model, _, _ = build("mlp-batch")
    with pytest.raises(UserError, match="no data"):
        reset_batchnorm(model, model.state_dict(), [])


def test_reset_works_on_larger_networks():
    model, spec, states = pair("resnet20")
    layout = Layout(spec, model, ratios=dict.fromkeys(spec.groups, 1.0))
    got = reset_batchnorm(model, layout.merge(states), [images()])
    model.eval()
    resets = [reset_batchnorm(model, state, [images()]) for state in states]
    wanted = sum(call(model, state, (images(8, 3),)) for state in resets) / 2
    assert torch.allclose(call(model, got, (images(8, 3),)), wanted, atol=1e-5)


def statistics(model, state, x, module):
    seen = []
    handle = dict(model.named_modules())[module].register_forward_hook(lambda _, __, out: seen.append(out.detach()))
    call(model, state, (x,))
    handle.remove()
    rows = seen[0].movedim(1, -1).flatten(0, -2) if seen[0].dim() == 4 else seen[0]
    return rows.double().mean(0), rows.double().std(0, unbiased=False)


@pytest.mark.parametrize("name, layers", [("mlp", ["layers.0", "layers.1", "layers.2"]), ("vgg11-layer", ["hidden"])])
@pytest.mark.parametrize("means, deviations", [(True, True), (False, True), (True, False)])
def test_repair_gives_every_unit_the_wanted_statistics(name, layers, means, deviations):
    model, spec, states = pair(name)
    merged, x = average(states), images(100)
    got = repair(Layout(spec, model), model, states, merged, [x], means=means, deviations=deviations)
    for layer in layers:
        goals = [sum(each) / 2 for each in zip(*(statistics(model, state, x, layer) for state in states))]
        mean, deviation = statistics(model, got, x, layer)
        if means:
            assert torch.allclose(mean, goals[0], atol=1e-4)
        if deviations:
            assert torch.allclose(deviation, goals[1], atol=1e-4)
    assert torch.equal(got["head.weight"], merged["head.weight"])
    if not deviations:
        assert torch.allclose(got[f"{layers[0]}.weight"], merged[f"{layers[0]}.weight"])


def test_repair_of_a_network_merged_with_itself_changes_nothing():
    model, spec, (a, _) = pair("mlp")
    layout = Layout(spec, model, ratios=dict.fromkeys(spec.groups, 1.0))
    merged = layout.merge([a, a])
    got = repair(layout, model, [a, a], merged, images(100).split(50))
    assert all(torch.allclose(got[key], merged[key], atol=1e-2, rtol=1e-2) for key in merged)
    once = repair(layout, model, [a, a], merged, [images(100)])
    assert all(torch.allclose(once[key], merged[key], atol=1e-5) for key in merged)


def test_repair_in_a_partial_layout_keeps_separate_units():
    model, spec, states = pair("mlp")
    layout = Layout(spec, model, ratios={"layers.0": 1.0})
    merged = layout.merge(states)
    got = repair(layout, model, states, merged, [images(100)])
    assert torch.allclose(got["layers.0.weight"], merged["layers.0.weight"], atol=1e-5)
    assert not torch.allclose(got["layers.1.weight"], merged["layers.1.weight"], atol=1e-3)


def test_layers_before_a_batchnorm_are_left_to_it():
    model, spec, states = pair("resnet20")
    merged = average(states)
    got = repair(Layout(spec, model), model, states, merged, [images(32)])
    reset = reset_batchnorm(model, merged, [images(32)])
    assert all(torch.equal(got[key], reset[key]) for key in merged)


def test_what_cannot_be_repaired_is_refused():
    model, inputs, spec = build("llama")
    state = {key: value.detach() for key, value in model.state_dict().items()}
    batch = {"input_ids": inputs["input_ids"]}
    with pytest.raises(UserError, match="no bias to shift"):
        repair(Layout(spec, model), model, [state, state], state, [batch])
    with pytest.raises(UserError, match="no data"):
        repair(Layout(spec, model), model, [state, state], state, [])
    same = repair(Layout(spec, model), model, [state, state], state, [batch], means=False)
    assert all(torch.allclose(same[key], state[key], atol=1e-4) for key in state)
