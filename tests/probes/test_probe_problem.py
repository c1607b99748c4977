from __future__ import annotations

import torch

from permlab.probes.floors import mse_floor
from permlab.probes.layout import Layout
from permlab.probes.problem import encode, heldout_batch, row_accuracy, sample, squared_error, training_batch


def test_rows_hold_what_they_say():
    layout = Layout.variant("scratch_both", n=4, scratch=3)
    x, y = sample(layout, 50, torch.Generator().manual_seed(0))
    p, permuted = x[:, layout.permutation_rows], x[:, layout.string_rows]
    assert x.shape == (50, 14, 4) and layout.length == 14
    assert torch.equal(p.sum(1), torch.ones(50, 4)) and torch.equal(p.sum(2), torch.ones(50, 4))
    assert torch.equal(p @ y, permuted)
    assert torch.equal(p.transpose(1, 2) @ permuted, y)
    assert not x[:, :3].any() and not x[:, 11:].any()


def test_known_example():
    layout = Layout(3)
    y = torch.tensor([[[1.0, 1, 1], [0, 1, 0], [0, 0, 0]]])
    x = encode(layout, torch.tensor([[2, 0, 1]]), y)
    assert x[0].tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 1, 1], [0, 1, 0]]


def test_permutations_are_uniform_and_bits_are_fair():
    x, y = sample(Layout(3), 60_000, torch.Generator().manual_seed(1))
    codes = (x[:, :3] @ torch.arange(3.0) @ torch.tensor([9.0, 3.0, 1.0])).long()
    counts = codes.bincount()
    counts = counts[counts > 0]
    assert len(counts) == 6
    assert (counts - 10_000).abs().max() < 500  # five standard deviations
    assert abs(float(y.mean()) - 0.5) < 0.005


def test_batches_depend_on_seed_and_step_only():
    layout = Layout(5)
    first, again = training_batch(layout, 8, seed=3, step=7), training_batch(layout, 8, seed=3, step=7)
    assert torch.equal(first[0], again[0])
    others = [training_batch(layout, 8, 3, 8), training_batch(layout, 8, 4, 7), heldout_batch(layout, 8, 3)]
    assert all(not torch.equal(first[0], other[0]) for other in others)


def test_heldout_permutations_are_balanced():
    """Each row of Y stands equally often at each place of Y_P, so the floor of the test set is the exact floor."""
    layout = Layout(4, readout="string")
    x, _ = heldout_batch(layout, 30, seed=0)
    assert len(x) == 32
    assert torch.equal(x[:, :4].sum(0), torch.full((4, 4), 8.0))
    known = torch.stack([x[:, : j + 1, j].sum(1) for j in range(4)], 1)
    assert float((1 - known).mean()) * 4 / 4 == mse_floor(layout)


def test_metrics():
    y = torch.tensor([[[0.0, 1.0], [1.0, 1.0]]])
    output = torch.tensor([[[0.4, 0.9], [0.2, 1.0]]])
    assert torch.isclose(squared_error(output, y), torch.tensor((0.16 + 0.01 + 0.64) / 2))
    assert row_accuracy(output, y) == 0.5
