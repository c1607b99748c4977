"""Hydra's launchers, as sweeps use them: `permlab -m hardware=slurm seed=0,1,2`.

submitit asks Slurm's accounting how its jobs are; where there is none, it says so twice a minute and waits for ever for
a job that was killed. Here squeue is asked then, one line says so, and a job that ends without a result ends its own
row of the sweep's table, not the sweep.
"""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from permlab.errors import first_line
from permlab.runs.console import console

AWAY = ("submitit_slurm", "submitit_local", "ray", "ray_aws")
"""Launchers whose jobs may find other devices and files than this process."""
REQUEUES = 10
"""How often a job goes on after its time limit, where nothing says how often: submitit's launcher would not once."""
NOTICE_SECONDS = 120
"""Between a launcher's signal and the time limit, but at most a quarter of the limit: half of it is for the task to
reach a checkpoint, which takes it one step, half for the checkpoint to be written."""
ASK_SECONDS = 30
"""At most between two looks at the states of Slurm's jobs."""


@dataclass
class Launcher:
    """What starts the jobs of a sweep: an option of hydra/launcher, given as such or brought by a hardware profile."""

    name: str = "basic"
    keys: dict[str, Any] = field(default_factory=dict)

    def read(self, hydra: Any) -> None:
        """Take it from Hydra's own part of a composed configuration."""
        from omegaconf import OmegaConf

        keys: Any = OmegaConf.to_container(hydra.launcher, resolve=True)
        self.name, self.keys = str(hydra.runtime.choices["hydra/launcher"]), keys


def cluster_defaults(launcher: Launcher, overrides: list[str]) -> list[str]:
    """Return overrides for keys of a launcher whose own default would lose a run of permlab, which can go on."""
    if launcher.name != "submitit_slurm":
        return []
    limit = 60 * float(launcher.keys.get("timeout_min") or 60)
    wanted = {"max_num_timeout": REQUEUES, "signal_delay_s": int(min(NOTICE_SECONDS, limit / 4))}
    usual = {"max_num_timeout": 0, "signal_delay_s": NOTICE_SECONDS}
    return [
        f"hydra.launcher.{key}={value}"
        for key, value in wanted.items()
        if launcher.keys.get(key) == usual[key] != value
        and not any(each.lstrip("+").startswith(f"hydra.launcher.{key}=") for each in overrides)
    ]


@contextmanager
def patient(launcher: Launcher) -> Iterator[None]:
    """Have submitit wait for every job of a sweep, whatever becomes of the others; nothing for other launchers."""
    if not launcher.name.startswith("submitit"):
        yield
        return
    from hydra.core.utils import JobReturn, JobStatus
    from submitit.core.core import Job
    from submitit.slurm.slurm import SlurmInfoWatcher, SlurmJob

    class Watcher(SlurmInfoWatcher):
        """Asks squeue where there is no accounting."""

        accounts = True

        def update(self) -> None:
            """Look at the states of all jobs that have not ended."""
            waiting = sorted({each.split("_")[0] for each in self._registered - self._finished})
            if self.accounts and waiting:
                asked = subprocess.run(self._make_command() or [], capture_output=True, text=True)
                self.accounts = asked.returncode == 0
                if not self.accounts:
                    said = first_line(asked.stderr) if asked.stderr.strip() else "sacct failed"
                    console().print(f"no Slurm accounts ({said}): states come from squeue", markup=False)
            if not self.accounts and waiting:
                states = queued(waiting)
                if states is not None:
                    self._info_dict.update({each: {"State": states.get(each, "GONE")} for each in self._registered})
                self.note_ended()
                return
            super().update()

        def note_ended(self) -> None:
            """Note the time, and the jobs that have ended."""
            self._last_status_check = time.time()
            self._finished |= {each for each in self._registered if self.is_done(each, mode="cache")}

    def results(job: Any) -> list[Any]:
        """Wait for a job; how it ended stands in its note, also that it was lost."""
        job.wait()
        done = JobReturn()
        done.status = JobStatus.COMPLETED
        return [done]

    before = Job.results, SlurmJob.watcher
    setattr(Job, "results", results)  # noqa: B010  # a method, for the type checker
    SlurmJob.watcher = Watcher(delay_s=ASK_SECONDS)
    level = logging.getLogger("submitit").level
    logging.getLogger("submitit").setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.getLogger("submitit").setLevel(level)
        setattr(Job, "results", before[0])  # noqa: B010
        SlurmJob.watcher = before[1]


def queued(jobs: list[str]) -> dict[str, str] | None:
    """Return the state of every job and member of an array that Slurm has not forgotten, or None where it is silent."""
    asked = subprocess.run(["squeue", "-h", "-r", "-o", "%i|%T", "-j", ",".join(jobs)], capture_output=True, text=True)
    if asked.returncode and "Invalid job id" not in asked.stderr:
        return None
    return dict(line.split("|", 1) for line in asked.stdout.split() if "|" in line)
