"""K-means of many small point sets at once, from their Gram matrices.

A module has a few hundred units in tens of thousands of dimensions, so distances are taken from the (n, n) matrix of
inner products: |x_i - mu|^2 = G_ii - 2 (G z)_i + z^T G z with mu = sum_j z_j x_j. All modules, restarts and clusters
of a step are one batched product. Sign-invariant clustering lets every point join its centroid with either sign.

This is not scikit-learn's KMeans, which takes one set of points in coordinates at a time, knows no signs, and draws its
starts by the order of the points: here a module's clusters do not depend on the modules beside it, and those of an
adapter list do not depend on its order (ties between equal partitions are broken the same way too).

>>> result = kmeans(gram, n_clusters=8, seeds=[0])          # gram: (sets, n, n) float64
>>> result.labels.shape, result.inertia.shape
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from permlab.errors import caution


@dataclass(frozen=True)
class Clusters:
    """`labels` (sets, n) in 0..k-1, `signs` (sets, n) of +-1, `inertia` (sets,): sum of squared distances."""

    labels: Tensor
    signs: Tensor
    inertia: Tensor

    def one(self, index: int) -> Clusters:
        """The clusters of one set, without the leading axis."""
        return Clusters(self.labels[index], self.signs[index], self.inertia[index])


def kmeans(
    gram: Tensor, n_clusters: int, seeds: Sequence[int], *, n_init: int = 10, max_iter: int = 300, signed: bool = False
) -> Clusters:
    """Cluster every set: greedy k-means++ starts, Lloyd iterations, best of `n_init` restarts by inertia.

    Args:
        gram: (sets, n, n) inner products of the points, float64.
        n_clusters: k, from 1 to n.
        seeds: one seed per set; a set's result does not depend on the sets beside it.
        n_init: restarts.
        max_iter: most Lloyd iterations of a restart.
        signed: treat x and -x as the same point.

    Every cluster is non-empty. With k = n each point is its own cluster.

    Raises:
        ValueError: when k is not in 1..n.
    """
    sets, n, _ = gram.shape
    if not 1 <= n_clusters <= n:
        raise ValueError(f"n_clusters={n_clusters} must be from 1 to the number of points, {n}")
    # LEGO's limit k = all units must be exactly sqrt(r / k) times the concatenation; k-means could tie on duplicates.
    if n_clusters == n:
        labels = torch.arange(n, device=gram.device).expand(sets, n)
        return Clusters(labels, torch.ones_like(gram[:, 0]), torch.zeros_like(gram[:, 0, 0]))
    # Candidates per step of greedy k-means++, the number that scikit-learn takes.
    trials = 2 + int(math.log(n_clusters))
    draws = torch.stack([_draws(seed, n_init, n_clusters, trials) for seed in seeds]).to(gram.device)
    labels, signs = _plus_plus(gram, draws, signed)
    before = torch.full_like(labels[..., 0], math.inf, dtype=gram.dtype)
    for _ in range(max_iter):
        labels, signs, nearest = _assign(gram, labels, signs, n_clusters, signed)
        labels = _fill_empty(gram, labels, signs, n_clusters)
        cost = nearest.sum(dim=-1)
        # The cost falls with every change of labels; comparing it instead of them also ends on ties (duplicates).
        if not bool((cost < before * (1 - 1e-12)).any()):
            break
        before = torch.minimum(before, cost)
    inertia = _inertia(gram, labels, signs, n_clusters)
    # Equal partitions found in another order differ in the last bits; rounding keeps the first of them.
    scale = torch.diagonal(gram, dim1=1, dim2=2).sum(1, keepdim=True).clamp_min(1e-300)
    best = ((inertia / scale) * 1e10).round().argmin(dim=1)
    rows = torch.arange(sets, device=gram.device)
    labels, signs = labels[rows, best][:, None], signs[rows, best][:, None]
    natural, _, _ = _assign(gram, labels, signs, n_clusters, signed)
    sizes = torch.nn.functional.one_hot(natural[:, 0], n_clusters).sum(dim=-2)
    without = int((sizes == 0).any(dim=-1).sum())
    if without:
        caution(
            f"k-means: {without} of {sets} sets have fewer distinct points than the {n_clusters} clusters asked for; "
            "the empty clusters were given the points farthest from their centroids, which is arbitrary among equals"
        )
    return Clusters(labels[:, 0], signs[:, 0], inertia[rows, best])


def _draws(seed: int, n_init: int, n_clusters: int, trials: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed % (1 << 63))
    # All draws of a set beforehand: no module can use up random numbers of a module in the same batch.
    return torch.rand(n_init, n_clusters, trials, generator=generator, dtype=torch.float64)


def _distances(gram: Tensor, diagonal: Tensor, chosen: Tensor, signed: bool) -> Tensor:
    """Squared distance of every point to the points `chosen` (sets, restarts, t): (sets, restarts, t, n)."""
    sets, restarts, t = chosen.shape
    flat = chosen.reshape(sets, restarts * t)
    rows = gram.gather(1, flat[..., None].expand(-1, -1, gram.shape[2])).reshape(sets, restarts, t, -1)
    own = diagonal.gather(1, flat).reshape(sets, restarts, t, 1)
    # The nearer of y and -y: (a, b) and (-a, -b) are one rank-one update, which the paper's distance cannot see.
    cross = rows.abs() if signed else rows
    return (diagonal[:, None, None, :] + own - 2 * cross).clamp_min(0)


def _plus_plus(gram: Tensor, draws: Tensor, signed: bool) -> tuple[Tensor, Tensor]:
    """Greedy k-means++ (Arthur and Vassilvitskii 2007): of a few candidates drawn by squared distance, the best."""
    sets, restarts, n_clusters, _ = draws.shape
    n = gram.shape[1]
    diagonal = torch.diagonal(gram, dim1=1, dim2=2).contiguous()
    first = (draws[:, :, 0, :1] * n).long().clamp_max(n - 1)
    nearest = _distances(gram, diagonal, first, signed)[:, :, 0]
    labels = torch.zeros(sets, restarts, n, dtype=torch.long, device=gram.device)
    chosen = [first[..., 0]]
    for step in range(1, n_clusters):
        cumulative = nearest.cumsum(dim=-1)
        # k-means++: the next start is drawn in proportion to its squared distance from the nearest one so far.
        wanted = draws[:, :, step] * cumulative[..., -1:]
        candidates = torch.searchsorted(cumulative, wanted, right=True).clamp_max(n - 1)
        distances = _distances(gram, diagonal, candidates, signed)
        # Greedy: of the candidates the one that leaves least inertia; bad starts are rarer than with plain k-means++.
        pick = torch.minimum(distances, nearest[:, :, None]).sum(-1).argmin(dim=-1, keepdim=True)
        chosen.append(candidates.gather(2, pick)[..., 0])
        taken = distances.gather(2, pick[..., None].expand(-1, -1, -1, n))[:, :, 0]
        labels = torch.where(taken < nearest, torch.full_like(labels, step), labels)
        nearest = torch.minimum(nearest, taken)
    centres = torch.stack(chosen, dim=2).gather(2, labels)
    signs = torch.ones_like(nearest)
    if signed:
        rows = torch.arange(n, device=gram.device)
        index = torch.arange(sets, device=gram.device)[:, None, None]
        signs = torch.where(gram[index, centres, rows] < 0, -1.0, 1.0).to(gram.dtype)
    return _fill_empty(gram, labels, signs, n_clusters), signs


def _membership(labels: Tensor, signs: Tensor, n_clusters: int) -> tuple[Tensor, Tensor]:
    """Coefficients z (sets, restarts, n, k) with mu_c = sum_j z_jc x_j, and the cluster sizes (sets, restarts, k)."""
    hot = torch.nn.functional.one_hot(labels, n_clusters).to(signs.dtype)
    sizes = hot.sum(dim=-2)
    return hot * signs[..., None] / sizes.clamp_min(1)[..., None, :], sizes


def _assign(
    gram: Tensor, labels: Tensor, signs: Tensor, n_clusters: int, signed: bool
) -> tuple[Tensor, Tensor, Tensor]:
    z, sizes = _membership(labels, signs, n_clusters)
    cross = gram[:, None] @ z
    centre = (z * cross).sum(dim=-2)
    diagonal = torch.diagonal(gram, dim1=1, dim2=2)[:, None, :, None]
    # |x - mu|^2 from inner products alone: a unit has d_in + d_out entries, a pool only a few dozen units.
    distance = diagonal + centre[..., None, :] - 2 * (cross.abs() if signed else cross)
    # An empty cluster has all-zero coefficients, a false centroid at the origin that short units would join.
    distance = distance.masked_fill((sizes == 0)[..., None, :], math.inf)
    nearest, labels = distance.min(dim=-1)
    if signed:
        # Members are turned towards their centroid before they are averaged; a unit and its mirror would cancel.
        signs = torch.where(cross.gather(-1, labels[..., None])[..., 0] < 0, -1.0, 1.0).to(gram.dtype)
    return labels, signs, nearest


def _fill_empty(gram: Tensor, labels: Tensor, signs: Tensor, n_clusters: int) -> Tensor:
    """Give every empty cluster the point that lies farthest from the centroid of a cluster of two or more."""
    sizes = torch.nn.functional.one_hot(labels, n_clusters).sum(dim=-2)
    if bool((sizes > 0).all()):
        return labels
    labels = labels.clone()
    z, _ = _membership(labels, signs, n_clusters)
    cross = gram[:, None] @ z
    centre = (z * cross).sum(dim=-2)
    diagonal = torch.diagonal(gram, dim1=1, dim2=2)[:, None]
    own = diagonal + centre.gather(-1, labels) - 2 * cross.gather(-1, labels[..., None])[..., 0]
    # The merged rank of LEGO is k: a cluster left empty would be a rank of zeros.
    for index, restart, empty in (sizes == 0).nonzero().tolist():
        here = labels[index, restart]
        counts = torch.bincount(here, minlength=n_clusters)
        movable = torch.where(counts[here] > 1, own[index, restart], torch.full_like(own[index, restart], -math.inf))
        here[int(movable.argmax())] = empty
    return labels


def _inertia(gram: Tensor, labels: Tensor, signs: Tensor, n_clusters: int) -> Tensor:
    """Total minus explained: sum_i |x_i|^2 - sum_c n_c |mu_c|^2, at the centroids of the final labels."""
    z, sizes = _membership(labels, signs, n_clusters)
    centre = (z * (gram[:, None] @ z)).sum(dim=-2)
    total = torch.diagonal(gram, dim1=1, dim2=2).sum(dim=-1)
    return (total[:, None] - (sizes * centre).sum(dim=-1)).clamp_min(0)
