"""Ranks by module from the spectrum of the summed updates: `ranks_from_updates(adapters, rule)`.

The best approximation of rank k of the sum leaves the singular values beyond the k-th (Eckart and Young 1936), so the
kept energy of a module is the share of its first k squares. Of adapters that are whitened (`moments`) it is the
energy of the outputs on the calibration inputs.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from permlab.adapters.factors import AdapterSource, Factors, concatenate
from permlab.adapters.merge_rule import MergeRule
from permlab.adapters.rank_rules import RANK_RULES, RankRule

Spectra = Mapping[str, Tensor]
"""Squared singular values of the summed update by module, largest first, as many as the pool has units."""


def ranks_from_updates(adapters: Sequence[AdapterSource], rule: MergeRule, modules: Sequence[str]) -> dict[str, int]:
    """Merged rank of every module as `rule.rank` (a text) says; modules are read one at a time."""
    wanted = RankRule.parse("rank", str(rule.rank))
    found = {module: spectrum(adapters, rule.weights_of(len(adapters)), module) for module in modules}
    costs = {module: _cost(adapters, module) for module in modules}
    ranks: dict[str, int] = RANK_RULES[wanted.name].load()(found, costs, wanted.share)
    return ranks


def spectrum(adapters: Sequence[AdapterSource], weights: Sequence[float], module: str) -> Tensor:
    """Squared singular values (pooled rank,) of the weighted sum of the updates, float64."""
    loaded = [(adapter.load(module), weight) for adapter, weight in zip(adapters, weights) if module in adapter.modules]
    pool = concatenate([Factors(part.a, part.b, part.scaling * weight) for part, weight in loaded])
    # The core of the two QR factors has the singular values of the whole update.
    core = torch.linalg.qr(pool.b)[1] @ torch.linalg.qr(pool.a.T)[1].T
    values = torch.linalg.svdvals(core.double()) ** 2
    return torch.nn.functional.pad(values, (0, pool.rank - len(values))).cpu()


def by_energy(spectra: Spectra, costs: Mapping[str, int], share: float) -> dict[str, int]:
    """The smallest rank of each module whose best approximation keeps `share` of the energy."""
    found = {}
    for module, values in spectra.items():
        kept = values.cumsum(0) / values.sum().clamp_min(1e-300)
        # A share that the last bits of the sum miss is reached by all units.
        found[module] = min(len(values), int((kept < share - 1e-12).sum()) + 1)
    return found


def by_budget(spectra: Spectra, costs: Mapping[str, int], share: float) -> dict[str, int]:
    """Spend `share` of the pooled parameters by marginal gain, at least one unit in every module.

    The gain of a module's next unit is its squared singular value per parameter. Gains fall within a module, so the
    greedy choice keeps the most energy for its number of parameters: a knapsack of items in order, up to the last one.
    """
    budget = share * sum(len(values) * costs[module] for module, values in spectra.items())
    ranks = dict.fromkeys(spectra, 1)
    left = budget - sum(costs[module] for module in spectra)
    heap = [(-float(v[1]) / costs[module], module) for module, v in spectra.items() if len(v) > 1]
    heapq.heapify(heap)
    while heap:
        gain, module = heapq.heappop(heap)
        # What no unit adds to is not worth a parameter.
        if costs[module] > left or gain == 0:
            continue
        left -= costs[module]
        ranks[module] += 1
        if ranks[module] < len(spectra[module]):
            heapq.heappush(heap, (-float(spectra[module][ranks[module]]) / costs[module], module))
    return ranks


def kept_energy(spectra: Spectra, ranks: Mapping[str, int]) -> float:
    """Share of the sum's energy that the best approximation of these ranks keeps: no merge of them keeps more."""
    total = sum(float(values.sum()) for values in spectra.values())
    return sum(float(values[: ranks[module]].sum()) for module, values in spectra.items()) / max(total, 1e-300)


def _cost(adapters: Sequence[AdapterSource], module: str) -> int:
    info = next(adapter.modules[module] for adapter in adapters if module in adapter.modules)
    return info.d_in + info.d_out
