"""What `debug=fast|limit|overfit|profile` sets beside the keys of the task: `DebugConfig(name="fast").on`.

    permlab task=merge debug=fast          # one batch or step of everything

conf/debug/NAME.yaml is the option, conf/debug/NAME/TASK.yaml its keys for one task; a task without such a file keeps
its own. Whatever a debug run finds is about the program and not about the claim: its result is marked, its fingerprint
is another one, and no report counts it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from permlab.errors import check_range
from permlab.rules import check_rules, parse_rule


@dataclass
class DebugConfig:
    """What a `debug=` option sets; empty in a real run."""

    name: str | None = None
    """The option that made this a debug run; set by debug=NAME."""
    examples: int | None = None
    """Most texts or images to train on, for tasks that read some; null = all."""
    profile: bool = False
    """Run the task under torch.profiler: artifacts/trace.json and tables/profile.csv."""
    operations: int = 10
    """Operations in the table of the costliest."""
    checks: list[str] = field(default_factory=list)
    """Rules on the run's own metrics, as in `experiment.checks`; one that does not hold is a warning."""

    @property
    def on(self) -> bool:
        """Whether any of it is set: then the run is no result."""
        return self != DebugConfig()


def check_debug(debug: DebugConfig, config: Mapping[str, Any]) -> None:
    """Check ranges and rules.

    Raises:
        UserError: naming the key.
    """
    if debug.examples is not None:
        check_range("debug.examples", debug.examples, 2)
    check_range("debug.operations", debug.operations, 1)
    if debug.checks:
        check_rules(debug.checks, config)


def judged(debug: DebugConfig, config: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """Return a line for every rule with what was measured, and whether it held."""
    lines = []
    for text in debug.checks:
        rule = parse_rule(text)
        outcome = rule.evaluate([(config, metrics)])
        measured = "not measured" if outcome.value is None else f"measured {outcome.value:.4g}"
        about = f" ({rule.words})" if rule.words else ""
        lines.append((f"{rule.statement}{about}: {measured}", bool(outcome.held)))
    return lines
