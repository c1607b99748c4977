"""ZipIt: `matching = zip_matching(spec, model, [a, b], batches)`; `merged = zip_states(spec, model, [a, b], matching)`.

Units are merged greedily by correlation, across models and inside one (arXiv 2305.03053). K
models with n units each give n merged units; a merged unit is the mean of its members. Channel groups are zipped;
attention heads, groups with tied tensors and groups on two axes of one tensor keep one-to-one assignments and say so
in `notes`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from permlab.errors import UserError, check_range, did_you_mean
from permlab.matching.activation import Key, Moments, collect_moments, match_moments
from permlab.matching.result import Matching
from permlab.matching.setting import MatchOptions, MatchSetting
from permlab.matching.weight import Progress, check_models
from permlab.symmetry import Block, ChannelGroup, Spec, apply

BARRED = 1e6
"""Taken off the similarity of pairs that may not merge: they are used only when nothing else is left."""


def zip_units(similarity: np.ndarray, models: int, alpha: float, beta: float) -> np.ndarray:
    """Greedy merging of K * n units into n.

    The best pair is taken anywhere; the merged unit's similarity to the others is the smaller of the two, times `alpha`
    (0 or less: a merged unit is not merged again). A merge inside a model uses up that model's budget of
    `beta` times the merges due per model; when it is spent, pairs inside that model are barred. As in the authors' code
    a budget is looked at after a merge, so beta = 0 leaves at most one merge inside each model.

    Args:
        similarity: [K * n, K * n] symmetric; unit i of model k is row k * n + i.
        models: K.

    Returns:
        int64 [K * n]: merged unit (0..n-1) of every unit, numbered by their first member.
    """
    total = len(similarity)
    size = total // models
    table = np.array(similarity, dtype=np.float64)
    # A unit is no partner of itself, though it correlates best with itself.
    np.fill_diagonal(table, -np.inf)
    owner = np.repeat(np.arange(models), size)
    parent = np.arange(total)
    # The best of every row: a merge then changes few rows, where a search of the whole table is O(n^2) each time.
    partner, best = table.argmax(1), table.max(1)
    # The small addend keeps a whole number of merges from being cut to the one below by rounding.
    budget = np.full(models, int((total - size) // models * beta + 1e-4))
    barred = np.zeros(models, dtype=bool)

    def refresh(rows: np.ndarray) -> None:
        if len(rows):
            partner[rows] = table[rows].argmax(1)
            best[rows] = table[rows, partner[rows]]

    # ZipIt: greedy merges of the best pair anywhere until K n units are n.
    for _ in range(total - size):
        row = int(best.argmax())
        row, column = sorted((row, int(partner[row])))
        # Complete linkage: a merged unit is only as similar to others as the worse of its members.
        merged = np.minimum(table[row], table[column])
        free = merged > -BARRED / 2
        # alpha < 1 holds back clusters of many units, whose mean would resemble none of them.
        merged[free] = merged[free] * alpha if alpha > 0 else merged[free] - BARRED
        merged[[row, column]] = -np.inf
        table[row], table[:, row] = merged, merged
        table[column], table[:, column] = -np.inf, -np.inf
        parent[parent == column] = row
        best[column] = -np.inf
        # Only rows that pointed at the pair must look again; for the others the merged unit may have become the best.
        alive = best > -np.inf
        stale = alive & ((partner == row) | (partner == column))
        stale[row] = True
        better = alive & ~stale & ((merged > best) | ((merged == best) & (row < partner)))
        partner[better], best[better] = row, merged[better]
        # ZipIt's beta: merges inside one model, which remove its redundancy, are limited to a share.
        if owner[row] == owner[column] and not barred[owner[row]]:
            model = owner[row]
            budget[model] -= 1
            if budget[model] <= 0:
                barred[model] = True
                inside = np.flatnonzero((owner == model) & alive)
                table[np.ix_(inside, inside)] -= BARRED
                stale[inside] = True
        refresh(np.flatnonzero(stale))
    return np.unique(parent, return_inverse=True)[1]


def correlations(moments: Moments, models: int) -> np.ndarray:
    """[K * n, K * n] Pearson correlations between all units of all models."""
    rows = [
        torch.cat([moments.similarity(k, other, "pearson") for other in range(models)], dim=1) for k in range(models)
    ]
    return torch.cat(rows).numpy()


def zip_matching(
    spec: Spec,
    model: nn.Module,
    states: Sequence[Mapping[str, Tensor]],
    batches: Iterable[Any],
    *,
    alpha: float = MatchOptions.zip_alpha,
    beta: float = MatchOptions.zip_beta,
    groups: Iterable[str] | None = None,
    stop: str | None = None,
    where: str = "post",
    max_positions: int = 4096,
    seed: int = 0,
    progress: Progress | None = None,
) -> Matching:
    """Match K models by merging similar units across and inside them.

    Args:
        alpha, beta: as in `zip_units`; the published defaults.
        groups: groups to zip (default: all that can be); the others get one-to-one assignments by correlation.
        stop: this group and those behind it, in network order, are not merged: every unit stays one of its own, and the
            models share what is in front of it (partial zip). Default: all are merged.
        (the rest as in `collect_moments`)

    Returns:
        A Matching with `clusters` for the zipped groups, whose own permutations stay the identity.

    Raises:
        UserError: models that differ, no data, or a group in `groups` that cannot be zipped.
    """
    check_range("alpha", alpha, None, 1)
    check_range("beta", beta, 0, 1)
    check_models(spec, list(states))
    begin = time.perf_counter()
    refused = _not_zipped(spec)
    wanted = [name for name in spec.groups if name not in refused] if groups is None else list(groups)
    for name in wanted:
        if name not in spec.groups or name in refused:
            raise UserError(f"group {name} cannot be zipped: {refused.get(name, 'the spec has no such group')}")
    apart = _behind(spec, stop, refused)
    moments = collect_moments(
        spec,
        model,
        states,
        batches,
        where=where,
        within=True,
        max_positions=max_positions,
        seed=seed,
        progress=progress,
    )
    result = _assign_rest(spec, moments, len(states), set(wanted))
    for name in apart:
        count = len(states) * spec.groups[name].units
        result.clusters[name] = torch.arange(count).view(len(states), -1)
    for name in (name for name in wanted if name not in apart):
        clusters = zip_units(correlations(moments[name, "unit"], len(states)), len(states), alpha, beta)
        result.clusters[name] = torch.from_numpy(clusters).view(len(states), -1)
        result.objective += _within_cluster(moments[name, "unit"], result.clusters[name])
    result.notes |= {name: f"matched one to one: {reason}" for name, reason in refused.items()}
    result.notes |= dict.fromkeys(apart, "every unit stays one of its own")
    result.seconds = time.perf_counter() - begin
    return result


def _not_zipped(spec: Spec) -> dict[str, str]:
    reasons = {
        name: "attention heads are matched as wholes"
        for name, group in spec.groups.items()
        if not isinstance(group, ChannelGroup)
    }
    for name in spec.quadratic():
        reasons[name] = "it is on two axes of one tensor"
    for canonical in spec.tied.values():
        for blocks in spec.axes.get(canonical, {}).values():
            reasons |= {
                block.group: f"{canonical} is tied, so it reads and writes the group at once" for block in blocks
            }
    return reasons


def _behind(spec: Spec, stop: str | None, refused: Mapping[str, str]) -> list[str]:
    """The groups from `stop` on, in network order."""
    if stop is None:
        return []
    names = list(spec.groups)
    if stop not in names:
        raise UserError(f"stop={stop} is no group of units{did_you_mean(stop, names)}; there are {', '.join(names)}")
    behind = names[names.index(stop) :]
    fixed = next((name for name in behind if name in refused), None)
    if fixed:
        raise UserError(f"stop={stop}: {fixed} behind it cannot stay apart: {refused[fixed]}")
    return behind


def _assign_rest(spec: Spec, moments: Mapping[Key, Moments], models: int, zipped: set[str]) -> Matching:
    rest = Spec(groups={name: group for name, group in spec.groups.items() if name not in zipped}, pinned=spec.pinned)
    result = match_moments(rest, moments, models, "pearson")
    result.method = "zip"
    result.permutations = [{**spec.identity(), **permutation} for permutation in result.permutations]
    return result


def _within_cluster(moments: Moments, clusters: Tensor) -> float:
    """Summed correlation of all pairs of units that share a merged unit."""
    models = len(clusters)
    table = torch.from_numpy(correlations(moments, models))
    flat = clusters.flatten()
    same = flat[:, None] == flat
    same.fill_diagonal_(False)
    return float(table[same].sum()) / 2


def writing_axes(spec: Spec, model: nn.Module) -> dict[str, set[int]]:
    """Tensor -> the axes along which it writes a group (output units); its other listed axes read one."""
    modules = dict(model.named_modules())
    result = {}
    for tensor, axes in spec.axes.items():
        owner, _, leaf = tensor.rpartition(".")
        module = modules.get(owner)
        if leaf == "weight" and isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            # Weights are [out, in]: M acts where a layer writes its units, U where it reads them.
            result[tensor] = {0} & axes.keys()
        elif leaf == "weight" and hasattr(module, "nf") and type(module).__name__ == "Conv1D":
            result[tensor] = {1} & axes.keys()
        else:
            # Biases, norms and embeddings only write: a merged unit gets the mean of its members' entries.
            result[tensor] = set(axes)
    return result


def zip_states(
    spec: Spec, model: nn.Module, states: Sequence[Mapping[str, Tensor]], matching: Matching
) -> dict[str, Tensor]:
    """The merged state dict: W = sum over models of M_out W_k U_in, with M the mean over each merged unit's members.

    Axes that write a zipped group are merged by M, axes that read one are spread by the 0/1 membership U; a tensor that
    writes no zipped group is averaged over the models. Groups without clusters are permuted first. Running statistics
    of BatchNorm are merged like shifts; reset them on data afterwards.
    """
    writes = writing_axes(spec, model)
    count = len(states)
    size = {name: torch.bincount(clusters.flatten()) for name, clusters in matching.clusters.items()}
    result: dict[str, Tensor] = {}
    for name, first in states[0].items():
        canonical = spec.tied.get(name, name)
        if canonical != name and canonical in result:
            result[name] = result[canonical]
            continue
        if not first.is_floating_point():
            result[name] = first.clone()
            continue
        total: Tensor | None = None
        for k, state in enumerate(states):
            tensor = apply(spec, {name: state[name]}, matching.permutations[k])[name].float()
            merged = False
            for axis, blocks in spec.axes.get(canonical, {}).items():
                # From the back: a block that grows (units that stay apart) moves those behind it.
                for block in sorted(blocks, key=lambda block: -block.offset):
                    if block.group not in matching.clusters:
                        continue
                    clusters, writing = matching.clusters[block.group][k], axis in writes[canonical]
                    tensor = _along(tensor, axis, block, clusters, size[block.group], writing)
                    merged = merged or writing
            # M is a mean over the members in all models; where no axis is merged by it, the mean is still to be taken.
            part = tensor if merged else tensor / count
            total = part if total is None else total.add_(part)
        assert total is not None
        result[name] = total.to(first.dtype)
    return result


def _along(tensor: Tensor, axis: int, block: Block, clusters: Tensor, size: Tensor, writing: bool) -> Tensor:
    """Move one block of one axis from units to merged units: their members' mean (merge), or added up (unmerge).

    Args:
        size: members of every merged unit; as many as there are merged units.
    """
    units, clusters, size = len(clusters), clusters.to(tensor.device), size.to(tensor.device)
    length = block.outer * units * block.inner
    moved = tensor.movedim(axis, 0)
    end = block.offset + length
    piece = moved[block.offset : end].reshape(block.outer, units, block.inner, -1)
    if writing:
        # Rows of M sum to 1. Without this it is U, which adds up what the members of a merged unit fed forward.
        piece = piece / size[clusters][None, :, None, None]
    new = piece.new_zeros(block.outer, len(size), block.inner, piece.shape[-1]).index_add_(1, clusters, piece)
    parts = [moved[: block.offset], new.reshape(-1, *moved.shape[1:]), moved[end:]]
    return torch.cat(parts).movedim(0, axis)


def match_zip(
    spec: Spec, model: nn.Module | None, states: Sequence[Mapping[str, Tensor]], setting: MatchSetting
) -> Matching:
    """`zip_matching` as a row of `MATCHES`."""
    if model is None:
        raise UserError("ZipIt runs the networks, which takes a module of their architecture")
    return zip_matching(
        spec,
        model,
        states,
        setting.batches,
        alpha=setting.zip_alpha,
        beta=setting.zip_beta,
        stop=setting.zip_stop,
        seed=setting.seed,
        progress=setting.progress,
    )
