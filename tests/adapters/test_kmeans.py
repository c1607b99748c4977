"""K-means on Gram matrices against scikit-learn and against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from permlab.adapters.kmeans import kmeans


def points(n: int, d: int, seed: int, centres: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, d, generator=generator, dtype=torch.float64)
    if not centres:
        return noise
    return 3 * torch.randn(centres, d, generator=generator, dtype=torch.float64)[torch.arange(n) % centres] + noise


def true_inertia(x: torch.Tensor, labels: torch.Tensor) -> float:
    return sum(float(((x[labels == c] - x[labels == c].mean(0)) ** 2).sum()) for c in labels.unique())


@pytest.mark.parametrize("n, k, centres", [(24, 8, 0), (48, 16, 12), (128, 16, 0)])
def test_inertia_is_as_good_as_scikit_learn(n, k, centres):
    sets = [points(n, 30, seed, centres) for seed in range(3)]
    found = kmeans(torch.stack([x @ x.T for x in sets]), k, [0, 1, 2])
    for index, x in enumerate(sets):
        assert float(found.inertia[index]) == pytest.approx(true_inertia(x, found.labels[index]), rel=1e-9)
        oracle = KMeans(k, n_init=10, random_state=index).fit(x.numpy()).inertia_
        assert float(found.inertia[index]) <= 1.03 * oracle
        assert len(found.labels[index].unique()) == k


def test_finds_the_best_partition_of_a_few_points():
    x = points(7, 3, 5)
    best = min(
        true_inertia(x, torch.tensor(labels))
        for labels in itertools.product(range(2), repeat=7)
        if len(set(labels)) == 2
    )
    assert float(kmeans((x @ x.T)[None], 2, [0]).inertia[0]) == pytest.approx(best)


def test_a_set_does_not_depend_on_the_sets_beside_it():
    sets = [points(20, 12, seed) for seed in range(4)]
    grams = torch.stack([x @ x.T for x in sets])
    together = kmeans(grams, 5, [0, 1, 2, 3])
    for index in range(4):
        alone = kmeans(grams[index : index + 1], 5, [index])
        assert torch.equal(alone.labels[0], together.labels[index])


def test_signed_clustering_ignores_signs():
    x = points(30, 12, 0, centres=5)
    flip = torch.tensor(np.random.default_rng(0).choice([-1.0, 1.0], 30))[:, None]
    plain, flipped = (kmeans((y @ y.T)[None], 5, [3], signed=True) for y in (x, x * flip))
    assert torch.equal(plain.labels, flipped.labels)
    assert float(plain.inertia[0]) == pytest.approx(float(flipped.inertia[0]))
    aligned = (x * flip) * flipped.signs[0][:, None]
    assert float(flipped.inertia[0]) == pytest.approx(true_inertia(aligned, flipped.labels[0]))
    unsigned = kmeans(((x * flip) @ (x * flip).T)[None], 5, [3])
    assert float(unsigned.inertia[0]) > 1.5 * float(flipped.inertia[0])


@pytest.mark.parametrize("k", [1, 4, 9, 10])
def test_every_cluster_is_used_even_with_duplicates(k):
    x = points(2, 5, 0).repeat(5, 1)
    found = kmeans((x @ x.T)[None], k, [0])
    assert sorted(found.labels[0].unique().tolist()) == list(range(k))
    if k > 1:
        assert float(found.inertia[0]) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("k", [0, 6])
def test_refuses_a_number_of_clusters_that_cannot_be(k):
    with pytest.raises(ValueError, match="from 1 to the number of points"):
        kmeans(torch.eye(5, dtype=torch.float64)[None], k, [0])
