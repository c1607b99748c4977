"""One job of a sweep, on whatever machine its launcher runs it: `permlab -m task=ntk seed=0,1 hardware=slurm`.

The first thing that a job leaves in the sweep's folder is where its run lies. A job that its launcher starts again,
after a time limit, a preemption, a requeue or a lost machine, finds that there and goes on in the same directory.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from permlab.config import Config, TaskSettings, build_config
from permlab.errors import UserError, first_line
from permlab.runs import signals, supervisor
from permlab.runs.console import console
from permlab.runs.execute import resume, start
from permlab.runs.outcome import Outcome
from permlab.runs.search import reporting
from permlab.runs.sweep import begin_job, note_job, noted, unfinished
from permlab.storage.locks import STALE_SECONDS, holder

TAKEN_SECONDS = 2 * STALE_SECONDS
"""A process of a lost machine counts as alive for so long."""
END_SECONDS = 600.0
"""After SIGTERM Slurm ends a job within its KillWait or a partition's GraceTime; a job waits for that so long."""


class SweepJob:
    """What Hydra's launcher calls per job; picklable, so that launchers with worker processes can send it."""

    def __init__(self, sweep: str, varied: list[str], ready: bool) -> None:
        self.sweep, self.varied, self.ready = sweep, varied, ready
        self.__name__ = self.__qualname__ = "permlab_job"

    def __call__(self, composed: Any) -> None:
        """Run one job and leave its note in the sweep directory; only an interruption ends the sweep."""
        from hydra.core.hydra_config import HydraConfig

        hydra: Any = HydraConfig.get()
        overrides = dict(o.split("=", 1) for o in hydra.overrides.task if "=" in o)
        varied = {key: overrides[key] for key in self.varied if key in overrides}
        number, sweep = int(hydra.job.num), Path(self.sweep)
        notice = (hydra.get("launcher") or {}).get("signal_delay_s")
        if notice:
            signals.expect_notice(float(notice))
        config = build_config(composed)
        if config.run.fail_fast and unfinished(sweep):
            return
        if config.hardware.nodes > 1 and supervisor.node() > 0:
            self.join(config, number)
            return
        console().print(f"job {number}: {' '.join(f'{k}={v}' for k, v in varied.items())}", markup=False)
        with reporting(sweep, number, hydra.get("sweeper") or {}, config.run.objective):
            outcome = self.carried_out(config, number, varied)
        note_job(sweep, number, varied, outcome)
        if outcome.status == "interrupted":
            self.hand_back(number, varied, outcome)

    def join(self, config: Config[TaskSettings], number: int) -> None:
        """Have this machine take part in the run that the first machine of its Slurm job begins."""
        until = time.monotonic() + supervisor.MEETING_SECONDS
        while time.monotonic() < until:
            begun = noted(Path(self.sweep), number).get("directory")
            if begun and (Path(begun) / "config.yaml").is_file():
                supervisor.join(config, Path(begun))
                return
            time.sleep(1)

    def carried_out(self, config: Config[TaskSettings], number: int, varied: dict[str, str]) -> Outcome:
        """Start the run of a job, or go on with the one that an earlier start of it has begun."""
        sweep = Path(self.sweep)
        before = noted(sweep, number).get("directory")
        path = Path(before) if isinstance(before, str) and before else None
        if path is None or not (path / "config.yaml").is_file():
            return start(config, self.ready, lambda place: begin_job(sweep, number, varied, place))
        deadline = time.monotonic() + TAKEN_SECONDS
        while holder(path) and time.monotonic() < deadline:
            time.sleep(1)
        begin_job(sweep, number, varied, path)  # what its last end left there is over
        try:
            outcome = resume(path)
        except UserError as error:
            return Outcome(path, "refused", 2, str(error))
        return Outcome(path, "done", 0) if outcome.status == "skipped" else outcome

    def hand_back(self, number: int, varied: dict[str, str], outcome: Outcome) -> None:
        """Leave an interrupted job to its launcher: submitit starts it again, others end the sweep.

        Raises:
            SystemExit: the sweep ends here, or submitit has put the job into the queue again.
        """
        if "SUBMITIT_EXECUTOR" not in os.environ:
            raise SystemExit(outcome.exit_code)
        again = signal.getsignal(signals.NOTICE)
        if outcome.exit_code == 128 + signals.NOTICE and callable(again):
            try:
                # submitit's own handler: it calls `checkpoint` of what was submitted, and requeues that.
                again(signals.NOTICE, None)
            except Exception as error:
                outcome.message = f"{first_line(error)} {outcome.message}"
                note_job(Path(self.sweep), number, varied, outcome)
            return
        # Slurm ends the job itself and may start it again, which it does not do with one that ended first.
        ends = time.monotonic() + (END_SECONDS if os.environ["SUBMITIT_EXECUTOR"] == "slurm" else 0)
        while time.monotonic() < ends:
            time.sleep(1)
