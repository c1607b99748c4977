"""Merge adapters module by module, by any method, into memory or into a PEFT folder.

>>> from permlab.adapters import MergeRule, merge_adapters, open_adapter
>>> merged = merge_adapters([open_adapter("A"), open_adapter("B")], MergeRule("lego", rank=16)).adapter

Modules are read from the memory-mapped files a few at a time, so memory is bounded by those and the merged factors.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from permlab.adapters.allocation import ranks_from_updates
from permlab.adapters.factors import AdapterSource, Factors, MemoryAdapter, ModuleInfo
from permlab.adapters.merge_rule import MergeRule, check_rule
from permlab.adapters.methods.signatures import BatchMethod, Each, Inputs, Method, Owned
from permlab.adapters.moments import Moments, check_moments, whitened
from permlab.adapters.settings import match_pattern
from permlab.adapters.table import LORA_METHODS, TRIM_SCOPES, function
from permlab.errors import UserError
from permlab.seeding import derived_seed


@dataclass(frozen=True)
class MergedAdapter:
    """`adapter`: the merged factors (scaling 1); `reports`: what the method says of each module (LEGO's clusters)."""

    adapter: MemoryAdapter
    reports: dict[str, Any]


def merge_adapters(
    adapters: Sequence[AdapterSource],
    rule: MergeRule,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    sink: Callable[[str, Factors], None] | None = None,
    moments: Mapping[str, Moments] | None = None,
    ranks: dict[str, int] | None = None,
) -> MergedAdapter:
    """Merge every module that at least one adapter has.

    Args:
        adapters: the inputs; a module that some of them lack is merged from those that have it.
        rule: method and settings.
        seed: of k-means and of DARE's masks; every module derives its own.
        device: where the arithmetic runs.
        workers: modules prepared at the same time; the number of CPU cores, at most 4, when None.
        progress: called with (modules done, modules in all).
        sink: receives every merged module instead of keeping it in memory (`writing.write_merge`).
        moments: of the modules' inputs (`moments.input_moments`); the method then works in the metric of their outputs.
        ranks: what `plan_ranks` has given, where it is known already.

    Raises:
        UserError: for an unknown name in the rule, shapes that do not fit, no common module, a rank above the pool, or
            values that are not finite.
    """
    if moments:
        check_moments(adapters, moments)
    adapters = whitened(adapters, moments)
    ranks = plan_ranks(adapters, rule) if ranks is None else ranks
    kept: dict[str, Factors] = {}
    reports: dict[str, Any] = {}
    limits = _limits(adapters, rule, list(ranks), torch.device(device))
    with ThreadPoolExecutor(workers or min(4, os.cpu_count() or 1)) as pool:
        done = 0
        for batch in _batches(adapters, ranks, rule.row.batch_mib << 20):
            for module, update, report in _merge_batch(
                adapters, rule, ranks, batch, seed, torch.device(device), pool, limits
            ):
                if moments and module in moments:
                    update = moments[module].out_of(update)
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
    return MergedAdapter(MemoryAdapter(rule.method, kept, info), reports)


def plan_ranks(adapters: Sequence[AdapterSource], rule: MergeRule) -> dict[str, int]:
    """Check that the adapters fit together and give the merged rank of every module, in a fixed order.

    A rank that follows from the updates (`energy:0.95`) is found by reading them, one module at a time.

    Raises:
        UserError: as `merge_adapters`, from the file headers alone.
    """
    if not adapters:
        raise UserError("no adapters to merge; give at least one")
    check_rule(rule)
    rule.weights_of(len(adapters))
    check_fit(adapters)
    ranks: dict[str, int] = {}
    modules = sorted({module for adapter in adapters for module in adapter.modules})
    chosen: dict[str, int] = {}
    if isinstance(rule.rank, str):
        chosen = ranks_from_updates(adapters, rule, modules)
    for module in modules:
        own = [adapter.modules[module].rank for adapter in adapters if module in adapter.modules]
        ranks[module] = _merged_rank(module, own, rule, chosen.get(module))
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
        shared = any(set(other.modules) & set(earlier.modules) for earlier in adapters if earlier is not other)
        # On other modules of one base, attention here and MLP there, nothing contradicts; their names alone say it.
        if not shared and (base_name(other) is None or base_name(other) != base_name(first)):
            raise UserError(
                f"{other.name} adapts no module that another adapter adapts (it has {next(iter(other.modules))}, "
                f"{first.name} has {next(iter(first.modules))}); are they for the same base model?"
            )


def base_name(adapter: AdapterSource) -> str | None:
    """The base model that an adapter's configuration names."""
    settings = getattr(adapter, "settings", None)
    return settings.raw.get("base_model_name_or_path") if settings is not None else None


def merged_info(adapters: Sequence[AdapterSource], ranks: dict[str, int]) -> dict[str, ModuleInfo]:
    """Shapes of the merged adapter; every module is stored in the widest dtype of its inputs."""
    info: dict[str, ModuleInfo] = {}
    for module, rank in ranks.items():
        known = [adapter.modules[module] for adapter in adapters if module in adapter.modules]
        dtype = known[0].dtype
        for other in known[1:]:
            # float16 with bfloat16 gives float32: neither holds both the range and the precision of the other.
            dtype = torch.promote_types(dtype, other.dtype)
        info[module] = ModuleInfo(rank, known[0].in_shape, known[0].d_out, 1.0, known[0].kind, dtype)
    return info


def _merged_rank(module: str, own: Sequence[int], rule: MergeRule, chosen: int | None) -> int:
    pool = sum(own)
    if rule.equal_ranks and len(set(own)) > 1:
        others = ", ".join(LORA_METHODS.where(equal_ranks=False))
        where = f" with trim_space={rule.trim_space}" if not rule.row.equal_ranks else ""
        raise UserError(
            f"method={rule.method}{where} adds A and B entry by entry and needs equal ranks, found {list(own)}; "
            f"use one of the methods {others}{', or trim_space=delta' if where else ''}"
        )
    default: int = function(rule.row.default_rank)(own, rule) if not rule.equal_ranks else max(own)
    if not rule.ranked:
        return default
    key = match_pattern(rule.rank_pattern, module)
    if key is not None:
        rank, said = rule.rank_pattern[key], f"rank_pattern: {key}={rule.rank_pattern[key]}"
    elif chosen is not None:
        rank, said = chosen, f"rank={rule.rank}"
    elif isinstance(rule.rank, int):
        rank, said = rule.rank, f"rank={rule.rank}"
    elif rule.rank_ratio is not None:
        rank, said = max(1, round(rule.rank_ratio * pool)), f"rank_ratio={rule.rank_ratio:g}"
    else:
        rank, said = default, "the default rank"
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
        # Gram matrices are stacked for one k-means over many modules, so pool and k have to be equal.
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
    seed: int,
    device: torch.device,
    pool: ThreadPoolExecutor,
    limits: Sequence[Any] | None,
) -> list[tuple[str, Factors, Any]]:
    owned = [_owned(adapters, rule, module, device) for module in batch]
    # A seed per module that depends on its name only, so that neither order nor batching changes a result.
    seeds = [derived_seed(seed, module) for module in batch]
    if limits is not None:
        merged = pool.map(partial(_one_limited, rule=rule, rank=ranks[batch[0]], limits=limits), owned, seeds)
        return [(module, update, None) for module, update in zip(batch, merged)]
    merge: BatchMethod = function(rule.row.batch) if rule.row.batch else _one_by_one
    found = merge([read for _, read in owned], ranks[batch[0]], rule, seeds, pool.map)
    return [(module, update, report) for module, (update, report) in zip(batch, found)]


