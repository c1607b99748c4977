"""LoRA-LEGO (arXiv 2409.16167): cluster the rank-one units of several adapters, keep one unit per cluster.

>>> merged, report = lego_module([f.load("q_proj") for f in adapters], [1.0] * len(adapters), LegoRule(), k=8, seed=0)
>>> merged.rank, report.mixed_share

There is no official code; every choice the paper leaves open is a field of `LegoRule`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from permlab.adapters.factors import Factors, norm
from permlab.adapters.kmeans import Clusters, kmeans
from permlab.adapters.units import Pool, pool_units
from permlab.errors import check_choice

PARAM_REWEIGHTS = ("l2", "max", "per_half", "none")
FEATURES = ("raw", "normalized")


@dataclass(frozen=True)
class LegoRule:
    """How LEGO clusters and rescales.

    `gauge`: see units.GAUGES. `features`: cluster the units as they are or with both halves scaled to length 1.
    `sign_invariant`: a unit and its negative are the same point. `param_reweight`: rescale a centroid to the mean norm
    of its members, by the Euclidean norm ("l2"), the largest entry ("max"), each half by its own ("per_half"), or not.
    `output_reweight`: multiply the update by sqrt(r / k). `n_init`, `max_iter`: of k-means.
    """

    gauge: str = "none"
    features: str = "raw"
    sign_invariant: bool = False
    param_reweight: str = "l2"
    output_reweight: bool = True
    n_init: int = 10
    max_iter: int = 300


@dataclass(frozen=True)
class LegoReport:
    """What the clustering of one module looked like.

    `inertia_share`: inertia / total sum of squares around zero; `mixed_share`: share of clusters with units of two or
    more adapters; `norm_ratio`: |merged update| / mean |weighted input update|, Frobenius.
    """

    units: int
    k: int
    inertia: float
    inertia_share: float
    smallest: int
    largest: int
    singletons: int
    mixed_share: float
    norm_ratio: float


def lego_batch(
    pools: Sequence[Pool], rule: LegoRule, k: int, seeds: Sequence[int], reference_ranks: Sequence[float]
) -> list[tuple[Factors, LegoReport]]:
    """Merge several modules whose pools have the same number of units.

    Args:
        pools: units of each module (`units.pool_units`).
        rule: clustering and rescaling.
        k: merged rank.
        seeds: k-means seed of each module.
        reference_ranks: r of the output reweighting sqrt(r / k), per module.

    Returns:
        Per module the merged update (scaling 1) and its report.
    """
    check_choice("features", rule.features, FEATURES)
    gram = torch.stack([_gram(pool, rule.features) for pool in pools])
    found = kmeans(gram, k, seeds, n_init=rule.n_init, max_iter=rule.max_iter, signed=rule.sign_invariant)
    results = []
    for index, (pool, reference) in enumerate(zip(pools, reference_ranks)):
        clusters = found.one(index)
        merged = _rebuild(pool, clusters, rule, k, reference)
        total = float(torch.diagonal(gram[index]).sum())
        results.append((merged, _report(pool, clusters, merged, k, total)))
    return results


def lego_module(
    updates: Sequence[Factors], weights: Sequence[float], rule: LegoRule, k: int, seed: int, reference_rank: float
) -> tuple[Factors, LegoReport]:
    """Merge one module; see `lego_batch`."""
    pool = pool_units(updates, weights, rule.gauge)
    return lego_batch([pool], rule, k, [seed], [reference_rank])[0]


def reference_rank(ranks: Sequence[int], rule: str) -> float:
    """r of sqrt(r / k) where adapters differ in rank: "mean", "max", "min", or a number written as text."""
    if rule == "mean":
        return sum(ranks) / len(ranks)
    if rule in ("max", "min"):
        return float(max(ranks) if rule == "max" else min(ranks))
    return float(int(rule))


def _gram(pool: Pool, features: str) -> Tensor:
    """Inner products of the units, float64: near-duplicates (adapters that share A) cancel in float32."""
    a, b = pool.a.double(), pool.b.double()
    if features == "normalized":
        a, b = (torch.nn.functional.normalize(half, dim=1) for half in (a, b))
    return a @ a.T + b @ b.T


def _rebuild(pool: Pool, clusters: Clusters, rule: LegoRule, k: int, reference: float) -> Factors:
    """Centroids, both reweightings, and the factors of the merged update."""
    hot = torch.nn.functional.one_hot(clusters.labels, k).to(pool.a.dtype)
    share = (hot / hot.sum(dim=0)).T
    mean = share * clusters.signs.to(pool.a.dtype)
    a, b = mean @ pool.a, mean @ pool.b
    if rule.param_reweight != "none":
        halves = _member_norms(pool.a, pool.b, rule.param_reweight)
        centre = _member_norms(a, b, rule.param_reweight)
        # A centroid of opposite units can be exactly zero; it stays zero.
        scale_a, scale_b = (
            torch.where(own > 0, (share @ members) / own.clamp_min(1e-30), torch.zeros_like(own))
            for members, own in zip(halves, centre)
        )
        a, b = a * scale_a[:, None], b * scale_b[:, None]
    if rule.output_reweight:
        root = (reference / k) ** 0.25
        a, b = a * root, b * root
    return Factors(a.contiguous(), b.T.contiguous())


def _member_norms(a: Tensor, b: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Norm of every unit as used for its a half and for its b half."""
    if kind == "per_half":
        return torch.linalg.vector_norm(a, dim=1), torch.linalg.vector_norm(b, dim=1)
    if kind == "max":
        size = torch.maximum(a.abs().amax(dim=1), b.abs().amax(dim=1))
    else:
        size = torch.sqrt((a * a).sum(dim=1) + (b * b).sum(dim=1))
    return size, size


def _report(pool: Pool, clusters: Clusters, merged: Factors, k: int, total: float) -> LegoReport:
    sizes = torch.bincount(clusters.labels, minlength=k)
    owners = len(pool.ranks)
    counts = torch.zeros(k, owners, device=pool.owner.device)
    counts.index_put_((clusters.labels, pool.owner), torch.ones_like(pool.owner, dtype=counts.dtype), accumulate=True)
    mixed = ((counts > 0).sum(dim=1) > 1).float().mean()
    inputs = []
    for adapter in range(owners):
        own = pool.owner == adapter
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
        norm_ratio=norm(merged) / max(sum(inputs) / len(inputs), 1e-30),
    )
