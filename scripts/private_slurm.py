"""A Slurm of one's own on this machine, for tests: `with private_slurm() as environment: ...`.

python scripts/private_slurm.py sinfo      # starts one, runs the command in it, ends it

One node with two cores, no accounting, and ten seconds in place of two minutes before a requeued job starts again;
its own ports, keys, state and logs in a folder under /tmp. Needs root and Debian's slurm-wlm and munge (22.05).
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol")
START_SECONDS = 60

CONFIGURATION = """ClusterName=permlab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=10
CredType=cred/munge
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=5,sched_min_interval=1000000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=5
JobRequeue=1
MinJobAge=300
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=9
"""


def missing() -> str:
    """Return why no Slurm can be started here, or nothing."""
    absent = [name for name in PROGRAMS if not where(name)]
    if absent:
        return f"{', '.join(absent)} not installed (Debian: apt-get install slurm-wlm munge)"
    return "" if os.geteuid() == 0 else "only root can start slurmd"


def where(program: str) -> str | None:
    """Return the path of a program, also of one that only root has on its path."""
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def free_ports(count: int) -> list[int]:
    """Return ports that nothing listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@contextmanager
def private_slurm(keep: bool = False) -> Iterator[dict[str, str]]:
    """Start munged, slurmctld and slurmd, yield the environment that their clients need, and end them by their pids.

    Raises:
        RuntimeError: it cannot be started, with the end of its logs.
    """
    if missing():
        raise RuntimeError(missing())
    folder = Path(tempfile.mkdtemp(prefix="permlab-slurm-", dir="/tmp"))
    folder.chmod(0o755)  # munged goes by another user, and insists on what others may write to
    host = socket.gethostname().split(".")[0]
    (folder / "slurm.conf").write_text(CONFIGURATION.format(host=host, ports=free_ports(2), folder=folder))
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir(mode=0o755)
    (folder / "munge" / "key").write_bytes(os.urandom(128))
    (folder / "munge" / "key").chmod(0o600)
    for path in (folder / "munge", folder / "munge" / "key"):
        shutil.chown(path, "munge", "munge")
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    try:
        munge = [f"--{name}={folder}/munge/{file}" for name, file in MUNGE_FILES.items()]
        start(["runuser", "-u", "munge", "--", str(where("munged")), *munge], environment)
        start([str(where("slurmctld"))], environment)
        start([str(where("slurmd")), "-N", host], environment)
        wait_idle(folder, environment)
        yield environment
    finally:
        end_jobs(environment)
        for name in ("slurmd.pid", "slurmctld.pid", "munge/pid"):
            end(folder / name)
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


MUNGE_FILES = {
    "key-file": "key",
    "socket": "socket",
    "pid-file": "pid",
    "log-file": "log",
    "seed-file": "seed",
}


def start(command: list[str], environment: dict[str, str]) -> None:
    """Start a daemon, which goes into the background by itself.

    Raises:
        RuntimeError: with what it said.
    """
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=START_SECONDS)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {(done.stdout + done.stderr).strip()[-400:]}")


def wait_idle(folder: Path, environment: dict[str, str]) -> None:
    """Wait until the node takes jobs.

    Raises:
        RuntimeError: it does not, with the end of both logs.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        done = subprocess.run(["sinfo", "-h", "-o", "%t"], env=environment, capture_output=True, text=True)
        if "idle" in done.stdout:
            return
        time.sleep(0.5)
    logs = [(folder / name).read_text()[-800:] for name in ("slurmctld.log", "slurmd.log") if (folder / name).exists()]
    raise RuntimeError("slurm did not become idle:\n" + "\n".join(logs))


def end_jobs(environment: dict[str, str]) -> None:
    """Cancel what still runs, so that no step outlives its daemon."""
    with suppress(OSError, subprocess.SubprocessError):
        subprocess.run(["scancel", "--user=root"], env=environment, capture_output=True, timeout=20)
        for _ in range(30):
            left = subprocess.run(["squeue", "-h"], env=environment, capture_output=True, text=True, timeout=20)
            if not left.stdout.strip():
                return
            time.sleep(1)


def end(pid_file: Path) -> None:
    """End the daemon of a pid file and wait until it is gone."""
    with suppress(OSError, ValueError):
        pid = int(pid_file.read_text())
        os.kill(pid, signal.SIGTERM)
        for _ in range(100):
            time.sleep(0.1)
            os.kill(pid, 0)
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the daemons are ended in any case
    with private_slurm() as around:
        code = subprocess.run(sys.argv[1:] or ["sinfo"], env=around).returncode
    sys.exit(code)
