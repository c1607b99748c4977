"""Clusters that hold at most one unit of each adapter: a multi-way matching of the ranks of several LoRA adapters.

>>> found = match_units(gram, owners, n_clusters=8, seeds=[0])      # gram: (sets, n, n), owners: (sets, n)
>>> found.labels.shape, found.inertia.shape

K-means may put two units of one adapter into one cluster, which compresses that adapter, and leave an adapter out of
another. Where the adapters are one network with its ranks permuted, what belongs together is one unit of each. Finding
the best such clusters is NP-hard from three adapters on; here the units of one adapter after the other are assigned to
the centroids of the others' by the linear assignment problem, until none moves: every step is optimal for its adapter
and lowers the same sum of squared distances that k-means lowers. Best of several starts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from permlab.adapters.kmeans import Clusters, kmeans
from permlab.errors import UserError

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Labels = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
MOST_ROUNDS = 100


def cluster_by_kmeans(
    gram: Tensor, owners: Tensor, n_clusters: int, seeds: Sequence[int], *, n_init: int = 10, signed: bool = False
) -> Clusters:
    """Cluster without looking at the owners, as LoRA-LEGO does (arXiv 2409.16167)."""
    return kmeans(gram, n_clusters, seeds, n_init=n_init, signed=signed)


def match_units(
    gram: Tensor, owners: Tensor, n_clusters: int, seeds: Sequence[int], *, n_init: int = 10, signed: bool = False
) -> Clusters:
    """Return clusters with at most one unit of each owner, of least inertia found.

    Args:
        gram: (sets, n, n) inner products of the units, float64.
        owners: (sets, n) which adapter a unit came from.
        n_clusters: k, from the largest number of units of one owner to n.
        seeds: one per set.
        n_init: starts; the first orders the owners by size, the others at random.
        signed: x and -x are one unit.

    Raises:
        UserError: fewer clusters than one adapter has units.
    """
    found = []
    for each, whose, seed in zip(gram.cpu().numpy(), owners.cpu().numpy(), seeds, strict=True):
        largest = int(np.bincount(whose).max())
        if n_clusters < largest:
            raise UserError(
                f"clustering=matching keeps the units of an adapter apart, and one has {largest}: rank={n_clusters} is "
                "too few; take at least as many, or clustering=kmeans"
            )
        draws = np.random.default_rng(seed % (1 << 63))
        tries = [_match(each, whose, n_clusters, draws if start else None, signed) for start in range(n_init)]
        best = min(range(n_init), key=lambda at: round(tries[at][2] / max(float(np.trace(each)), 1e-300), 10))
        found.append(tries[best])
    return _as_clusters(found, gram)


def draw_units(
    gram: Tensor, owners: Tensor, n_clusters: int, seeds: Sequence[int], *, n_init: int = 10, signed: bool = False
) -> Clusters:
    """Return a random multi-way matching: the control that says what matching, not any grouping, does.

    Raises:
        UserError: as `match_units`.
    """
    found = []
    for each, whose, seed in zip(gram.cpu().numpy(), owners.cpu().numpy(), seeds, strict=True):
        if n_clusters < int(np.bincount(whose).max()):
            raise UserError("clustering=random keeps the units of an adapter apart: rank must be at least theirs")
        draws = np.random.default_rng(seed % (1 << 63))
        labels: Labels = np.empty(len(whose), dtype=np.int64)
        for owner in np.unique(whose):
            own = np.flatnonzero(whose == owner)
            labels[own] = draws.permutation(n_clusters)[: len(own)]
        labels = _occupied(labels, n_clusters)
        signs = _signs(each, labels, n_clusters) if signed else np.ones(len(whose))
        found.append((labels, signs, _inertia(each, labels, signs, n_clusters)))
    return _as_clusters(found, gram)


def cluster_spectrally(
    gram: Tensor, owners: Tensor, n_clusters: int, seeds: Sequence[int], *, n_init: int = 10, signed: bool = False
) -> Clusters:
    """Return the spectral clustering (scikit-learn) of the cosines between units, those below zero taken for none."""
    from sklearn.cluster import spectral_clustering

    found = []
    for each, seed in zip(gram.cpu().numpy(), seeds, strict=True):
        lengths = np.sqrt(np.maximum(np.diag(each), 1e-300))
        cosines = each / np.outer(lengths, lengths)
        # A little of everything: scikit-learn warns of graphs that fall apart, and unrelated units do.
        affinity = np.maximum(np.abs(cosines) if signed else cosines, 0) + 1e-6
        labels: Labels = np.arange(len(each))
        if n_clusters < len(each):
            labels = spectral_clustering(
                affinity, n_clusters=n_clusters, random_state=seed % (1 << 31), n_init=n_init
            ).astype(np.int64)
        labels = _occupied(labels, n_clusters)
        signs = _signs(each, labels, n_clusters) if signed else np.ones(len(each))
        found.append((labels, signs, _inertia(each, labels, signs, n_clusters)))
    return _as_clusters(found, gram)


def _match(
    gram: Array, owners: Labels, k: int, draws: np.random.Generator | None, signed: bool
) -> tuple[Labels, Array, float]:
    """One start and the descent from it."""
    counts = np.bincount(owners)
    order = np.argsort(-counts, kind="stable") if draws is None else draws.permutation(len(counts))
    order = order[counts[order] > 0]
    members = np.zeros((len(owners), k))
    for owner in order:
        _reassign(gram, members, np.flatnonzero(owners == owner), signed)
    labels = members.any(1) * np.abs(members).argmax(1)
    for _ in range(MOST_ROUNDS):
        before = labels
        for owner in order:
            _reassign(gram, members, np.flatnonzero(owners == owner), signed)
        labels = np.abs(members).argmax(1)
        if np.array_equal(labels, before):
            break
    labels = _occupied(labels.astype(np.int64), k)
    signs = _signs(gram, labels, k) if signed else np.ones(len(labels))
    return labels, signs, _inertia(gram, labels, signs, k)


def _reassign(gram: Array, members: Array, own: Labels, signed: bool) -> None:
    """Put the units of one owner where they raise the inertia least, given all others; changes `members` (n, k)."""
    members[own] = 0
    sizes = np.abs(members).sum(0)
    cross = gram[own] @ members
    centre = np.einsum("ik,ij,jk->k", members, gram, members, optimize=True)
    filled = np.maximum(sizes, 1)
    distance = np.diag(gram)[own][:, None] - 2 * (np.abs(cross) if signed else cross) / filled + centre / filled**2
    # A cluster of s points grows by s / (s + 1) of the squared distance to its centroid; an empty one by nothing.
    rows, columns = linear_sum_assignment(distance * (sizes / (sizes + 1)))
    members[own[rows], columns] = np.where(signed & (cross[rows, columns] < 0), -1.0, 1.0)


def _occupied(labels: Labels, k: int) -> Labels:
    """Give every empty cluster a unit of one with several, the last of them: each merged rank needs a unit."""
    labels = labels.copy()
    for empty in np.flatnonzero(np.bincount(labels, minlength=k) == 0):
        crowded = int(np.bincount(labels, minlength=k).argmax())
        labels[np.flatnonzero(labels == crowded)[-1]] = empty
    return labels


def _signs(gram: Array, labels: Labels, k: int) -> Array:
    """Turn the units of each cluster towards the longest of them."""
    signs = np.ones(len(labels))
    for cluster in range(k):
        own = np.flatnonzero(labels == cluster)
        first = own[np.diag(gram)[own].argmax()]
        signs[own] = np.where(gram[own, first] < 0, -1.0, 1.0)
    return signs


def _inertia(gram: Array, labels: Labels, signs: Array, k: int) -> float:
    """Sum of squared distances to the centroids: sum |x|^2 - sum_c |sum_c x|^2 / n_c."""
    members = np.zeros((len(labels), k))
    members[np.arange(len(labels)), labels] = signs
    sums = np.einsum("ik,ij,jk->k", members, gram, members, optimize=True)
    return max(0.0, float(np.trace(gram) - (sums / np.maximum(np.abs(members).sum(0), 1)).sum()))


def _as_clusters(found: Sequence[tuple[Labels, Array, float]], gram: Tensor) -> Clusters:
    """Stack the sets, on the device of the Gram matrices."""
    labels = torch.as_tensor(np.stack([each[0] for each in found]), device=gram.device)
    signs = torch.as_tensor(np.stack([each[1] for each in found]), device=gram.device)
    return Clusters(labels, signs, torch.tensor([each[2] for each in found], dtype=gram.dtype, device=gram.device))
