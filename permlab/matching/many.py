"""Weight matching of K models: `weight_matching_many(spec, [a, b, c])` (arXiv 2209.04836, MergeMany).

One model at a time, in random order, is matched to the mean of the others as they stand, until the summed distance of
all models to their mean stops falling. One further model is held, the sum of the permuted ones: in a temporary file
where there is a bound on memory.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from permlab.errors import check_range
from permlab.matching.cost import CostBuilder
from permlab.matching.distance import rows_of, squared_size
from permlab.matching.memory import Memory
from permlab.matching.result import Matching
from permlab.matching.setting import MatchSetting
from permlab.matching.weight import Descent, Progress, check_models, finish, weight_matching, without_quadratic
from permlab.symmetry import Permutation, Spec, permuted_pieces


def weight_matching_many(
    spec: Spec,
    states: Sequence[Mapping[str, Tensor]],
    *,
    max_rounds: int = 20,
    max_sweeps: int = 100,
    tolerance: float = 1e-9,
    seed: int = 0,
    quadratic: str = "linearise",
    keep_costs: bool = False,
    keep_scores: bool = True,
    memory: Memory | None = None,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Matching:
    """Permute K models towards their common mean; the first one stays as it is.

    Args:
        spec, max_sweeps, tolerance, seed, quadratic, keep_scores: as in `weight_matching`.
        states: two or more state dicts.
        max_rounds: bound on passes over the models.
        keep_costs: keep every model's final cost matrices (against the sum of the other models).
        memory: what may be held beside the networks; with a bound the sum lies in a temporary file, in float32.
        progress: called with (rounds done, max_rounds).

    Returns:
        A Matching with K permutations. `objective` is the sum over models of the squared distance to the mean, and
        never increases along `trace`.

    Raises:
        UserError: fewer than two models, models that differ in names or shapes, or a bound below what one group takes.
    """
    memory = memory or Memory()
    check_range("max_rounds", max_rounds, 1)
    check_models(spec, list(states))
    begin = time.perf_counter()
    full, (spec, pinned, notes) = spec, without_quadratic(spec, quadratic)
    result = Matching("weight", [full.identity() for _ in states], pinned=pinned, notes=notes)
    generator = torch.Generator().manual_seed(seed)
    stop = should_stop or (lambda: False)
    total = {name: _zeros(states[0][name].shape, states[0][name].device, memory) for name in spec.matched()}
    # Permutations keep every model's norm, so this part of the objective is a constant.
    norm = sum(squared_size(state, total) for state in states)
    # Outwards first: each model is matched to the sum of those before it.
    for k, state in enumerate(states):
        if k:
            descent = Descent(CostBuilder(spec, total, state, memory), generator, tolerance, begin)
            descent.run(descent.start(None, 0), max_sweeps, stop)
            result.permutations[k].update(descent.permutation)
            result.solves += descent.solves
        _add(spec, total, state, result.permutations[k], 1.0)
    _record(result, norm, total, len(states), begin)
    limits = (max_sweeps, tolerance, begin, stop)
    for done in range(max_rounds):
        improved = False
        # MergeMany: one model after the other in random order; the first is the frame and never moves.
        for k in (torch.randperm(len(states) - 1, generator=generator) + 1).tolist():
            improved |= _rematch(spec, states[k], k, total, result, generator, limits, memory)
        result.sweeps += 1
        _record(result, norm, total, len(states), begin)
        if progress is not None:
            progress(done + 1, max_rounds)
        # MergeMany's end: no model moved, so the summed distance to the mean has stopped falling.
        if not improved or stop():
            break
    if keep_costs or keep_scores:
        _finish(spec, states, total, result, keep_costs, memory)
    result.seconds = time.perf_counter() - begin
    return result


def _zeros(shape: torch.Size, device: torch.device, memory: Memory) -> Tensor:
    """Zeros in float32; with a bound on memory pages of a file without a name, which the system may write out."""
    if memory.most is None or not shape.numel():
        return torch.zeros(shape, device=device)
    with tempfile.NamedTemporaryFile(prefix="permlab-sum-") as file:
        file.truncate(4 * shape.numel())
        return torch.from_file(file.name, shared=True, size=shape.numel(), dtype=torch.float32).view(shape)


def _add(spec: Spec, total: dict[str, Tensor], state: Mapping[str, Tensor], perm: Permutation, sign: float) -> None:
    for name, value in total.items():
        # A running sum of permuted models: K models cost the space of one more.
        for start, stop, part in permuted_pieces(spec, name, state[name], perm):
            rows_of(value, start, stop).add_(part, alpha=sign)


def _rematch(
    spec: Spec,
    state: Mapping[str, Tensor],
    k: int,
    total: dict[str, Tensor],
    result: Matching,
    generator: torch.Generator,
    limits: tuple[int, float, float, Callable[[], bool]],
    memory: Memory,
) -> bool:
    """Match model k to the sum of the others, from where it stands; whether it moved."""
    max_sweeps, tolerance, begin, stop = limits
    # Matched to the sum of the others instead of their mean: a factor does not change the best permutation.
    _add(spec, total, state, result.permutations[k], -1.0)
    descent = Descent(CostBuilder(spec, total, state, memory), generator, tolerance, begin)
    before = result.permutations[k]
    descent.run(dict(before), max_sweeps, stop)
    result.permutations[k] = descent.permutation
    result.solves += descent.solves
    _add(spec, total, state, result.permutations[k], 1.0)
    return any(not torch.equal(before[part], index) for part, index in descent.permutation.items())


def _record(result: Matching, norm: float, total: Mapping[str, Tensor], models: int, begin: float) -> None:
    """sum_k |theta_k - mean|^2 = sum_k |theta_k|^2 - |sum|^2 / K; permutations leave the first term alone."""
    result.objective = norm - squared_size(total, total) / models
    result.trace.append(
        {
            "sweep": float(result.sweeps),
            "objective": result.objective,
            "solves": float(result.solves),
            "seconds": time.perf_counter() - begin,
        }
    )


def _finish(
    spec: Spec,
    states: Sequence[Mapping[str, Tensor]],
    total: dict[str, Tensor],
    result: Matching,
    keep_costs: bool,
    memory: Memory,
) -> None:
    costs: list[dict[str, Tensor]] = [{}]
    scores: list[dict[str, Tensor]] = [{}]
    for k in range(1, len(states)):
        _add(spec, total, states[k], result.permutations[k], -1.0)
        one = Matching("weight", [{}, result.permutations[k]])
        finish(one, CostBuilder(spec, total, states[k], memory), result.permutations[k], keep_costs=keep_costs)
        costs.append(one.costs[-1])
        scores.append(one.scores[-1])
        _add(spec, total, states[k], result.permutations[k], 1.0)
    result.costs, result.scores = costs, scores


def match_weight(
    spec: Spec, model: nn.Module | None, states: Sequence[Mapping[str, Tensor]], setting: MatchSetting
) -> Matching:
    """Weight matching as a row of `MATCHES`: of two networks with restarts, of more towards their mean.

    Cost matrices, which can be larger than the networks, are not kept.
    """
    # What heads for different labels do with a unit says nothing about which units belong together.
    trunk = spec.without(setting.heads)
    if len(states) > 2:
        return weight_matching_many(
            trunk,
            states,
            seed=setting.seed,
            keep_scores=setting.keep_scores,
            memory=setting.memory,
            progress=setting.progress,
            should_stop=setting.should_stop,
        )
    return weight_matching(
        trunk,
        *states,
        restarts=setting.restarts,
        seed=setting.seed,
        keep_costs=False,
        keep_scores=setting.keep_scores,
        memory=setting.memory,
        progress=setting.progress,
        should_stop=setting.should_stop,
    )