def _owned(adapters: Sequence[AdapterSource], rule: MergeRule, module: str, device: torch.device) -> Owned:
    """Which adapters have a module, and what reads their updates and weights."""
    weights = rule.weights_of(len(adapters))
    having = [index for index, adapter in enumerate(adapters) if module in adapter.modules]

    def read() -> tuple[list[Factors], list[float]]:
        loaded = [adapters[index].load(module) for index in having]
        moved = [Factors(part.a.to(device), part.b.to(device), part.scaling) for part in loaded]
        return moved, [weights[index] for index in having]

    return having, read


def _limits(
    adapters: Sequence[AdapterSource], rule: MergeRule, modules: Sequence[str], device: torch.device
) -> list[Any] | None:
    """Per adapter what a trim over the whole model has to know first; None where every module is trimmed by itself."""
    scope = TRIM_SCOPES[rule.trim_scope]
    if "trim_scope" not in rule.row.reads or not scope.target:
        return None
    found: list[Any] = scope.load()([_owned(adapters, rule, module, device) for module in modules], rule)
    return found


def _one_limited(owned: Owned, seed: int, *, rule: MergeRule, rank: int, limits: Sequence[Any]) -> Factors:
    owners, read = owned
    updates, weights = read()
    merged: Factors = rule.row.load()(updates, weights, rank, rule, seed, [limits[owner] for owner in owners])
    return merged


def _one_by_one(
    inputs: Sequence[Inputs], rank: int, rule: MergeRule, seeds: Sequence[int], each: Each
) -> list[tuple[Factors, Any]]:
    """Methods that gain nothing from many modules at a time."""
    merge: Method = rule.row.load()

    def one(read: Inputs, seed: int) -> Factors:
        updates, weights = read()
        return merge(updates, weights, rank, rule, seed)

    return [(update, None) for update in each(one, inputs, seeds)]
