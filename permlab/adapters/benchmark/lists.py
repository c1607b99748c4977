"""List operations: reverse, sort, rotate, swap, shift, interleave, one adapter each.

>>> lists(groups=3, seed=0)
"""

from __future__ import annotations

import torch
from torch import Tensor

from permlab.adapters.benchmark.questions import SEPARATOR, SPECIAL, Benchmark, Group, Questions
from permlab.adapters.benchmark.settings import BenchmarkSettings
from permlab.adapters.benchmark.table import BENCHMARKS, OPERATIONS
from permlab.errors import UserError

_MOST = BENCHMARKS["lists"].most
"""Operations that adapters learn; the base knows two more, so that none of its own is one of theirs."""


def apply_operation(name: str, values: Tensor, symbols: int) -> Tensor:
    """Apply one of `OPERATIONS` to rows of symbol numbers (n, length).

    Raises:
        UserError: an unknown operation.
    """
    result: Tensor = OPERATIONS[name].load()(values, symbols)
    return result


def reversed_list(values: Tensor, symbols: int) -> Tensor:
    """Back to front."""
    return values.flip(1)


def sorted_up(values: Tensor, symbols: int) -> Tensor:
    """Smallest first."""
    return values.sort(dim=1).values


def sorted_down(values: Tensor, symbols: int) -> Tensor:
    """Largest first."""
    return values.sort(dim=1, descending=True).values


def rotated(values: Tensor, symbols: int) -> Tensor:
    """The first symbol comes last."""
    return values.roll(-1, dims=1)


def swapped(values: Tensor, symbols: int) -> Tensor:
    """Neighbours change places; an odd one at the end stays."""
    positions = torch.arange(values.shape[1])
    return values[:, torch.where((positions ^ 1) < len(positions), positions ^ 1, positions)]


def shifted(values: Tensor, symbols: int) -> Tensor:
    """Every symbol becomes the next of the alphabet."""
    return (values + 1) % symbols


def interleaved(values: Tensor, symbols: int) -> Tensor:
    """One of the first half, one of the second, and so on; of an odd length the first half has one more."""
    half = (values.shape[1] + 1) // 2
    first = torch.arange(half)
    order = torch.stack([first, first + half], dim=1).flatten()[: values.shape[1]]
    return values[:, order.clamp_max(values.shape[1] - 1)]


def copied(values: Tensor, symbols: int) -> Tensor:
    """As it is."""
    return values


def lists(
    groups: int, seed: int, length: int = 5, symbols: int = 12, base_lists: int = 24000, per_group: int = 2000
) -> Benchmark:
    """Six list operations, each on its own alphabet (variant C): the base knows all operations under other task tokens.

    A shared alphabet would make the adapters contradict each other, and every merge fail.

    Raises:
        UserError: more than six groups.
    """
    if not 1 <= groups <= _MOST:
        raise UserError(f"lists has six operations for adapters, {groups} adapters were asked for")
    generator = torch.Generator().manual_seed(seed)
    names = OPERATIONS.choices
    operations = len(names)
    first_symbol = SPECIAL + operations + _MOST
    vocabulary = first_symbol + _MOST * symbols

    def questions(count: int, operation: Tensor, alphabet: Tensor, token: Tensor) -> Questions:
        values = torch.randint(symbols, (count, length), generator=generator)
        results = torch.empty_like(values)
        for index, name in enumerate(names):
            here = operation == index
            results[here] = apply_operation(name, values[here], symbols)
        # An alphabet of its own tells a merged model which operation is asked, apart from the task token.
        offset = (first_symbol + alphabet * symbols)[:, None]
        separator = torch.full((count, 1), SEPARATOR)
        ids = torch.cat([token[:, None], values + offset, separator, results + offset], dim=1)
        answer = torch.zeros_like(ids, dtype=torch.bool)
        answer[:, length + 2 :] = True
        return Questions(ids, answer)

    operation = torch.randint(operations, (base_lists,), generator=generator)
    base = questions(
        base_lists, operation, torch.randint(_MOST, (base_lists,), generator=generator), SPECIAL + operation
    )
    # Trained rows on purpose: asked is what a merge forgets of the base, not how the base generalises.
    asked = base.rows(slice(0, 1000))
    kept = Group("base operations", base, asked.rows(slice(0, 250)), asked.rows(slice(250, None)), 1 / symbols)
    parts = []
    for index in range(groups):
        count = per_group + 500
        fixed = torch.full((count,), index)
        drawn = questions(count, fixed, fixed, fixed + SPECIAL + operations)
        train, validation = drawn.rows(slice(0, per_group)), drawn.rows(slice(per_group, per_group + 125))
        test = drawn.rows(slice(per_group + 125, None))
        parts.append(Group(f"{names[index]} on alphabet {index + 1}", train, validation, test, 1 / symbols))
    return Benchmark("lists", vocabulary, base, parts, "token", kept)


def from_settings(groups: int, seed: int, settings: BenchmarkSettings, vocabulary: int) -> Benchmark:
    """The benchmark as its row names it; nothing of it can be set."""
    return lists(groups, seed)
