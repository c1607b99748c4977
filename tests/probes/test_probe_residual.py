"""The ordinary transformer, and problems smaller than the network."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from permlab.errors import UserError
from permlab.probes.construction import construction_weights
from permlab.probes.grid import constructed_lengths, deeper, depth_verdict, length_models, length_verdict
from permlab.probes.grid_settings import Depths, Lengths
from permlab.probes.layout import Layout
from permlab.probes.lengths import Part
from permlab.probes.problem import sample
from permlab.probes.recipes import Recipe
from permlab.probes.residual import Residual, _turned
from permlab.probes.table import ENCODINGS
from permlab.probes.training import Training
from permlab.probes.transformer import Transformer


def one_by_one(model: Residual, parts: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """One seed and all rows, with torch's own attention, norm and linear maps."""
    rest = iter(parts)
    mask = model.layout.visible()
    norm = lambda h: functional.rms_norm(h, (model.width,), eps=1e-6)  # noqa: E731
    h = x @ next(rest)
    if model.positions == "learned":
        h = h + next(rest) * (model.layout.length / model.layout.n) ** 0.5
    for _ in range(model.depth):
        q, k, v = (norm(h) @ next(rest)).chunk(3, -1)
        split = lambda t: t.unflatten(-1, (model.heads, -1)).transpose(1, 2)  # noqa: E731
        q, k, v = split(q), split(k), split(v)
        if model.positions == "rotary":
            q, k = _turned(q), _turned(k)
        read = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        h = h + read.transpose(1, 2).flatten(2) @ next(rest)
        if model.mlp:
            h = h + functional.gelu(norm(h) @ next(rest)) @ next(rest)
    return (norm(h) @ next(rest) + next(rest))[:, model.layout.output_rows]


@pytest.mark.parametrize("positions", ENCODINGS)
@pytest.mark.parametrize(("depth", "heads", "mlp"), [(1, 1, False), (3, 2, True)])
def test_every_seed_against_torchs_own_blocks(positions, depth, heads, mlp):
    model = Residual(Layout.variant("scratch", n=3), depth, heads, mlp, positions, width=16)
    flat = model.initial([4, 5], 1.0)
    x, _ = sample(model.layout, 6, torch.Generator().manual_seed(0))
    together = model.forward(model.unpack(flat), x.expand(2, -1, -1, -1))
    for k in range(2):
        torch.testing.assert_close(together[k], one_by_one(model, [p[k] for p in model.unpack(flat)], x))
    assert torch.equal(model.initial([5], 1.0)[0], flat[1]) and flat.shape == (2, model.size)


def test_a_causal_row_depends_on_nothing_behind_it_at_any_depth():
    layout = Layout.variant("causal", n=3, readout="string")
    model = Residual(layout, depth=6, heads=2, positions="none", width=16)
    x, _ = sample(layout, 2, torch.Generator().manual_seed(0))
    x = x[None].requires_grad_()
    output = model.forward(model.unpack(model.initial([0], 1.0)), x)
    for j in range(3):
        (grad,) = torch.autograd.grad(output[:, :, j].sum(), x, retain_graph=True)
        seen = grad.abs().amax((0, 1, 3)) > 0
        assert seen.tolist() == [True] * (3 + j + 1) + [False] * (2 - j)


def test_without_positions_and_mask_rows_are_a_set():
    layout = Layout.variant("no_mask", n=4)
    model = Residual(layout, depth=3, heads=2, positions="none", width=16)
    weights = model.unpack(model.initial([0], 1.0))
    x, _ = sample(layout, 3, torch.Generator().manual_seed(0))
    order = torch.tensor([2, 0, 3, 1, 4, 5, 6, 7])
    whole, moved = (model.forward(weights, each[None])[0] for each in (x, x[:, order]))
    torch.testing.assert_close(moved, whole[:, order[:4]])


