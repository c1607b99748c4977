from __future__ import annotations

import pytest
import torch

from permlab.errors import UserError
from permlab.probes.certificate import reachable
from permlab.probes.layout import Layout
from permlab.probes.problem import sample
from permlab.probes.table import VARIANTS
from permlab.probes.transformer import Transformer


def dense_reference(model: Transformer, weights: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The definition for one example and seed, identity stored and multiplied: h <- [h, softmax(h A h^T) h]."""
    lay = model.layout
    z, eye = x, torch.eye(lay.length, dtype=x.dtype)
    for a in weights[:-1]:
        h = torch.cat([z, eye], dim=1)
        copies = []
        for head in range(model.heads):
            scores = (h @ a[:, head] @ h.T).masked_fill(~lay.visible(), float("-inf"))
            copies.append(scores.softmax(-1) @ h)
        z = torch.cat([z, *copies], dim=1)
    return (torch.cat([z, eye], dim=1) @ weights[-1])[lay.output_rows]


@pytest.mark.parametrize(
    ("variant", "readout", "depth", "heads"),
    [
        ("causal", "permutation", 2, 1),
        ("causal", "string", 1, 1),
        ("no_mask", None, 2, 1),
        ("scratch", None, 2, 2),
        ("scratch_both", None, 3, 1),
        ("scratch_both", "string", 2, 3),
    ],
)
def test_forward_equals_the_definition(variant, readout, depth, heads):
    layout = Layout.variant(variant, n=3, readout=readout)
    model = Transformer(layout, depth=depth, heads=heads)
    weights = model.unpack(model.initial([5, 6], std=0.5).double())
    x, _ = sample(layout, 4, torch.Generator().manual_seed(0))
    x = torch.stack([x, x.flip(0)]).double()
    maps: list[torch.Tensor] = []
    output = model.forward(weights, x, maps)
    for seed in range(2):
        for example in range(4):
            expected = dense_reference(model, [w[seed] for w in weights], x[seed, example])
            torch.testing.assert_close(output[seed, example], expected, rtol=1e-11, atol=1e-11)
    assert [tuple(m.shape) for m in maps[:-1]] == [(2, 4, heads, layout.length, layout.length)] * (depth - 1)
    assert tuple(maps[-1].shape) == (2, 4, heads, 3, layout.length)


def test_block_names_tile_every_stream():
    model = Transformer(Layout.variant("scratch", n=4), depth=2, heads=2)
    for layer in range(3):
        stop = 0
        for _, where in model.blocks(layer):
            assert where.start == stop
            stop = where.stop
        assert stop == model.width(layer)
    assert [name for name, _ in model.blocks(1)] == ["X", "A1.1 X", "A1.1", "A1.2 X", "A1.2", "I"]
    assert len({name for name, _ in model.blocks(2)}) == len(model.blocks(2)) == 2 * 9


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("depth", [1, 2])
def test_gradients_respect_the_certificate_and_fill_it(variant, depth):
    """With random weights an output row depends on exactly the input rows that the certificate allows."""
    layout = Layout.variant(variant, n=3, readout="string")
    model = Transformer(layout, depth=depth)
    weights = model.unpack(model.initial([1], std=0.7).double())
    x, _ = sample(layout, 1, torch.Generator().manual_seed(2))
    jacobian = torch.autograd.functional.jacobian(lambda v: model.forward(weights, v[None])[0, 0], x.double())
    depends = jacobian.abs().sum((1, 2, 4)) > 0
    reach = reachable(layout, depth)
    assert torch.equal(depends[:, layout.permutation_rows], reach.permutation)
    assert torch.equal(depends[:, layout.string_rows], reach.string)


def test_seeds_do_not_mix():
    layout = Layout.variant("no_mask", n=4)
    model = Transformer(layout)
    x, _ = sample(layout, 2, torch.Generator().manual_seed(0))
    together = model.forward(model.unpack(model.initial([3, 4], std=0.3)), torch.stack([x, x]))
    alone = model.forward(model.unpack(model.initial([4], std=0.3)), x[None])
    torch.testing.assert_close(together[1], alone[0])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Layout(n=1), "at least 2"),
        (lambda: Layout(n=4, readout="scratch"), "outside the sequence"),
        (lambda: Layout(n=4, after=-1), "negative"),
        (lambda: Layout.variant("causal", n=4, readout="scratch"), "variant=scratch"),
        (lambda: Layout.variant("scratch", n=4, scratch=0), "needs scratch rows"),
        (lambda: Layout.variant("scrach", n=4), "did you mean 'scratch'"),
        (lambda: Layout.variant("scratch", n=4, readout="strings"), "did you mean 'string'"),
        (lambda: Transformer(Layout(n=4), depth=0), "depth=0"),
    ],
)
def test_bad_input_is_one_line(make, says):
    with pytest.raises(UserError, match=says) as error:
        make()
    assert "\n" not in str(error.value)


def test_memory_estimate_bounds_what_a_step_allocates():
    """The estimate must lie within a factor of what autograd really keeps and allocates."""
    from torch.profiler import ProfilerActivity, profile

    from permlab.probes import Recipe, Training

    model = Transformer(Layout.variant("scratch", n=24))
    training = Training(model, Recipe(batch=32, test_examples=1), seeds=[0])
    training.train_step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
        training.train_step()
    level = peak = 0
    for event in measured.profiler.kineto_results.events():
        if event.name() == "[memory]":
            level += event.nbytes()
            peak = max(peak, level)
    fixed = 4 * 4 * model.size
    assert 0.5 < (peak + fixed) / model.memory_bytes(1, 32) < 1.0
