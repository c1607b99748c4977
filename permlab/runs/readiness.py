"""Whether a run can start, decided in one place: a dry run prints it, the run itself is refused by the same checks.

    ready = examine(config)
    ready.lines, ready.problems        # [("task", "spt"), ...], []

Everything is known within seconds: devices, files, caches and the hub are looked at before anything heavy is loaded, a
tracker is started or a directory is made.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from permlab import registry
from permlab.config import Config, TaskSettings
from permlab.division import described, shares, together
from permlab.errors import UserError
from permlab.footprint import check_fits, duration, of_processes
from permlab.hardware import check_device

UNKNOWN = "not known"
"""Stands in a plan for what a problem keeps from being known."""


@dataclass(frozen=True)
class Told:
    """A line of a plan that is worked out for people only: the run itself does not wait for it."""

    text: Callable[[], str]


@dataclass
class Readiness:
    """What would run, and what keeps it from running: nothing, when it is ready."""

    lines: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def examine(config: Config[TaskSettings], away: bool = False) -> Readiness:
    """Work out the plan of a run; a line that cannot be is a problem, and the others are worked out all the same.

    Args:
        config: of the run.
        away: it will run on another machine, whose devices nobody knows here.
    """
    found = Readiness()
    lines = dict(planned(config))
    if away:
        lines["hardware"] = f"{config.hardware.name} (device {config.hardware.device}, dtype {config.hardware.dtype})"
    for key, line in lines.items():
        try:
            found.lines.append((key, str(text_of(line))))
        except UserError as error:
            found.lines.append((key, UNKNOWN))
            if str(error) not in found.problems:
                found.problems.append(str(error))
    return found


def refuse(config: Config[TaskSettings]) -> None:
    """Refuse a run that cannot start.

    Raises:
        UserError: the first problem that `examine` finds.
    """
    for _, line in planned(config):
        if not isinstance(line, Told):
            text_of(line)


def refuse_any(configs: Sequence[Config[TaskSettings]]) -> None:
    """Refuse a sweep of which one job cannot start.

    Raises:
        UserError: as `refuse`.
    """
    for config in distinct(configs):
        refuse(config)


def distinct(configs: Sequence[Config[TaskSettings]]) -> list[Config[TaskSettings]]:
    """Return one configuration of all that differ in the seed alone: what they need is the same."""
    found: dict[str, Config[TaskSettings]] = {}
    for config in configs:
        needs = {key: value for key, value in config.to_container().items() if key not in ("seed", "run", "experiment")}
        found.setdefault(repr(needs), config)
    return list(found.values())


def text_of(line: Any) -> Any:
    """Return the text of a line, worked out now where it was left to be."""
    if isinstance(line, Told):
        return line.text()
    return line() if callable(line) else line


def planned(config: Config[TaskSettings]) -> Iterator[tuple[str, Any]]:
    """Yield the lines of a plan: a text, or what works it out and fails where the run could not start.

    Those of the task (`plan(config)` of its module) may stand in place of the ones that every task has.
    """
    hardware = config.hardware
    lines: dict[str, Any] = {
        "task": config.task.name,
        "model": config.model.name,
        "dataset": config.dataset.name,
        "hardware": lambda: f"{hardware.name} ({check_device(hardware)}, dtype {hardware.dtype})",
        "seed": config.seed,
    }
    shared = shares(config)
    if shared is not None and together(hardware) > 1:
        lines["processes"] = lambda: described(hardware, shared)
    try:
        lines |= registry.task(config.task.name).plan(config)
    except UserError as error:
        refused = error

        def fail() -> str:
            raise refused

        lines["plan"] = fail
    lines |= needs(config)
    lines["run directory"] = config.run.dir or f"{config.run.root}/{config.task.name}/<UTC stamp>-<id>/"
    lines["fingerprint"] = config.fingerprint
    yield from lines.items()


def needs(config: Config[TaskSettings]) -> dict[str, Any]:
    """Return the lines of memory and time, of a task that estimates them; what cannot fit is refused."""
    module = registry.task(config.task.name)
    estimate = getattr(module, "footprint", None)
    if estimate is None:
        return {}
    found = functools.cache(lambda: estimate(config))
    hardware, remedies = config.hardware, tuple(getattr(module, "LESS_MEMORY", ()))

    def memory() -> str:
        need = found()
        if need is None:
            return "not known before the model and its data are fetched"
        return check_fits(of_processes(need, hardware), hardware, remedies, config.run.force)

    def duration_line() -> str:
        need = found()
        return "not estimated" if need is None else duration(need, hardware)

    return {"memory": memory, "time": Told(duration_line)}


def describe_plan(config: Config[TaskSettings]) -> list[tuple[str, str]]:
    """Return the lines of a plan that can start.

    Raises:
        UserError: the first problem.
    """
    found = examine(config)
    if found.problems:
        raise UserError(found.problems[0])
    return found.lines
