"""LoRA-LEGO (arXiv 2409.16167): cluster the rank-one units of several adapters, keep one unit per cluster.

>>> merged, report = lego_module([f.load("q_proj") for f in adapters], [1.0] * len(adapters), 8, MergeRule(), seed=0)
>>> merged.rank, report.mixed_share

There is no official code; every choice the paper leaves open is a field of `LegoRule`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from permlab.adapters.factors import Factors, norm
from permlab.adapters.kmeans import Clusters
from permlab.adapters.merge_rule import MergeRule, reference_rank
from permlab.adapters.methods.signatures import Each, Inputs
from permlab.adapters.table import CLUSTERINGS, FEATURES, PARAM_REWEIGHTS
from permlab.adapters.units import Pool, pool_units


@dataclass(frozen=True)
class LegoReport:
    """What the clustering of one module looked like.

    `inertia_share`: inertia / total sum of squares around zero; `mixed_share`: share of clusters with units of two or
    more adapters; `doubled_share`: share with two or more units of one adapter; `norm_ratio`: |merged update| / mean
    |weighted input update|, Frobenius.
    """

    units: int
    k: int
    inertia: float
    inertia_share: float
    smallest: int
    largest: int
    singletons: int
    mixed_share: float
    doubled_share: float
    norm_ratio: float


def merge_lego(updates: Sequence[Factors], weights: Sequence[float], rank: int, rule: MergeRule, seed: int) -> Factors:
    """Merge one module; see `merge_lego_batch`."""
    return lego_module(updates, weights, rank, rule, seed)[0]


def lego_module(
    updates: Sequence[Factors], weights: Sequence[float], rank: int, rule: MergeRule, seed: int
) -> tuple[Factors, LegoReport]:
    """Merge one module and say how its units were clustered."""
    return merge_lego_batch([lambda: (list(updates), list(weights))], rank, rule, [seed], map)[0]


def merge_lego_batch(
    inputs: Sequence[Inputs], rank: int, rule: MergeRule, seeds: Sequence[int], each: Each
) -> list[tuple[Factors, LegoReport]]:
    """Merge several modules whose pools have the same number of units.

    Args:
        inputs: called to read the updates of a module and their weights.
        rank: merged rank, k of k-means.
        rule: clustering and rescaling.
        seeds: k-means seed of each module.
        each: applies a function to every module, in threads or one after the other.

    Returns:
        Per module the merged update (scaling 1) and its report.
    """

    def pooled(read: Inputs) -> Pool:
        updates, weights = read()
        return pool_units(updates, weights, rule.gauge)

    pools: list[Pool] = list(each(pooled, inputs))
    gram = torch.stack([gram_of(pool, rule.features) for pool in pools])
    # LoRA-LEGO, rank-wise clustering: k-means over the units (a_i, b_i) of all adapters together.
    group = CLUSTERINGS[rule.clustering].load()
    owners = torch.stack([pool.owner for pool in pools])
    found: Clusters = group(gram, owners, rank, seeds, n_init=rule.n_init, signed=rule.sign_invariant)
    results = []
    for index, pool in enumerate(pools):
        clusters = found.one(index)
        merged = rebuild(pool, clusters, rank, rule)
        total = float(torch.diagonal(gram[index]).sum())
        results.append((merged, _report(pool, clusters, merged, rank, total)))
    return results


def raw_features(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Units as they are: (n, d_in), (n, d_out)."""
    # Distances between raw units weigh long ones most; whether the paper normalises could not be read.
    return a, b


def unit_features(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both halves of every unit scaled to length 1."""
    # A third-party implementation of LEGO clusters these and still averages the raw units; what the paper does is open.
    return torch.nn.functional.normalize(a, dim=1), torch.nn.functional.normalize(b, dim=1)


def euclidean_size(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Norm of the whole unit, for both halves."""
    size = torch.sqrt((a * a).sum(dim=1) + (b * b).sum(dim=1))
    return size, size


def largest_entry(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Largest magnitude in the whole unit, for both halves."""
    # The norm of another reading of LEGO's parameter reweighting, found in third-party code.
    size = torch.maximum(a.abs().amax(dim=1), b.abs().amax(dim=1))
    return size, size


def size_per_half(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Norm of each half by itself."""
    return torch.linalg.vector_norm(a, dim=1), torch.linalg.vector_norm(b, dim=1)


def gram_of(pool: Pool, features: str) -> Tensor:
    """Inner products of the units, float64: near-duplicates (adapters that share A) cancel in float32."""
    a, b = FEATURES[features].load()(pool.a.double(), pool.b.double())
    gram: Tensor = a @ a.T + b @ b.T
    return gram


def rebuild(pool: Pool, clusters: Clusters, k: int, rule: MergeRule) -> Factors:
    """Centroids, both reweightings, and the factors of the merged update."""
    hot = torch.nn.functional.one_hot(clusters.labels, k).to(pool.a.dtype)
    share = (hot / hot.sum(dim=0)).T
    mean = share * clusters.signs.to(pool.a.dtype)
    # LoRA-LEGO: the centroid stands for its cluster. Of raw units, whatever features the clustering saw.
    a, b = mean @ pool.a, mean @ pool.b
    reweighting = PARAM_REWEIGHTS[rule.param_reweight]
    if reweighting.target:
        # LoRA-LEGO, parameter reweighting: a mean is shorter than its members (norm decay); give it their mean norm.
        size = reweighting.load()
        # A centroid of opposite units can be exactly zero; it stays zero.
        scale_a, scale_b = (
            torch.where(own > 0, (share @ members) / own.clamp_min(1e-30), torch.zeros_like(own))
            for members, own in zip(size(pool.a, pool.b), size(a, b))
        )
        a, b = a * scale_a[:, None], b * scale_b[:, None]
    if rule.output_reweight:
        # LoRA-LEGO, output reweighting: sqrt(r / k) against the variance of k units, split evenly over A and B.
        root = (reference_rank(pool.ranks, rule.reference_rank) / k) ** 0.25
        a, b = a * root, b * root
    return Factors(a.contiguous(), b.T.contiguous())


def _report(pool: Pool, clusters: Clusters, merged: Factors, k: int, total: float) -> LegoReport:
    sizes = torch.bincount(clusters.labels, minlength=k)
    owners = len(pool.ranks)
    counts = torch.zeros(k, owners, device=pool.owner.device)
    counts.index_put_((clusters.labels, pool.owner), torch.ones_like(pool.owner, dtype=counts.dtype), accumulate=True)
    # A cluster of one owner only compresses that adapter; the mixed ones are where tasks share a unit.
    mixed = ((counts > 0).sum(dim=1) > 1).float().mean()
    doubled = (counts > 1).any(dim=1).float().mean()
    inputs = []
    for adapter in range(owners):
        own = pool.owner == adapter
        # From the pool, where weights and scalings are folded in: the merge has to be held against what went into it.
        inputs.append(norm(Factors(pool.a[own], pool.b[own].T)))
    inertia = float(clusters.inertia)
    return LegoReport(
        units=pool.size,
        k=k,
        inertia=inertia,
        inertia_share=inertia / max(total, 1e-30),
        smallest=int(sizes.min()),
        largest=int(sizes.max()),
        singletons=int((sizes == 1).sum()),
        mixed_share=float(mixed),
        doubled_share=float(doubled),
        norm_ratio=norm(merged) / max(sum(inputs) / len(inputs), 1e-30),
    )
