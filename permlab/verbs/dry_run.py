"""`permlab KEY=VALUE ... run.dry_run=true`: what would run, and whether it can start; nothing is written.

The last line is `ready`, or `not ready: REASON` with exit code 2: the run itself is refused by the same checks.
"""

from __future__ import annotations

from permlab.compose import Plan
from permlab.errors import as_lines
from permlab.runs.console import console
from permlab.runs.launchers import AWAY
from permlab.runs.readiness import distinct, examine


def dry_run(plan: Plan) -> int:
    """Print the plan of the first job, how many there are, and whether all can start; return the exit code."""
    problems: list[str] = []
    for number, config in enumerate(distinct([job.config for job in plan.jobs])):
        found = examine(config, away=plan.multirun and plan.launcher.name in AWAY)
        problems += [each for each in found.problems if each not in problems]
        if number == 0:
            width = max(len(key) for key, _ in found.lines)
            for key, value in found.lines:
                console().print(f"{key:<{width}}  {value}", markup=False)
    if len(plan.jobs) > 1:
        valid = "" if problems else "; every one is valid"
        console().print(f"{len(plan.jobs)} jobs over {', '.join(plan.varied)}{valid}", markup=False)
    for number, problem in enumerate(problems):
        line = as_lines(f"{'not ready' if number == 0 else '     also'}: {problem}")
        console().print(line, markup=False)
    if not problems:
        console().print("ready")
    return 2 if problems else 0
