"""How long does a sweep of a thousand jobs take to compose and check? `python scripts/bench_sweep.py`, one minute.

Prints the processor seconds of `permlab -m` for all jobs, and what composing each of them with Hydra alone takes (every
so many jobs one is composed so, alternately with permlab's), with the ratio.
"""

from __future__ import annotations

import argparse
import time

from permlab.compose import compose_one, plan_jobs

KEYS = ["task=ntk", "tracker=none", "hardware=cpu"]


def spent(work: object) -> float:
    """Return the processor seconds of a call."""
    assert callable(work)
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--alone", type=int, default=50, help="jobs that Hydra composes alone")
    chosen = parser.parse_args()
    plan_jobs(KEYS, False)  # imports and the caches of Hydra
    keys = [*KEYS, f"seed=range(0,{chosen.jobs})"]
    planned = [spent(lambda: plan_jobs(keys, True))]
    alone = [spent(lambda seed=seed: compose_one([*KEYS, f"seed={seed}"])) for seed in range(chosen.alone)]
    planned.append(spent(lambda: plan_jobs(keys, True)))
    ours, theirs = min(planned), sum(alone) / len(alone) * chosen.jobs
    print(f"{chosen.jobs} jobs: composed and checked in {ours:.1f} CPU s; Hydra's compose of each alone {theirs:.1f} s")
    print(f"ratio {theirs / ours:.1f}")


if __name__ == "__main__":
    main()
