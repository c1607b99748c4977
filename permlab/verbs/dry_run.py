"""`permlab KEY=VALUE ... run.dry_run=true`: what would run, and whether it can start; nothing is written."""

from __future__ import annotations

from permlab.compose import Plan
from permlab.runs.console import console
from permlab.runs.execute import describe_plan


def dry_run(plan: Plan) -> int:
    """Print what would run; write nothing."""
    for number, job in enumerate(plan.jobs):
        lines = describe_plan(job.config)
        if number == 0:
            width = max(len(key) for key, _ in lines)
            for key, value in lines:
                console().print(f"{key:<{width}}  {value}", markup=False)
    if len(plan.jobs) > 1:
        console().print(f"{len(plan.jobs)} jobs over {', '.join(plan.varied)}; every one is valid", markup=False)
    return 0
