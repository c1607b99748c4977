"""Rows of tables: grouping, mean and spread, one place for all tasks and reports.

    from permlab.tables import grouped, spread, summarise
    spread([0.9, 1.0])                                          # Spread(mean=0.95, deviation=0.07, count=2)
    summarise(rows, ("arm",), ("loss_barrier",), count="pairs")  # one row per arm: loss_barrier, loss_barrier_sd, pairs

A row is a dictionary from column to value. The deviation is that of the sample (n - 1); one value has none.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

Row = dict[str, Any]


STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""97.5 % points of Student's t with 1 to 30 degrees of freedom."""


def student(freedom: int) -> float:
    """97.5 % point of Student's t, to three decimals."""
    if freedom <= len(STUDENT):
        return STUDENT[freedom - 1]
    # Cornish and Fisher's expansion around the normal point, exact to 1e-4 from here on.
    z = 1.959964
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


@dataclass(frozen=True)
class Spread:
    """Mean of `count` values and their sample standard deviation (None for a single value)."""

    mean: float
    deviation: float | None
    count: int

    @property
    def interval(self) -> tuple[float | None, float | None]:
        """95 % interval of the mean, for values from a normal distribution (Student's t); none of a single value."""
        if self.deviation is None:
            return None, None
        half = student(self.count - 1) * self.deviation / math.sqrt(self.count)
        return self.mean - half, self.mean + half

    def __str__(self) -> str:
        return plain(self.mean) if self.deviation is None else f"{plain(self.mean)} ± {plain(self.deviation)}"


def is_number(value: Any) -> TypeGuard[float]:
    """Return whether a value is a finite number (true and false count as 1 and 0)."""
    try:
        return isinstance(value, (int, float)) and math.isfinite(value)
    except OverflowError:  # a whole number beyond all that is measured
        return False


def spread(values: Iterable[Any]) -> Spread | None:
    """Return mean and sample standard deviation of the finite numbers, or None when there are none."""
    numbers = [float(value) for value in values if is_number(value)]
    if not numbers:
        return None
    return Spread(statistics.fmean(numbers), statistics.stdev(numbers) if len(numbers) > 1 else None, len(numbers))


def grouped(rows: Iterable[Row], keys: Sequence[str]) -> dict[tuple[Hashable, ...], list[Row]]:
    """Return the rows by their values of `keys`, in the order in which these first appear."""
    found: dict[tuple[Hashable, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    return found


def number_columns(rows: Iterable[Row], aside: Iterable[str] = ()) -> list[str]:
    """Return the columns that hold a number somewhere, in the order in which they first appear, without `aside`."""
    rows = list(rows)
    names = dict.fromkeys(name for row in rows for name in row)
    left_out = set(aside)
    return [n for n in names if n not in left_out and any(is_number(row.get(n)) for row in rows)]


def summarise(
    rows: Iterable[Row],
    keys: Sequence[str],
    numbers: Sequence[str] | None = None,
    *,
    count: str = "count",
    aside: Iterable[str] = (),
) -> list[Row]:
    """Return one row per value of `keys`: how many rows (column `count`), then mean and deviation (`_sd`) of numbers.

    Args:
        rows: any rows; blanks (None, NaN, missing) are left out of the means.
        keys: columns that name a group.
        numbers: columns to average; default all that hold numbers.
        count: name of the column with the number of rows.
        aside: numbers that are names (of pairs, of seeds), left out where `numbers` is.
    """
    rows = list(rows)
    wanted = number_columns(rows, (*keys, *aside)) if numbers is None else list(numbers)
    made = []
    for values, members in grouped(rows, keys).items():
        line: Row = dict(zip(keys, values)) | {count: len(members)}
        for name in wanted:
            found = spread(member.get(name) for member in members)
            line[name], line[f"{name}_sd"] = (found.mean, found.deviation) if found else (None, None)
        made.append(line)
    return made


def mean(rows: Iterable[Row], name: str) -> float | None:
    """Return the mean of one column over the rows that have a number there, or None."""
    found = spread(row.get(name) for row in rows)
    return found.mean if found else None


def paired(rows: Iterable[Row], key: str, reference: Hashable, score: str, *, on: str = "pair") -> list[Row]:
    """Return by the value of `key` how far a score is above that of the reference on the same pairs.

    Differences on the same pairs do not vary with how good the pairs are, so they tell more than two means.

    Args:
        rows: at most one per value of `key` and `on`.
        key: column that names what is compared, of which `reference` is one value.
        score: column of the numbers; rows without one, and pairs that the reference lacks, are left out.
        on: column that names what a comparison has in common.

    Returns:
        Rows of `key`, the mean difference (column `score`), its deviation (`sd`), its interval (`low`, `high`; none of
        a single pair), in how many pairs it is positive (`above`) and of how many (`pairs`).
    """
    rows = [row for row in rows if is_number(row.get(score))]
    base = {row.get(on): row[score] for row in rows if row.get(key) == reference}
    made: list[Row] = []
    for (name,), members in grouped(rows, (key,)).items():
        gains = [row[score] - base[row.get(on)] for row in members if row.get(on) in base]
        found = spread(gains)
        if found is not None and name != reference:
            above = sum(gain > 0 for gain in gains)
            low, high = found.interval
            line = {key: name, score: found.mean, "sd": found.deviation, "low": low, "high": high}
            made.append(line | {"above": above, "pairs": found.count})
    return made


def pick(rows: Iterable[Row], **wanted: Any) -> Row:
    """Return the first row with these values.

    Raises:
        KeyError: there is none.
    """
    for row in rows:
        if all(row.get(key) == value for key, value in wanted.items()):
            return row
    raise KeyError(f"no row with {wanted}")


def pivoted(rows: Iterable[Row], across: str, value: str, keys: Sequence[str]) -> list[Row]:
    """Return one row per value of `keys`, with a column of `value` for every value of `across`."""
    made = []
    for names, members in grouped(rows, keys).items():
        made.append(dict(zip(keys, names)) | {plain(row[across]): row[value] for row in members})
    return made


def words(values: Iterable[Any], digits: int = 3) -> str:
    """Return `mean ± deviation` for people, `mean` for one value, `-` for none."""
    found = spread(values)
    if found is None:
        return "-"
    end = "" if found.deviation is None else f" ± {found.deviation:.{digits}f}"
    return f"{found.mean:.{digits}f}{end}"


def counted(number: int, noun: str) -> str:
    """Return `1 run` or `2 runs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def plain(value: Any) -> str:
    """Write a cell as text: numbers with four figures, whole ones as they are."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if value == int(value) and abs(value) < 1e15 if value == value and abs(value) != float("inf") else False:
            return f"{int(value):,}" if abs(value) >= 10_000 else str(int(value))
        return f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    return str(value)