def test_rotary_products_depend_on_the_distance_only():
    q, k = torch.randn(2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a, b = _turned(q.expand(9, 8)), _turned(k.expand(9, 8))
    products = a @ b.T
    for distance in range(-8, 9):
        assert float(products.diagonal(distance).std(correction=0)) < 1e-12
    assert float(products.diagonal(0)[0]) == pytest.approx(float(q @ k))


@pytest.mark.slow
def test_two_layers_solve_scratch_rows_and_one_of_few_heads_does_not():
    """One layer of attention alone needs n heads (`grid.depth_verdict`); this one has n - 1."""
    layout, recipe = Layout.variant("scratch", n=3), Recipe(batch=32, steps=400, patience=100, test_examples=60)
    two = Training(Residual(layout, 2, 2, True), recipe, [0, 1])
    two.run()
    assert two.first_attempts() == [True, True]
    one = Training(Residual(layout, 1, 2, False), recipe, [0, 1])
    assert min(one.run().test_mse) > 0.1


@pytest.mark.parametrize("spread", [False, True])
def test_parts_are_smaller_problems_of_the_same_kind(spread):
    layout, part = Layout.variant("scratch", n=6), Part(3, spread)
    x, y = part.held_out(layout, 40, seed=1)
    p, moved, asked = x[:, layout.permutation_rows], x[:, layout.string_rows], y[..., 0] >= 0
    assert torch.equal(asked.sum(1), torch.full((40,), 3))
    assert torch.equal(p.sum(1) > 0, asked) and torch.equal(p.sum(2) > 0, asked)  # the same columns and rows
    torch.testing.assert_close((p.transpose(1, 2) @ moved)[asked], y[asked])  # Y = P^T P Y where it is asked
    assert not moved[~asked].any()
    assert bool(asked[:, :3].all()) is not spread
    right = y.clamp_min(0)
    assert float(part.error(right, y)) == 0 and float(part.accuracy(right, y)) == 1
    wrong = right.clone()
    wrong[~asked] = 7.0
    assert float(part.error(wrong, y)) == 0, "rows that are not asked count for nothing"
    wrong[0, int(asked[0].nonzero()[0]), 2] += 2.0
    assert float(part.error(wrong, y)) == pytest.approx(4 / 120)
    assert float(part.accuracy(wrong, y)) <= 1


def test_explicit_weights_are_right_at_every_length():
    rows = constructed_lengths(Layout.variant("scratch", n=7), range(2, 8))
    assert [row["size"] for row in rows] == [2, 3, 4, 5, 6, 7]
    assert max(row["test_mse"] for row in rows) < 1e-10 and {row["row_accuracy"] for row in rows} == {1.0}
    found = length_verdict(rows, 3)
    assert found == {"construction_trained_row_accuracy": 1.0, "construction_largest_row_accuracy": 1.0}


def test_training_on_parts_keeps_to_them():
    layout = Layout.variant("scratch", n=4)
    models, parts = length_models(layout, Lengths(size=2, networks=["disentangled", "rotary"]), width=16)
    assert list(models) == ["disentangled/prefix", "disentangled/spread", "rotary/prefix", "rotary/spread"]
    recipe = Recipe(steps=2, batch=4, test_every=1, test_examples=4)
    for label, part in parts.items():
        training = Training(models[label], recipe, [0], problem=part)
        training.run()
        assert training.problem == part and part.spread is label.endswith("spread")
    assert construction_weights(layout, 40.0).shape == (1, Transformer(layout).size)


def test_every_shape_on_every_layout():
    layouts = {"scratch": Layout.variant("scratch", n=3), "causal": Layout.variant("causal", n=3)}
    found = deeper(layouts, Depths(layers=[1, 2], heads=[1, 2], mlp=[True], positions=["none", "rotary"], width=8))
    assert len(found) == 16 and len({model for model in found.values()}) == 16


def test_depth_verdict():
    row = {"arm": "scratch", "mse_floor": 0.0, "test_mse_lowest": 0.0, "at_floor": 0.0, "train_seconds": 1.0}
    row |= {"positions": "learned", "mlp": False, "n": 3, "heads": 2}
    rows = [row | {"layers": 1}, row | {"layers": 2, "at_floor": 0.8}, row | {"layers": 3, "at_floor": 1.0}]
    rows += [row | {"layers": 1, "mlp": True, "at_floor": 0.3}, row | {"layers": 1, "heads": 3, "at_floor": 0.4}]
    rows += [row | {"layers": 6, "mse_floor": 0.5, "test_mse_lowest": 0.4895}]
    found = depth_verdict(rows)
    assert found["below_floor"] == 1 and found["one_layer_at_floor"] == 0 and found["solved_from_layers"] == 3
    assert found["one_layer_mlp_at_floor"] == 0.3 and found["one_layer_n_heads_at_floor"] == 0.4
    assert found["deeper_at_floor_mean"] == pytest.approx(0.9) and found["deeper_at_floor_least"] == 0.8
    assert found["learned_at_floor"] == 0.8


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Residual(Layout.variant("scratch", 3), width=6, heads=2), "multiple of 2 x heads"),
        (lambda: Residual(Layout.variant("scratch", 3), positions="rotar"), "did you mean 'rotary'"),
        (lambda: Depths(layers=[]).check("task.depths."), "task.depths.layers is empty"),
        (lambda: Depths(heads=[3]).check("task.depths."), "task.depths.width=32"),
        (lambda: Lengths(size=9).check(8, "task.lengths."), "task.lengths.size=9"),
        (lambda: Lengths(networks=["learnt"]).check(8), "did you mean 'learned'"),
    ],
)
def test_bad_shapes(make, says):
    with pytest.raises(UserError, match=says):
        make()
