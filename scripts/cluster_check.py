"""The same eight jobs through every launcher that is here, with the same numbers; then kills in the middle, on Slurm.

python scripts/cluster_check.py [--only slurm,joblib] [--folder DIR]

The jobs: three simulations of task=ntk, three trained probes, two tiny language models. `basic` runs them one after
another in this process and is what the others are compared with: joblib, submitit on this machine, a Slurm of its own
(`scripts/private_slurm.py`), and Ray; two launchers go at a time, as each mostly waits for its processes to start.
Then, alone, with Slurm, probes that are longer than their time limit, and one that is requeued by hand: one directory
per job, and the numbers of an undisturbed run.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from private_slurm import free_ports, missing, private_slurm
from tiny_runs import overrides

SWEEPS = {
    "ntk": [*("task=ntk", "task.k=[4,5]", "task.replicates=5", "tracker=none"), "seed=0,1,2"],
    "inverse_permutation": overrides("inverse_permutation", "seed=0,1,2"),
    "spt": overrides("spt", "seed=0,1"),
    # One job of two processes, and a search that asks for two jobs at a time.
    "processes": overrides("spt", "seed=0", "hardware.processes=2"),
    "search": [
        *(*overrides("spt"), "task.train.learning_rate=tag(log,interval(1e-4,1e-1))", "run.objective=-final_loss"),
        *("hydra/sweeper=optuna", "hydra.sweeper.trials=4", "hydra.sweeper.at_once=2"),
    ],
}
LAUNCHERS = {
    "basic": [],
    "joblib": ["hardware=joblib", "hardware.jobs=2"],
    "local": ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=20"],
    "slurm": ["hardware=slurm", "hardware.minutes=20", "hardware.cpus=1", "hardware.partition=main"],
    "ray": ["hardware=ray", "hardware.gpus=0.5", "+hydra.launcher.ray.init.runtime_env.env_vars.PERMLAB_MARK=here"],
}
ON_CPU = ["hardware.device=cpu", "hardware.dtype=float32", "hardware.threads=1"]
PARTS = {"search": "optuna"}
"""Sweep -> the package without which it is left out."""
MODULES = {"joblib": "joblib", "local": "submitit", "slurm": "submitit", "ray": "ray"}
LONG = [*("task=inverse_permutation", "task.n=6", "task.seeds=2", "task.target_mse=0", "tracker=none", "seed=0,1")]
LONG += ["hardware=cpu", "hardware.threads=1", "run.checkpoint_seconds=5"]
ADDRESS = "PERMLAB_RAY_ADDRESS"
CHANGING = ("seconds", "per_second", "rss")


def permlab(arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "permlab", "-m", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def jobs(root: Path) -> dict[str, dict[str, Any]]:
    """Return job -> its steady metrics, of the one sweep under a root.

    Raises:
        AssertionError: a job that is not done, or more directories than jobs.
    """
    (table,) = root.glob("sweeps/*/jobs.csv")
    rows = list(csv.DictReader(table.open()))
    assert all(row["status"] in ("done", "skipped") for row in rows), rows
    runs = [path for path in root.glob("*/*/config.yaml") if path.parents[1].name != "sweeps"]
    assert len(runs) == len(rows), f"{len(runs)} directories for {len(rows)} jobs"
    found = {}
    for row in rows:
        metrics = json.loads((Path(row["directory"]) / "result.json").read_text())["metrics"]
        found[row["job"]] = {k: v for k, v in metrics.items() if not any(word in k for word in CHANGING)}
    return found


def absent(launcher: str) -> str:
    """Return why a launcher cannot be tried here, or nothing."""
    name = MODULES.get(launcher)
    if name and (find_spec("hydra_plugins") is None or find_spec(f"hydra_plugins.hydra_{name}_launcher") is None):
        return f"hydra-{name}-launcher is not installed"
    return missing() if launcher == "slurm" else ""


def through(launcher: str, keys: list[str], environment: dict[str, str]) -> list[str]:
    """Return the keys of a sweep with those of its launcher, whose profile takes the place of hardware=cpu."""
    own = [*LAUNCHERS[launcher], *([f"hardware.address={environment[ADDRESS]}"] if launcher == "ray" else [])]
    if not any(each.startswith("hardware=") for each in own):
        return [*keys, *own]
    return [*(each for each in keys if each not in ("hardware=cpu", *ON_CPU)), *own, *ON_CPU]


@contextmanager
def private_ray() -> Iterator[dict[str, str]]:
    """Start a Ray cluster of this machine, with two cores and a GPU that nobody uses; yield what names it."""
    (port,) = free_ports(1)
    program = Path(sys.executable).with_name("ray")
    command = [str(program), "start", "--head", "--block", f"--port={port}", "--num-cpus=2", "--num-gpus=1"]
    # Ray starts workers at niceness 15.
    environment = {"RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    environment["RAY_AUTH_MODE"] = "disabled"  # it listens here only, and tokens are of a user's other clusters
    command += ["--include-dashboard=false", "--disable-usage-stats"]
    named, null = {**os.environ, **environment}, subprocess.DEVNULL
    head = subprocess.Popen(command, env=named, start_new_session=True, stdout=null, stderr=null)
    try:
        ends = time.monotonic() + 120
        while time.monotonic() < ends and not answers(port):
            time.sleep(0.5)
        yield {**os.environ, **environment, ADDRESS: f"127.0.0.1:{port}"}
    finally:
        head.terminate()
        try:
            head.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)


def answers(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def first_state(going: subprocess.Popen[bytes], cut: Path, pause: float) -> Path | None:
    """Wait for the first checkpoint of a sweep that runs, or for its end."""
    while going.poll() is None and not list(cut.glob("*/*/checkpoints/state-*.pt")):
        time.sleep(pause)
    return next(iter(cut.glob("*/*/checkpoints/state-*.pt")), None)


def resumed(going: subprocess.Popen[bytes], cut: Path, plain: Path, began: float) -> str:
    """Wait for a sweep that was cut off; say whether its jobs went on and have the numbers of an undisturbed one."""
    going.wait()
    starts = [path.read_text().count(" resuming ") for path in cut.glob("*/*/run.log")]
    if going.returncode or not any(starts):
        return f"exit {going.returncode}, {starts} times resumed"
    same = jobs(plain) == jobs(cut)
    told = f"{'same' if same else 'OTHER'} numbers, one directory per job, {starts} times resumed"
    return f"{told}, {time.monotonic() - began:.0f} s"


def killed(folder: Path, environment: dict[str, str], steps: int) -> str:
    """Kill a worker of Ray in the middle of its job: the job is started again and goes on in its directory."""
    plain, cut, began = folder / f"undisturbed-{steps}", folder / "killed", time.monotonic()
    long = [*LONG, f"task.train.steps={steps}"]
    if not plain.exists():
        permlab([*long, f"run.root={plain}"], environment)
    keys = [*through("ray", long, environment), f"run.root={cut}"]
    going = subprocess.Popen([sys.executable, "-m", "permlab", "-m", *keys], env=environment)
    first = first_state(going, cut, 0.5)
    if first is not None:
        holder = json.loads((first.parents[1] / "run.lock").read_text())
        os.kill(int(holder["pid"]), signal.SIGKILL)
    return resumed(going, cut, plain, began)


@dataclass
class Measured:
    """What came of all sweeps through a launcher: sweep -> its jobs with their metrics, seconds, and what failed."""

    launcher: str
    found: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    wrong: str = ""


def measured(launcher: str, folder: Path, environment: dict[str, str]) -> Measured:
    """Run all sweeps through a launcher, in the cluster that it needs."""
    done = Measured(launcher)
    clusters = {"slurm": private_slurm, "ray": private_ray}
    with clusters[launcher]() if launcher in clusters else nullcontext({}) as around:
        began = time.monotonic()
        for task, keys in SWEEPS.items():
            if task in PARTS and find_spec(PARTS[task]) is None:
                continue
            root, inside = folder / launcher / task, {**around, **environment}
            if not list(root.glob("sweeps/*/comparison.csv")):  # in a folder that is given, what ended is not run again
                ran = permlab([*through(launcher, keys, inside), f"run.root={root}"], inside)
                if ran.returncode:
                    done.wrong = f"{task}: exit {ran.returncode}: {(ran.stdout + ran.stderr)[-600:]}"
                    return done
            done.found[task] = jobs(root)
        done.seconds = time.monotonic() - began
    return done


def compared(done: Measured, expected: Measured) -> str:
    """Say whether the jobs of a launcher have the numbers of `basic`."""
    if done.wrong or expected.wrong:
        return done.wrong or "nothing to compare with: basic failed"
    for task, found in done.found.items():
        if found != expected.found[task]:
            return f"{task}: other numbers than basic: {found} and {expected.found[task]}"
    return f"same numbers in {sum(map(len, done.found.values()))} jobs, {done.seconds:.0f} s"


def steps_for(seconds: float) -> int:
    """Return how many training steps of `LONG` take so long on this machine as busy as it is now."""
    from permlab.probes import Layout, Recipe, Training, Transformer

    training = Training(Transformer(Layout.variant("scratch", n=6)), Recipe(target_mse=0), [0, 1])
    training.train_step()
    began = time.monotonic()
    for _ in range(20):
        training.train_step()
    return max(100, 10 * int(2 * seconds / (time.monotonic() - began)))


def disturbed(folder: Path, environment: dict[str, str], minutes: int, steps: int) -> str:
    """Run what is longer than its time limit on Slurm, requeue a job by hand; compare with an undisturbed sweep."""
    plain, cut, began = folder / f"undisturbed-{steps}", folder / "requeued", time.monotonic()
    long = [*LONG, f"task.train.steps={steps}"]
    aside = [] if absent("joblib") else LAUNCHERS["joblib"]
    done = None if plain.exists() else permlab([*long, *aside, f"run.root={plain}"], environment)
    if done is not None and done.returncode:
        return (done.stdout + done.stderr)[-600:]
    keys = ["hydra/launcher=submitit_slurm", f"hydra.launcher.timeout_min={minutes}", f"run.root={cut}"]
    going = subprocess.Popen([sys.executable, "-m", "permlab", "-m", *long, *keys], env=environment)
    first_state(going, cut, 1)
    subprocess.run(["scontrol", "requeue", "1_0"], env=environment)
    return resumed(going, cut, plain, began)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join([*LAUNCHERS, "requeue", "killed"]))
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--minutes", type=int, default=1, help="time limit of the jobs that are longer")
    parser.add_argument("--steps", type=int, help="training steps of these jobs; default: as many as take 50 seconds")
    chosen = parser.parse_args()
    folder = chosen.folder or Path(tempfile.mkdtemp(prefix="permlab-cluster-"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1"}
    told: dict[str, str] = {}
    names = ["basic", *(name for name in chosen.only.split(",") if name not in ("basic", "requeue", "killed"))]
    told |= {name: f"skipped: {absent(name)}" for name in names if absent(name)}
    with ThreadPoolExecutor(2) as pool:
        # The slowest begin: the two that go last are short.
        begun = {
            n: pool.submit(measured, n, folder, environment) for n in reversed(LAUNCHERS) if n in {*names} - {*told}
        }
        told |= {name: compared(each.result(), begun["basic"].result()) for name, each in begun.items()}
    for name in names:
        print(f"{name:8} {told[name]}", flush=True)
    if "requeue" in chosen.only:
        reason = absent("slurm")
        told["requeue"] = f"skipped: {reason}"
        if not reason:
            with private_slurm() as around:
                steps = chosen.steps or steps_for(50.0 * chosen.minutes)
                told["requeue"] = disturbed(folder, {**around, **environment}, chosen.minutes, steps)
        print(f"requeue  {told['requeue']}", flush=True)
    if "killed" in chosen.only:
        reason = absent("ray")
        told["killed"] = f"skipped: {reason}"
        if not reason:
            with private_ray() as around:
                steps = chosen.steps or steps_for(50.0 * chosen.minutes)
                told["killed"] = killed(folder, {**around, **environment}, steps)
        print(f"killed   {told['killed']}", flush=True)
    print(f"runs in {folder}")
    return 0 if all(text.startswith(("same", "skipped")) for text in told.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
