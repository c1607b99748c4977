"""Acceptance rules that a program can check: the strings of `experiment.checks`.

parse_rule("mean(reverse_accuracy) >= 0.9 where task.order=spt -- reverse questions after SPT").evaluate(runs)

A rule is `AGG(metric) OP number`, where AGG is mean, min, max or median over the finished runs of the experiment,
metric is a name of `result.json` metrics and OP is one of < <= > >= == !=. The left side may be a ratio or a difference
of two aggregates: `mean(loss_barrier) / mean(naive_loss_barrier) < 0.1`. `where key=value,key=value` keeps the runs
whose configuration has these values (`a|b` allows several); words after ` -- ` are shown in the report. Nothing heavy
is imported here, because rules are checked with the configuration.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from permlab.errors import UserError, did_you_mean
from permlab.tables import is_number

AGGREGATES: dict[str, Callable[[Sequence[float]], float]] = {
    "mean": statistics.fmean,
    "min": min,
    "max": max,
    "median": statistics.median,
}
COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<=": lambda a, b: a <= b,
    ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
}
SCALES = ("paper", "toy")
CLAIM_BY = ("paper", "permlab")
"""Who makes a claim: the source that the experiment names, or we ourselves."""
FORM = (
    "AGG(metric) OP number [where key=value,...] [-- words], as in mean(reverse_accuracy) >= 0.9 where task.order=spt"
)
_TERM = r"([a-z]+)\(\s*([^()\s]+)\s*\)"
_RULE = re.compile(rf"^{_TERM}(?:\s*([/-])\s*{_TERM})?\s*(<=|>=|==|!=|<|>)\s*(\S+)$")


@dataclass(frozen=True)
class Term:
    """One aggregate: `mean(loss_barrier)`."""

    aggregate: str
    metric: str

    def of(self, metrics: Iterable[Mapping[str, Any]]) -> float | None:
        """Return the aggregate over the runs that have the metric, or None when none has, or one is not finite."""
        values = [m[self.metric] for m in metrics if self.metric in m]
        if not values or not all(is_number(value) for value in values):
            return None
        return float(AGGREGATES[self.aggregate]([float(value) for value in values]))

    def __str__(self) -> str:
        return f"{self.aggregate}({self.metric})"


@dataclass(frozen=True)
class Outcome:
    """What a rule gave: the number measured, whether it held (None: nothing was measured) and over how many runs."""

    value: float | None
    held: bool | None
    runs: int


@dataclass(frozen=True)
class Rule:
    """A parsed rule; `operator` joins the two terms and is empty where there is one."""

    text: str
    left: Term
    operator: str
    right: Term | None
    comparison: str
    threshold: float
    where: tuple[tuple[str, str], ...]
    words: str

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that the rule reads."""
        return (self.left.metric, *([self.right.metric] if self.right else []))

    @property
    def statement(self) -> str:
        """The rule without its words."""
        right = f" {self.operator} {self.right}" if self.right else ""
        where = " where " + ", ".join(f"{key}={value}" for key, value in self.where) if self.where else ""
        return f"{self.left}{right} {self.comparison} {self.threshold:g}{where}"

    def matches(self, config: Mapping[str, Any]) -> bool:
        """Return whether a run's configuration (nested dictionaries) has the values after `where`."""
        return all(same(look_up(config, key), value) for key, value in self.where)

    def evaluate(self, runs: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> Outcome:
        """Evaluate on (configuration, metrics) of finished runs; a metric that is missing is never counted as held."""
        fitting = [metrics for config, metrics in runs if self.matches(config)]
        value = self.left.of(fitting)
        if self.right is not None and value is not None:
            other = self.right.of(fitting)
            if other is None:
                value = None
            elif self.operator == "-":
                value -= other
            else:
                value = value / other if other else None
        held = None if value is None else COMPARISONS[self.comparison](value, self.threshold)
        counted = sum(all(is_number(metrics.get(name)) for name in self.metrics) for metrics in fitting)
        return Outcome(value, held, counted)


def parse_rule(text: str) -> Rule:
    """Parse one rule.

    Raises:
        UserError: quoting the rule, with the form it must have.
    """
    statement, _, words = text.partition(" -- ")
    claim, _, condition = statement.partition(" where ")
    found = _RULE.match(claim.strip())
    if not found:
        raise UserError(f"experiment.checks: cannot read '{text}'; a rule is {FORM}")
    for name in filter(None, (found[1], found[4])):
        if name not in AGGREGATES:
            hint = did_you_mean(name, AGGREGATES)
            raise UserError(f"experiment.checks: '{name}' in '{text}' is no aggregate{hint} ({', '.join(AGGREGATES)})")
    try:
        threshold = float(found[7])
    except ValueError:
        raise UserError(f"experiment.checks: '{found[7]}' in '{text}' is no number; a rule is {FORM}") from None
    if not math.isfinite(threshold):
        raise UserError(f"experiment.checks: '{found[7]}' in '{text}' must be finite")
    right = Term(found[4], found[5]) if found[4] else None
    where = parse_where(condition, text)
    left = Term(found[1], found[2])
    return Rule(text, left, found[3] or "", right, found[6], threshold, where, words.strip())


def parse_where(condition: str, text: str) -> tuple[tuple[str, str], ...]:
    """Split `key=value,key=value`; a comma inside brackets belongs to the value."""
    parts = [part.strip() for part in re.split(r",(?![^\[]*\])", condition) if part.strip()]
    pairs = []
    for part in parts:
        key, equals, value = part.partition("=")
        if not (key.strip() and equals and value.strip()):
            raise UserError(f"experiment.checks: cannot read '{part}' after where in '{text}'; write key=value")
        pairs.append((key.strip(), value.strip()))
    return tuple(pairs)


def check_rules(texts: Iterable[str], config: Mapping[str, Any]) -> list[Rule]:
    """Parse rules and refuse a `where` key that the configuration does not have.

    Raises:
        UserError: for the first rule that is wrong.
    """
    rules = [parse_rule(text) for text in texts]
    known = flatten(config)
    for rule in rules:
        for key, _ in rule.where:
            if look_up(config, key) is MISSING:
                hint = did_you_mean(key, known)
                raise UserError(f"experiment.checks: '{key}' in '{rule.text}' is no key of the configuration{hint}")
    return rules


MISSING = object()
"""What `look_up` returns for a key that is not there; None is a value."""


def look_up(config: Mapping[str, Any], key: str) -> Any:
    """Return the value at a dotted key; a group alone (`model`) stands for its name."""
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return MISSING
        value = value[part]
    return value.get("name", MISSING) if isinstance(value, Mapping) and "name" in value else value


def same(value: Any, wanted: str) -> bool:
    """Compare a configured value with its spelling in a rule: numbers as numbers, `a|b` as alternatives."""
    if value is MISSING:
        return False
    return any(_same_one(value, option.strip()) for option in wanted.split("|"))


def _same_one(value: Any, wanted: str) -> bool:
    if value is None or isinstance(value, bool):
        return wanted.lower() in {None: ("null", "none"), True: ("true",), False: ("false",)}[value]
    if isinstance(value, (int, float)):
        try:
            return float(wanted) == float(value)
        except ValueError:
            return False
    if isinstance(value, (list, tuple)):
        inner = wanted[1:-1] if wanted.startswith("[") and wanted.endswith("]") else wanted
        parts = [part.strip() for part in inner.split(",")] if inner.strip() else []
        return len(parts) == len(value) and all(_same_one(v, p) for v, p in zip(value, parts))
    return str(value) == wanted


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted key -> leaf value; empty mappings are leaves."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
