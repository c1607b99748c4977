"""Other targets, noise, biases, a further layer: against the permutation law, dense solves, and trained networks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from permlab.errors import UserError
from permlab.ntk import ensemble_size
from permlab.ntk.kernels import kappa1, tangent_kernel
from permlab.ntk.maps import (
    MapLaw,
    Network,
    addition_size,
    addition_success,
    conditions,
    half_adders,
    permutation_counts,
)

NETWORKS = [Network(), Network(bias=0.3), Network(hidden_layers=2), Network(hidden_layers=2, bias=0.3)]


def test_a_permutation_is_the_law_of_permutations():
    for k in (4, 10, 30):
        for m in range(1, 4):
            size = MapLaw(k, m).ensemble_size(*permutation_counts(k, m), 0.9)
            assert size == ensemble_size(k, m, 0.9)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("k", "m"), [(3, 2), (6, 3), (9, 9)])
def test_moments_are_those_of_a_dense_solve(network, k, m):
    rng = np.random.default_rng(k)
    inputs = np.vstack([np.eye(k), (np.arange(k) < m) / math.sqrt(m)])
    prior, tangent = network.kernels(k, inputs @ inputs.T)
    weights = np.linalg.solve(tangent[:k, :k], tangent[:k, k])
    targets = rng.integers(0, 2, (k, 5))
    law = MapLaw(k, m, network, noise=0.7)
    matched, heavy = targets[:m].sum(0), targets.sum(0)
    assert np.where(matched > 0, 1, -1) * (targets.T @ weights) == pytest.approx(law.signal(matched, heavy))
    variance = prior[k, k] + weights @ prior[:k, :k] @ weights - 2 * weights @ prior[:k, k]
    assert law.variance == pytest.approx(variance + 0.49 * weights @ weights)


def test_two_layers_without_biases_are_the_full_kernel_at_another_cosine():
    k, rho = 5, np.array([0.0, 0.3, 1.0])
    _, tangent = Network(hidden_layers=2).kernels(k, rho)
    inner = kappa1(rho)
    units = np.array([[1.0, 0, 0]]), np.stack([inner, np.sqrt(1 - inner**2), 0 * inner], axis=1)
    assert 2 * k * tangent == pytest.approx(2 * 3 * tangent_kernel(*units, 1.0)[0] / 2)


@pytest.mark.parametrize("network", NETWORKS)
def test_kernels_are_those_of_wide_networks(network):
    """Products of gradients of one wide network with respect to its layers, divided by the width."""
    k, width, rng = 3, 1500, np.random.default_rng(0)
    inputs = np.array([[1.0, 0, 0], [0.6, 0.8, 0]])
    beta = network.bias
    hidden = inputs @ rng.normal(size=(k, width)) / math.sqrt(k) + beta * rng.normal(size=width)
    hidden, active, gradient = np.maximum(hidden, 0), None, 0.0
    if network.hidden_layers == 2:
        below = hidden
        hidden = below @ rng.normal(size=(width, width)) / math.sqrt(width) + beta * rng.normal(size=width)
        active, hidden = hidden > 0, np.maximum(hidden, 0)
        last = rng.normal(size=width) / math.sqrt(width)
        back = active * last
        gradient = (below @ below.T) * (back @ back.T)
    found = (hidden @ hidden.T + gradient) / width
    prior, tangent = network.kernels(k, inputs @ inputs.T)
    assert found == pytest.approx(tangent, rel=0.15)
    assert hidden @ hidden.T / width + beta**2 == pytest.approx(prior, rel=0.15)


def trained(k, targets, tests, count, seed, noise=0.0, shared=False, width=512):
    """Outputs (count, tests, q) of networks whose last layer is trained to the end, by random features."""
    rng = np.random.default_rng(seed)
    points = tests / np.linalg.norm(tests, axis=1, keepdims=True)
    common = rng.normal(size=targets.shape)
    outputs = []
    for _ in range(count):
        first = rng.normal(size=(k, width)) / math.sqrt(k)
        last = rng.normal(size=(width, targets.shape[1])) / math.sqrt(width)
        basis, hidden = np.maximum(first, 0), np.maximum(points @ first, 0)
        wanted = targets + noise * (common if shared else rng.normal(size=targets.shape))
        change = basis.T @ np.linalg.solve(basis @ basis.T, wanted - basis @ last)
        outputs.append(hidden @ (last + change))
    return np.array(outputs)


def test_an_output_that_is_one_too_often_is_not_learned_by_any_ensemble():
    """m = 5 of k = 12: networks give the sign of the law on both sides of its heaviest weight."""
    k, m = 12, 5
    law = MapLaw(k, m)
    assert 4 < law.heaviest < 8
    row = np.arange(k)[:, None]
    targets = (row == 0) | (row >= m) & (row < m - 1 + np.array([1, 4, 8]))  # one matched input wants a 1: input 0
    matched, heavy = targets[:m].sum(0), targets.sum(0)
    assert matched.tolist() == [1, 1, 1] and heavy.tolist() == [1, 4, 8]
    mean = trained(k, targets, (np.arange(k) < m)[None], 400, 0).mean(0)[0]
    expected = law.scale * matched + law.offset * heavy
    error = 5 * math.sqrt(law.variance / 400)
    assert mean == pytest.approx(expected, abs=error) and error < 0.6 * abs(expected[2])
    assert mean[1] > 0 > mean[2]
    with pytest.raises(UserError, match="no number of networks"):
        law.ensemble_size([1], [8], 0.9)
    assert law.ensemble_size([1], [5], 0.99) > 1
    with pytest.raises(UserError, match="no number of networks"):
        law.ensemble_size([0], [0], 0.9)  # never a 1 in training: a coin toss
    assert MapLaw(k, 1).heaviest == np.inf


@pytest.mark.parametrize("shared", [False, True])
def test_noise_averages_out_unless_all_networks_see_the_same(shared):
    k, m, blocks, count = 5, 2, 60, 12
    law = MapLaw(k, m, noise=0.5, shared=shared)
    tests = (np.arange(k) < m)[None]
    found = np.array([trained(k, np.eye(k), tests, count, seed, 0.5, shared, 128).mean(0)[0] for seed in range(blocks)])
    # Fresh noise falls like 1 / N, shared noise stays; a width of 128 adds a little.
    assert found.var(0).mean() == pytest.approx(law.variance / count + law.floor, rel=0.35)
    counts = permutation_counts(k, m)
    if shared:
        assert law.ceiling(*counts) < 0.5
        with pytest.raises(UserError, match="share the noise"):
            law.ensemble_size(*counts, 0.9)
    else:
        assert law.ceiling(*counts) == 1
        assert law.ensemble_size(*counts, 0.9) > MapLaw(k, m).ensemble_size(*counts, 0.9)


def encoded(left, right, positions):
    """One-hot templates of the pairs of bits, least significant first."""
    bits = [(left >> i & 1, right >> i & 1) for i in range(positions)]
    row = np.zeros(4 * positions)
    row[[4 * i + 2 * a + b for i, (a, b) in enumerate(bits)]] = 1
    return row


def test_templates_add_exactly():
    """Half adders by OR over matched templates, carried on until nothing is left: every sum of 3 bits, modulo 8."""
    positions, targets = 3, half_adders(3)
    assert sorted(targets.sum(0)) == [1] * 3 + [2] * 3
    places = 1 << np.arange(positions)
    for left in range(8):
        for right in range(8):
            a, b = left, right
            for _ in range(positions + 1):
                outputs = (encoded(a, b, positions) @ targets) > 0
                a, b = int(outputs[:positions] @ places), int(outputs[positions:] @ places) << 1 & 7
            assert (a, b) == ((left + right) % 8, 0)


def test_ensembles_add_as_often_as_the_law_says():
    positions, networks, blocks = 2, 12, 40
    tests = np.array([encoded(a, b, positions) for a in range(4) for b in range(4)])
    targets = half_adders(positions)
    answers = tests @ targets > 0
    outputs = trained(8, targets, tests, networks * blocks, 5)
    right = ((outputs.reshape(blocks, networks, 16, 4).mean(1) > 0) == answers).all(2).mean(1)
    law = addition_success(positions, networks)
    assert 0.1 < law < 0.9
    assert right.mean() == pytest.approx(law, abs=4 * right.std() / math.sqrt(blocks) + 0.02)
    size = addition_size(positions, 0.9)
    assert addition_success(positions, size) >= 0.9 > addition_success(positions, size - 1)


def test_training_on_all_inputs_needs_one_network_and_many_more_epochs():
    basis, every = conditions(6)
    a, b = 1 - 1 / math.pi, 1 / math.pi
    assert basis == pytest.approx((a + 6 * b) / a)
    assert every > 50 * basis
