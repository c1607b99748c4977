"""How good are the estimates of memory and time that a dry run shows? Runs of every task, measured.

    python scripts/bench_memory.py [--only spt,ntk]      # five minutes on two cores
    python scripts/bench_memory.py --times               # the estimated minutes of the experiments beside theirs

For each: bytes estimated and the peak resident memory of the run, as a whole and beside the libraries, and seconds.
Exit code 1 where a whole estimate is more than 25 % off.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from permlab.errors import UserError

TEXTS = ("task=spt", "dataset.people=40", "dataset.templates=2", "dataset.held_out=1", "task.evaluation.limit=4")
BLOCKS = ("model.scratch.hidden_size=768", "model.scratch.layers=8", "model.scratch.heads=12")
WIDE = (*BLOCKS, "model.scratch.kv_heads=12", "model.scratch.intermediate_size=2048")
CASES: dict[str, tuple[str, ...]] = {
    "spt, wide": (*TEXTS, *WIDE, "task.train.epochs=1", "task.train.batch_size=32"),
    "spt, adapters": (*TEXTS, *WIDE, "task.train.epochs=1", "task.train.batch_size=64", "model.lora.rank=16"),
    "spt, many texts a step": (
        *TEXTS, "dataset.people=256", "task.train.epochs=2", "task.train.batch_size=512",
        "model.scratch.hidden_size=256", "model.scratch.layers=6", "model.scratch.intermediate_size=1024",
    ),
    "probe": (
        "task=inverse_permutation", "task.n=32", "task.train.steps=4", "task.train.test_examples=128",
        "task.train.test_every=2", "task.train.batch=64",
    ),
    "ntk": (
        "task=ntk", "task.mode=train", "task.k=[12]", "task.ones=[2]", "task.width=[50000]", "task.members=100",
        "task.replicates=5",
    ),
    "merge": ("task=merge", "model.width=2048", "task.train.epochs=1", "task.points=3"),
    "lora_lego": (
        "task=lora_lego", "task.train.base_steps=3", "task.train.adapter_steps=3", "task.counts=[2]",
        "task.scales=[1.0]", "task.sweep=[1.0]", "task.train.base_batch=64", "model.scratch.hidden_size=512",
        "model.scratch.layers=6", "model.scratch.heads=8", "model.scratch.kv_heads=8",
        "model.scratch.intermediate_size=1024",
    ),
}  # fmt: skip
COMMON = ("tracker=none", "hardware=cpu", "hardware.threads=1")


def estimated(case: str) -> tuple[float, float, str]:
    """Return MiB in all, MiB of libraries, and the time in words."""
    from permlab import registry
    from permlab.compose import plan_jobs
    from permlab.footprint import duration

    config = plan_jobs([*CASES[case], *COMMON], False).jobs[0].config
    need = registry.task(config.task.name).footprint(config)
    return (need.peak + need.libraries) / 2**20, need.libraries / 2**20, duration(need, config.hardware)


def measured(case: str) -> tuple[float, float]:
    """Return the peak resident MiB of the run, and its seconds."""
    with tempfile.TemporaryDirectory(prefix="permlab-memory-") as root:
        command = [sys.executable, "-m", "permlab", *CASES[case], *COMMON, f"run.root={root}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
        subprocess.run(command, env=environment, check=True, capture_output=True)
        (path,) = Path(root).glob("*/*/result.json")
        result = json.loads(path.read_text())
    return result["peak_rss_mb"], result["seconds"]


def times(gmacs: float) -> None:
    """Print the minutes that a dry run would say of every experiment, and those that it took.

    Args:
        gmacs: speed of large products, in 10^9 multiply-accumulates a second.
    """
    from permlab import registry, shipped
    from permlab.compose import plan_jobs
    from permlab.footprint import seconds_of

    ratios = []
    for name in shipped.names("experiment"):
        try:
            plan = plan_jobs([f"experiment={name}", *COMMON], False)
        except UserError:  # its data are not here
            continue
        needs = [registry.task(job.config.task.name).footprint(job.config) for job in plan.jobs]
        took = plan.jobs[0].config.experiment.minutes
        if not took or any(need is None or need.macs is None for need in needs):
            continue
        guess = sum(seconds_of(need, 1e9 * gmacs) for need in needs if need) / 60
        ratios.append(guess / took)
        print(f"{name:36} {guess:6.1f} of {took:g} min, {ratios[-1]:5.2f}")
    near = sum(0.5 <= ratio <= 2 for ratio in ratios)
    print(f"{near} of {len(ratios)} within a factor of two, at {gmacs:g} x 10^9 multiply-accumulates a second")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", action="store_true", help="minutes of the experiments in place of memory")
    parser.add_argument("--gmacs", type=float, default=60, help="speed that --times takes, 10^9 a second")
    parser.add_argument("--only", default="", help="cases whose names begin so, with commas")
    given = parser.parse_args()
    if given.times:
        times(given.gmacs)
        return 0
    chosen = tuple(given.only.split(","))
    worst = 0.0
    print(f"{'case':24} {'estimated':>9} {'measured':>9} {'ratio':>6} {'beside libraries':>17}  seconds, estimate")
    for case in CASES:
        if not case.startswith(chosen):
            continue
        guess, libraries, time = estimated(case)
        peak, seconds = measured(case)
        worst = max(worst, abs(guess / peak - 1))
        beside = f"{guess - libraries:,.0f} of {peak - libraries:,.0f}"
        print(
            f"{case:24} {guess:9,.0f} {peak:9,.0f} {guess / peak:6.2f} {beside:>17}  {seconds:.0f}, {time}", flush=True
        )
    return 1 if worst > 0.25 else 0


if __name__ == "__main__":
    sys.exit(main())
