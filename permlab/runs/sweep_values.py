"""How many jobs a command line stands for, counted before one is made: `seed=range(1,1000000000)` is a billion.

permlab -m seed=0,1,2 task.order=original,spt run.max_jobs=10
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

from permlab import shipped
from permlab.errors import UserError

EXPANDED = 1_000_000
"""Most values that are shuffled: shuffling needs all of them at once."""


def expansions(parsed: list[Any]) -> list[Iterable[str]]:
    """Return, per override, the single-valued override strings it stands for, each made when it is asked for.

    Raises:
        UserError: as `count_values`.
    """
    for override in parsed:
        count_values(override)
    return [expansion(each) for each in parsed]


def expansion(override: Any, searching: bool = False) -> Iterable[str]:
    """Return what one override stands for; of an interval, which only a search has, both ends."""
    if not override.is_sweep_override():
        return [override.input_line]
    if searching and not override.is_discrete_sweep():
        return [f"{override.get_key_element()}={end}" for end in (override.value().start, override.value().end)]
    return sweep_values(override)


def first_values(parsed: list[Any], searching: bool = False) -> list[str]:
    """Return the first of the values of every override, in its place."""
    if searching:
        return [next(iter(expansion(each, searching))) for each in parsed]
    return [next(iter(choices)) for choices in expansions(parsed)]


def sweep_values(override: Any) -> Iterator[str]:
    """Yield the overrides that one with several values (`a,b`, choice, range, glob) stands for."""
    from hydra.core.override_parser.types import Glob

    key, value = override.get_key_element(), override.value()
    names = isinstance(value, Glob) and value.filter(shipped.names(override.key_or_group))
    for each in names or override.sweep_string_iterator():
        yield f"{key}={each}"


def count_values(override: Any) -> int:
    """Return how many values an override stands for, without making them: range(1,1000000000) is 16 bytes.

    Raises:
        UserError: one without values, without an end, or with too many to be told apart.
    """
    from hydra.core.override_parser.types import Glob, RangeSweep

    if not override.is_sweep_override():
        return 1
    if not override.is_discrete_sweep():
        remedy = "use a list or range(), or search it with hydra/sweeper=optuna"
        raise UserError(f"{override.input_line}: interval() needs a sweeper plugin; {remedy}")
    value, text = override.value(), override.input_line
    if isinstance(value, RangeSweep):
        try:
            bounds: tuple[Any, ...] = (value.start or 0, value.stop, value.step)
            start, stop, step = map(Fraction, bounds)
            count = max(0, math.ceil((stop - start) / step))
        except (TypeError, ValueError, OverflowError, ZeroDivisionError):
            raise UserError(f"{text}: a range needs finite numbers and a step that is not 0") from None
    else:
        count = len(value.filter(shipped.names(override.key_or_group)) if isinstance(value, Glob) else value.list)
    if not count:
        raise UserError(f"{text} stands for no value")
    if count > EXPANDED and not isinstance(value, Glob) and getattr(value, "shuffle", False):
        raise UserError(f"{text} stands for {count:,} values, which would have to be shuffled; give fewer")
    return count


def check_jobs(count: int, most: int) -> None:
    """Refuse a sweep of more jobs than are wanted, before any of them is composed.

    Raises:
        UserError: with both numbers.
    """
    if count > most:
        raise UserError(
            f"this sweep has {count:,} jobs, run.max_jobs is {most:,}: sweep over fewer values, or raise it"
        )
