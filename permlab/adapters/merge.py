"""Merge adapters module by module, by any method, into memory or into a PEFT folder.

>>> from permlab.adapters import MergeRule, merge_adapters, open_adapter
>>> merge_adapters([open_adapter("A"), open_adapter("B")], MergeRule(method="lego", rank=16), out="merged")

Modules are read from the memory-mapped files a few at a time, so memory is bounded by those and the merged factors.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch

from permlab.adapters import baselines
from permlab.adapters.baselines import TrimRule
from permlab.adapters.factors import AdapterSource, Factors, MemoryAdapter, ModuleInfo
from permlab.adapters.lego import LegoReport, LegoRule, lego_batch, reference_rank
from permlab.adapters.settings import match_pattern
from permlab.adapters.units import pool_units
from permlab.errors import UserError

METHODS = ("lego", "linear", "cat", "svd", "ties", "dare", "knots")
# Bytes of input factors held at a time; a Llama-3.2-1B MLP module of eight rank-16 adapters has 5 MiB.
_BATCH_BYTES = 48 << 20
# The same for the methods that gain nothing from many modules at a time.
_SMALL_BATCH_BYTES = 12 << 20


@dataclass(frozen=True)
class MergeRule:
    """What to do with the adapters.

    `rank`: merged rank (LEGO's k); None means the reference rank for LEGO, the largest input rank for svd, and all
    ranks together for ties, dare (delta space) and knots. `rank_ratio`: the rank as a share of the pooled units.
    `rank_pattern`: rank by module, PEFT's patterns. `weights`: one per adapter; None is 1 each, and 1/n each for
    linear. `reference_rank`: see lego.reference_rank. `seed`: k-means, DARE masks.
    """

    method: str = "lego"
    rank: int | None = None
    rank_ratio: float | None = None
    rank_pattern: dict[str, int] = field(default_factory=dict)
    weights: tuple[float, ...] | None = None
    reference_rank: str = "mean"
    lego: LegoRule = field(default_factory=LegoRule)
    trim: TrimRule = field(default_factory=TrimRule)
    seed: int = 0


@dataclass(frozen=True)
class Merged:
    """`adapter`: the merged factors (scaling 1); `reports`: LEGO's clustering by module (empty for other methods)."""

    adapter: MemoryAdapter
    reports: dict[str, LegoReport]


def merge_adapters(
    adapters: Sequence[AdapterSource],
    rule: MergeRule,
    *,
    device: torch.device | str = "cpu",
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    sink: Callable[[str, Factors], None] | None = None,
) -> Merged:
    """Merge every module that at least one adapter has.

    Args:
        adapters: the inputs; a module that some of them lack is merged from those that have it.
        rule: method and settings.
        device: where the arithmetic runs.
        workers: modules prepared at the same time; the number of CPU cores, at most 4, when None.
        progress: called with (modules done, modules in all).
        sink: receives every merged module instead of keeping it in memory (`writing.AdapterWriter.put`).

    Raises:
        UserError: for shapes that do not fit, no common module, a rank above the pool, or values that are not finite.
    """
    ranks = plan_ranks(adapters, rule)
    kept: dict[str, Factors] = {}
    reports: dict[str, LegoReport] = {}
    with ThreadPoolExecutor(workers or min(4, os.cpu_count() or 1)) as pool:
        done = 0
        for batch in _batches(adapters, ranks, _BATCH_BYTES if rule.method == "lego" else _SMALL_BATCH_BYTES):
            for module, update, report in _merge_batch(adapters, rule, ranks, batch, torch.device(device), pool):
                if not bool(torch.isfinite(update.a.sum() + update.b.sum())):
                    raise UserError(f"merging {module} gave values that are not finite; check the inputs' sizes")
                if sink is None:
                    kept[module] = update
                else:
                    sink(module, update)
                if report is not None:
                    reports[module] = report
            done += len(batch)
            if progress is not None:
                progress(done, len(ranks))
    info = merged_info(adapters, ranks)
    return Merged(MemoryAdapter(rule.method, kept, info), reports)


def plan_ranks(adapters: Sequence[AdapterSource], rule: MergeRule) -> dict[str, int]:
    """Check that the adapters fit together and give the merged rank of every module, in a fixed order.

    Raises:
        UserError: as `merge_adapters`, from the file headers alone.
    """
    if not adapters:
        raise UserError("no adapters to merge; give task.adapters=[FOLDER,...]")
    if rule.weights is not None and len(rule.weights) != len(adapters):
        raise UserError(f"task.weights has {len(rule.weights)} values for {len(adapters)} adapters; give one each")
    check_fit(adapters)
    ranks: dict[str, int] = {}
    for module in sorted({module for adapter in adapters for module in adapter.modules}):
        own = [adapter.modules[module].rank for adapter in adapters if module in adapter.modules]
        ranks[module] = _merged_rank(module, own, rule)
    return ranks


def check_fit(adapters: Sequence[AdapterSource]) -> None:
    """Refuse adapters of different base models: other shapes on a shared module, or no shared module at all."""
    first = adapters[0]
    for other in adapters[1:]:
        for module, info in other.modules.items():
            for earlier in adapters:
                if earlier is other:
                    break
                known = earlier.modules.get(module)
                if known and (known.d_out, known.in_shape, known.kind) != (info.d_out, info.in_shape, info.kind):
                    raise UserError(
                        f"{module} is {known.shape_text()} in {earlier.name} and {info.shape_text()} in {other.name}; "
                        "the adapters belong to different base models"
                    )
        if not any(set(other.modules) & set(earlier.modules) for earlier in adapters if earlier is not other):
            raise UserError(
                f"{other.name} adapts no module that another adapter adapts (it has {next(iter(other.modules))}, "
                f"{first.name} has {next(iter(first.modules))}); are they for the same base model?"
            )


def merged_info(adapters: Sequence[AdapterSource], ranks: dict[str, int]) -> dict[str, ModuleInfo]:
    """Shapes of the merged adapter; every module is stored in the widest dtype of its inputs."""
    info: dict[str, ModuleInfo] = {}
    for module, rank in ranks.items():
        known = [adapter.modules[module] for adapter in adapters if module in adapter.modules]
        dtype = known[0].dtype
        for other in known[1:]:
            dtype = torch.promote_types(dtype, other.dtype)
        info[module] = ModuleInfo(rank, known[0].in_shape, known[0].d_out, 1.0, known[0].kind, dtype)
    return info


def default_weights(method: str, count: int) -> tuple[float, ...]:
    """1 each, and 1/n each for linear."""
    return tuple([1.0 / count if method == "linear" else 1.0] * count)


def _merged_rank(module: str, own: Sequence[int], rule: MergeRule) -> int:
    pool = sum(own)
    if rule.method == "cat":
        return pool
    if rule.method == "linear" or (rule.method in ("ties", "dare") and rule.trim.space == "factor"):
        return max(own)
    key = match_pattern(rule.rank_pattern, module)
    if key is not None:
        rank, said = rule.rank_pattern[key], f"task.rank_pattern: {key}={rule.rank_pattern[key]}"
    elif rule.rank is not None:
        rank, said = rule.rank, f"task.rank={rule.rank}"
    elif rule.rank_ratio is not None:
        rank, said = max(1, round(rule.rank_ratio * pool)), f"task.rank_ratio={rule.rank_ratio:g}"
    elif rule.method == "lego":
        rank, said = max(1, min(pool, round(reference_rank(own, rule.reference_rank)))), "the reference rank"
    else:
        rank, said = (max(own) if rule.method == "svd" else pool), "the default rank"
    if not 1 <= rank <= pool:
        units = f"{pool} unit{'s' if pool > 1 else ''} of rank {'+'.join(str(value) for value in own)}"
        raise UserError(f"{said} does not fit {module}, which has {units}; choose a rank from 1 to {pool}")
    return rank


def _batches(adapters: Sequence[AdapterSource], ranks: dict[str, int], limit: int) -> Iterator[list[str]]:
    """Groups of modules with equal pools and merged ranks whose inputs fit in `limit` bytes."""
    groups: dict[tuple[int, int], list[str]] = {}
    cost: dict[str, int] = {}
    for module, rank in ranks.items():
        known = [adapter.modules[module] for adapter in adapters if module in adapter.modules]
        groups.setdefault((sum(info.rank for info in known), rank), []).append(module)
        cost[module] = sum(4 * info.rank * (info.d_in + info.d_out) for info in known)
    for modules in groups.values():
        batch: list[str] = []
        for module in modules:
            if batch and sum(cost[name] for name in batch) + cost[module] > limit:
                yield batch
                batch = []
            batch.append(module)
        yield batch


def _merge_batch(
    adapters: Sequence[AdapterSource],
    rule: MergeRule,
    ranks: dict[str, int],
    batch: list[str],
    device: torch.device,
    pool: ThreadPoolExecutor,
) -> list[tuple[str, Factors, LegoReport | None]]:
    weights = rule.weights or default_weights(rule.method, len(adapters))

    def gather(module: str) -> tuple[list[Factors], list[float]]:
        having = [index for index, adapter in enumerate(adapters) if module in adapter.modules]
        loaded = [adapters[index].load(module) for index in having]
        moved = [Factors(part.a.to(device), part.b.to(device), part.scaling) for part in loaded]
        return moved, [weights[index] for index in having]

    if rule.method == "lego":
        pools = list(pool.map(lambda module: pool_units(*gather(module), rule.lego.gauge), batch))
        seeds = [module_seed(rule.seed, module) for module in batch]
        references = [reference_rank(units.ranks, rule.reference_rank) for units in pools]
        found = lego_batch(pools, rule.lego, ranks[batch[0]], seeds, references)
        return [(module, update, report) for module, (update, report) in zip(batch, found)]

    def one(module: str) -> Factors:
        return _merge_module(rule, *gather(module), ranks[module], module_seed(rule.seed, module))

    return [(module, update, None) for module, update in zip(batch, pool.map(one, batch))]


def _merge_module(rule: MergeRule, updates: list[Factors], weights: list[float], rank: int, seed: int) -> Factors:
    if rule.method == "linear":
        return baselines.merge_linear(updates, weights)
    if rule.method == "cat":
        return baselines.merge_cat(updates, weights)
    if rule.method == "svd":
        return baselines.merge_svd(updates, weights, rank)
    if rule.method == "ties":
        return baselines.merge_ties(updates, weights, rule.trim, rank, seed)
    if rule.method == "dare":
        return baselines.merge_dare(updates, weights, rule.trim, rank, torch.Generator().manual_seed(seed))
    if rule.method == "knots":
        return baselines.merge_knots(updates, weights, rule.trim, rank)
    raise ValueError(f"unknown method {rule.method}")


def module_seed(seed: int, module: str) -> int:
    """A seed per module that depends on its name only, so that neither order nor batching changes a result."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{module}".encode()).digest()[:7], "big")
