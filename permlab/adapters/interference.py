"""How much adapters are in each other's way, and what a merge will cost, from the weights and a few inputs.

>>> overlap_rows(adapters)                                         # cosines and shared subspaces, module by module
>>> predicted_error(merged, adapters, [moments] * len(adapters))   # 0: every adapter's outputs are as they were

The prediction for one adapter and module is |(M - D) L|^2 / |D L|^2: the change that merging makes to the module's
outputs on the adapter's own inputs (C = L L^T their second moments), as a share of the change that the adapter makes.
1 is what leaving the adapter out costs. Without moments it is the same of the weights alone.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from permlab.adapters.factors import AdapterSource, Factors, concatenate, inner, norm
from permlab.adapters.moments import Moments
from permlab.tables import Row

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def cosine(left: Factors, right: Factors) -> float:
    """Cosine between two updates as vectors of all their entries; 0 where one is zero."""
    size = norm(left) * norm(right)
    return inner(left, right) / size if size else 0.0


def shared_energy(update: Factors, other: Factors) -> float:
    """Share of the squares of `update` that lies in the row space and the column space of `other`, 0 to 1.

    Of unrelated updates about rank^2 / (d_in d_out): nothing.
    """
    rows = torch.linalg.qr(other.a.double().T)[0]
    columns = torch.linalg.qr(other.b.double())[0]
    inside = Factors(update.a.double() @ rows, columns.T @ update.b.double(), update.scaling)
    return norm(inside) ** 2 / max(norm(update) ** 2, 1e-300)


def overlap_rows(adapters: Sequence[AdapterSource]) -> list[Row]:
    """One row per module: means over all pairs of adapters that have it."""
    rows: list[Row] = []
    for module in sorted({module for adapter in adapters for module in adapter.modules}):
        loaded = [adapter.load(module) for adapter in adapters if module in adapter.modules]
        pairs = list(combinations(loaded, 2))
        if not pairs:
            continue
        both = [shared_energy(*pair) for pair in pairs] + [shared_energy(right, left) for left, right in pairs]
        d_out, d_in = loaded[0].b.shape[0], loaded[0].a.shape[1]
        drawn = [right.rank**2 / (d_in * d_out) for _, right in pairs]
        line: Row = {"module": module, "type": module_type(module)}
        line["cosine"] = statistics.fmean(cosine(*pair) for pair in pairs)
        line["largest_cosine"] = max((cosine(*pair) for pair in pairs), key=abs)
        rows.append(line | {"shared_energy": statistics.fmean(both), "shared_by_chance": statistics.fmean(drawn)})
    return rows


def module_type(module: str) -> str:
    """`model.layers.0.self_attn.q_proj` -> `q_proj`."""
    return module.rpartition(".")[2]


def module_errors(
    merged: AdapterSource, adapter: AdapterSource, moments: Mapping[str, Moments] | None = None
) -> dict[str, float]:
    """|(M - D) L|^2 / |D L|^2 of every module that the adapter has; a merge that lacks the module has M = 0."""
    found = {}
    for module in adapter.modules:
        own = adapter.load(module)
        gap = Factors(own.a, own.b, -own.scaling)
        if module in merged.modules:
            gap = concatenate([merged.load(module), gap])
        matrix = moments[module].matrix if moments and module in moments else None
        found[module] = _energy(gap, matrix) / max(_energy(own, matrix), 1e-300)
    return found


def predicted_error(
    merged: AdapterSource, adapters: Sequence[AdapterSource], moments: Sequence[Mapping[str, Moments]] | None = None
) -> float:
    """Mean over adapters and modules of `module_errors`: 0 where merging changes nothing, 1 where it removes all."""
    given = moments or [{}] * len(adapters)
    return statistics.fmean(
        error for adapter, own in zip(adapters, given) for error in module_errors(merged, adapter, own).values()
    )


def _energy(update: Factors, matrix: Tensor | None) -> float:
    """|D L|^2 = scaling^2 tr((B^T B) (A C A^T)), float64."""
    a, b = update.a.double(), update.b.double()
    if matrix is None:
        weighted = a
    else:
        weighted = a * matrix.to(a) if matrix.dim() == 1 else a @ matrix.to(a)
    return max(0.0, float(((b.T @ b) * (weighted @ a.T)).sum())) * update.scaling**2


def rank_correlation(
    rows: Sequence[Row], predicted: str, measured: str, *, within: str, cluster: str, draws: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Spearman's rank correlation within each value of `within`, averaged, and its 95 % bootstrap interval.

    Args:
        rows: one per merge.
        predicted, measured: columns of numbers.
        within: column of what must not be mixed (seeds: their levels differ).
        cluster: column of what is drawn together in the bootstrap (methods: one merge at two scales is not two).
        draws: bootstrap samples.
        seed: of them.
    """
    names = sorted({str(row[cluster]) for row in rows})
    groups = [[row for row in rows if row[within] == value] for value in dict.fromkeys(row[within] for row in rows)]

    def mean_of(chosen: Sequence[str]) -> float:
        values = []
        for group in groups:
            part = [row for name in chosen for row in group if str(row[cluster]) == name]
            found = spearman([row[predicted] for row in part], [row[measured] for row in part])
            if found == found:  # a sample of one merge alone has no ranks
                values.append(found)
        return statistics.fmean(values) if values else float("nan")

    generator = np.random.default_rng(seed)
    sampled = [mean_of(list(generator.choice(names, len(names)))) for _ in range(draws)]
    low, high = np.nanpercentile(sampled, [2.5, 97.5])
    return mean_of(names), float(low), float(high)


def spearman(left: Sequence[float], right: Sequence[float]) -> float:
    """Rank correlation, ties sharing their mean rank; NaN where one side is constant."""
    x, y = _ranks(left), _ranks(right)
    x, y = x - x.mean(), y - y.mean()
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / size if size else float("nan")


def _ranks(values: Sequence[float]) -> Array:
    found = np.asarray(values, dtype=np.float64)
    order = np.sort(found)
    ranks: Array = (np.searchsorted(order, found, "left") + np.searchsorted(order, found, "right") + 1) / 2.0
    return ranks
