"""Our training of the inverse-permutation probe against the published recipe: `python scripts/bench_probe.py`.

The published recipe (arXiv 2509.24125, released experiment: n = 10, batch 1024, gradient entries clipped to [-1, 1],
learning rate 1 with cosine decay over 2^17 steps, zero start) is implemented as written, in plain PyTorch with the
one-hot positions stored and multiplied, and timed on a few hundred steps. Ours is timed per step at the same batch of
1024 and then trained to a test error below 0.01. About three minutes on two cores.

`python scripts/bench_probe.py --sizes 32 64 128` measures instead what one step takes at larger n: arithmetic, seconds
of a processor and memory, and how many steps five minutes of two cores are. It takes seconds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
import time
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from permlab.probes import Layout, Recipe, Training, Transformer, sample
from permlab.probes.problem import heldout_batch, row_accuracy, squared_error

STEPS = 2**17
BATCH = 1024


class PublishedRecipe:
    """The dense network and plain gradient descent; `train(steps)` returns the seconds of every step."""

    def __init__(self, layout: Layout, seed: int) -> None:
        self.layout, self.generator, self.step = layout, torch.Generator().manual_seed(seed), 0
        width = layout.n + layout.length
        shapes = [(width, width), (2 * width, 2 * width), (4 * width, layout.n)]
        self.weights = [torch.zeros(shape, requires_grad=True) for shape in shapes]
        self.mask = torch.zeros(layout.length, layout.length).masked_fill(~layout.visible(), float("-inf"))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.cat([x, torch.eye(self.layout.length).expand(x.shape[0], -1, -1)], dim=2)
        for a in self.weights[:2]:
            attention = (h @ a @ h.transpose(1, 2) + self.mask).softmax(-1)
            h = torch.cat([h, attention @ h], dim=2)
        return h[:, self.layout.output_rows] @ self.weights[2]

    def train(self, steps: int) -> list[float]:
        seconds = []
        for _ in range(steps):
            started = time.perf_counter()
            x, y = sample(self.layout, BATCH, self.generator)
            grads = torch.autograd.grad(squared_error(self.forward(x), y), self.weights)
            rate = (1 + math.cos(math.pi * self.step / STEPS)) / 2
            with torch.no_grad():
                for weight, grad in zip(self.weights, grads):
                    weight -= rate * grad.clamp(-1, 1)
            self.step += 1
            seconds.append(time.perf_counter() - started)
        return seconds


def engine_seconds(layout: Layout, steps: int) -> float:
    """Median seconds of our step at the published batch, one seed."""
    training = Training(Transformer(layout), Recipe(batch=BATCH, test_examples=1), seeds=[0])
    seconds = []
    for _ in range(steps):
        started = time.perf_counter()
        training.train_step()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def measure(variant: str, steps: int, seeds: int) -> dict[str, float | str]:
    layout = Layout.variant(variant, n=10)
    published = PublishedRecipe(layout, seed=0)
    per_step = statistics.median(published.train(steps))
    x, y = heldout_batch(layout, 256, seed=0)
    with torch.no_grad():
        output = published.forward(x)
    engine = engine_seconds(layout, max(20, steps // 5))
    ours = Training(Transformer(layout), Recipe(), seeds=list(range(seeds)))
    last = ours.run()
    return {
        "variant": variant,
        "published_steps_per_s": 1 / per_step,
        "published_mse": float(squared_error(output, y)),
        "published_rows": float(row_accuracy(output, y)),
        "published_after_steps": published.step,
        "published_hours_in_full": per_step * STEPS / 3600,
        "our_steps_per_s_same_batch": 1 / engine,
        "step_ratio": per_step / engine,
        "our_steps": last.step,
        "our_steps_per_s": last.step / ours.seconds,
        "our_seconds": ours.seconds,
        "our_worst_mse": max(last.test_mse),
        "our_worst_rows": min(last.row_accuracy),
        "time_ratio_in_full": per_step * STEPS / ours.seconds,
    }


def size_row(n: int, batch: int, steps: int = 3) -> dict[str, float]:
    """What a training step of one seed with n scratch rows takes."""
    model = Transformer(Layout.variant("scratch", n=n))
    training = Training(model, Recipe(batch=batch, test_examples=1), seeds=[0])
    with FlopCounterMode(display=False) as counter:
        training.train_step()
    started = time.process_time()
    for _ in range(steps):
        training.train_step()
    seconds = (time.process_time() - started) / steps
    flops = float(counter.get_total_flops())
    return {
        "n": n,
        "batch": batch,
        "gflop": flops / 1e9,
        "cpu_seconds": seconds,
        "gflop_per_cpu_second": flops / 1e9 / seconds,
        "estimated_mib": model.memory_bytes(1, batch) / 2**20,
        "steps_in_five_minutes_of_two_cores": 600 / seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="steps of the published recipe")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of ours, trained as one computation")
    parser.add_argument("--variants", nargs="+", default=["no_mask", "scratch", "scratch_both"])
    parser.add_argument("--json", help="also write the numbers here")
    parser.add_argument("--sizes", nargs="+", type=int, help="measure a step at these n, and nothing else")
    parser.add_argument("--batches", nargs="+", type=int, default=[8, 32], help="with --sizes")
    args = parser.parse_args()
    limit = os.environ.get("OMP_NUM_THREADS", "")
    torch.set_num_threads(int(limit) if limit.isdigit() else len(os.sched_getaffinity(0)))
    rows: list[dict[str, Any]] = []
    for n, batch in itertools.product(args.sizes or [], args.batches):
        rows.append(size_row(n, batch))
        print("  ".join(f"{name} {value:.3g}" for name, value in rows[-1].items()), flush=True)
    for variant in [] if args.sizes else args.variants:
        row = measure(variant, args.steps, args.seeds)
        rows.append(row)
        print(
            f"{variant}: published recipe {row['published_steps_per_s']:.1f} steps/s "
            f"(error {row['published_mse']:.3f} after {row['published_after_steps']} steps; "
            f"all 2^17 would take {row['published_hours_in_full']:.1f} h)\n"
            f"  ours at its batch of {BATCH}: {row['our_steps_per_s_same_batch']:.1f} steps/s, "
            f"{row['step_ratio']:.1f} times as fast per step\n"
            f"  ours to test error < 0.01, {args.seeds} seeds at once: {row['our_seconds']:.1f} s, "
            f"{row['our_steps']} steps (worst seed: error {row['our_worst_mse']:.4f}, "
            f"rows right {row['our_worst_rows']:.4f}); "
            f"{row['time_ratio_in_full']:,.0f} times less than the published 2^17 steps",
            flush=True,
        )
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"threads": torch.get_num_threads(), "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
