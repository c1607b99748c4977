"""Multi-way matching of units: planted permutations come back, two adapters are matched exactly, invariants hold."""

from __future__ import annotations

import itertools

import pytest
import torch

from permlab.adapters import MergeRule, random_adapter
from permlab.adapters.factors import Factors
from permlab.adapters.kmeans import kmeans
from permlab.adapters.methods.lego import lego_module
from permlab.adapters.multiway import cluster_spectrally, draw_units, match_units
from permlab.errors import UserError

RANK = 6


def planted(adapters=4, noise=0.05, rank=RANK, seed=0, signs=False):
    """Units of several adapters that are one set of units in another order each, with noise; their Gram matrix."""
    draws = torch.Generator().manual_seed(seed)
    units = torch.randn(rank, 40, generator=draws, dtype=torch.float64)
    points, truth = [], []
    for _ in range(adapters):
        order = torch.randperm(rank, generator=draws)
        flip = torch.randint(0, 2, (rank, 1), generator=draws) * 2 - 1 if signs else 1
        points.append(units[order] * flip + noise * torch.randn(rank, 40, generator=draws, dtype=torch.float64))
        truth.append(order)
    x = torch.cat(points)
    owners = torch.arange(adapters).repeat_interleave(rank)
    return (x @ x.T)[None], owners[None], torch.cat(truth)


def same_partition(first, second):
    pairs = set(zip(first.tolist(), second.tolist()))
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_a_planted_permutation_is_recovered(seed, signed):
    gram, owners, truth = planted(seed=seed, signs=signed)
    found = match_units(gram, owners, RANK, [seed], n_init=3, signed=signed)
    assert same_partition(found.labels[0], truth)
    assert not same_partition(draw_units(gram, owners, RANK, [seed]).labels[0], truth)
    if not signed:
        assert same_partition(cluster_spectrally(gram, owners, RANK, [seed]).labels[0], truth)


def test_units_of_one_adapter_never_share_a_cluster_where_k_means_lets_them():
    draws = torch.Generator().manual_seed(1)
    x = torch.randn(3 * RANK, 30, generator=draws, dtype=torch.float64)
    gram, owners = (x @ x.T)[None], torch.arange(3).repeat_interleave(RANK)[None]
    for group in (match_units, draw_units):
        for k in (RANK, RANK + 3):
            labels = group(gram, owners, k, [0]).labels[0]
            assert len(set(zip(labels.tolist(), owners[0].tolist()))) == 3 * RANK
            assert set(labels.tolist()) == set(range(k))
    free = kmeans(gram, RANK, [0]).labels[0]
    assert len(set(zip(free.tolist(), owners[0].tolist()))) < 3 * RANK


@pytest.mark.parametrize("signed", [False, True])
def test_two_adapters_are_matched_as_well_as_any_permutation_does(signed):
    draws = torch.Generator().manual_seed(2)
    x = torch.randn(10, 12, generator=draws, dtype=torch.float64)
    gram, owners = (x @ x.T)[None], torch.arange(2).repeat_interleave(5)[None]
    found = float(match_units(gram, owners, 5, [0], signed=signed).inertia)

    def cost(a, b):
        apart = ((a - b) ** 2).sum() / 2
        return min(apart, ((a + b) ** 2).sum() / 2) if signed else apart

    best = min(sum(cost(x[i], x[5 + j]) for i, j in enumerate(order)) for order in itertools.permutations(range(5)))
    assert found == pytest.approx(float(best))


def test_unequal_ranks_and_the_inertia_by_hand():
    draws = torch.Generator().manual_seed(3)
    x = torch.randn(9, 7, generator=draws, dtype=torch.float64)
    owners = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 2, 2]])
    found = match_units((x @ x.T)[None], owners, 4, [5])
    by_hand = sum(float(((x[found.labels[0] == c] - x[found.labels[0] == c].mean(0)) ** 2).sum()) for c in range(4))
    assert float(found.inertia) == pytest.approx(by_hand)
    assert float(found.inertia) <= float(draw_units((x @ x.T)[None], owners, 4, [5]).inertia)
    with pytest.raises(UserError, match="rank=3 is too few"):
        match_units((x @ x.T)[None], owners, 3, [5])


def test_every_unit_alone_is_the_sum_in_every_clustering():
    updates = [random_adapter(name, {"m": (20, 16)}, rank=3, seed=at).load("m") for at, name in enumerate("abc")]
    whole = sum(part.b @ part.a * part.scaling for part in updates)
    for name in ("kmeans", "matching", "spectral", "random"):
        rule = MergeRule("lego", rank=9, clustering=name, output_reweight=False)
        merged, report = lego_module(updates, [1.0] * 3, 9, rule, seed=0)
        torch.testing.assert_close(merged.b @ merged.a, whole, rtol=1e-4, atol=1e-5)
        assert (report.doubled_share, report.mixed_share) == (0.0, 0.0)


def test_a_permuted_copy_merges_into_itself():
    """Matching undoes the permutation of the ranks, signs and scales included: the merge is the adapter."""
    one = random_adapter("one", {"m": (20, 16)}, rank=4, seed=0).load("m")
    order, scale = torch.tensor([2, 0, 3, 1]), torch.tensor([2.0, -0.5, -3.0, 1.0])
    other = Factors(one.a[order] * scale[:, None], one.b[:, order] / scale, one.scaling)
    merged, report = lego_module([one, other], [1.0, 1.0], 4, MergeRule("lego", rank=4, clustering="matching"), seed=0)
    torch.testing.assert_close(merged.b @ merged.a, one.b @ one.a * one.scaling, rtol=1e-4, atol=1e-5)
    assert report.inertia_share < 1e-9 and report.mixed_share == 1.0


@pytest.mark.slow
def test_rows_tell_matching_from_kmeans_and_find_what_was_planted():
    """Planted groups come back exactly by matching; under noise matching, unlike k-means, gives them on every seed."""
    from permlab.adapters.benchmark.clusterings import clustering_rows, recovery

    rows = clustering_rows(seed=1)
    found = {(row["adapters"], row["clustering"]): row for row in rows}
    assert len(found) == 12
    assert found["planted", "matching"]["error"] < 1e-5 and found["planted", "matching"]["purity"] == 1.0
    assert found["planted", "random"]["error"] > 0.3 and found["unrelated", "kmeans"]["error"] is None
    noisy, kmeans = found["planted, noise", "matching"], found["planted, noise", "kmeans"]
    assert noisy["purity"] > 0.99 and noisy["purity"] >= kmeans["purity"]
    assert noisy["seed_spread"] < 0.02 and noisy["error"] < 1.0
    for name in ("unrelated", "planted", "planted, noise"):
        assert found[name, "matching"]["doubled"] == found[name, "matching"]["one_adapter"] == 0.0
    assert found["unrelated", "kmeans"]["doubled"] > 0 and found["unrelated", "kmeans"]["one_adapter"] > 0
    numbers = recovery(rows)
    assert numbers["planted_error_matching"] == found["planted", "matching"]["error"]
    assert numbers["seed_spread_kmeans"] > 0.5 > numbers["seed_spread_matching"]
