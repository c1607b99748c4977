"""Weight matching against the published loop, in one process: `python scripts/bench_merge.py`.

Trains two networks per architecture on the digits (about a minute in all; `--epochs 5` for a quick look), then
measures CPU seconds, final squared distance and peak memory of `permlab.matching.weight_matching` and of a
straightforward re-implementation of the published loop (every group in every sweep, products with an identity matrix,
stop at an absolute gain of 1e-12 in float32). A third run gives ours the loop's time to spend on further descents.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from permlab.data.images import ImageData, load_digits_images
from permlab.matching import weight_matching
from permlab.models.vision import build_vision_model
from permlab.symmetry import Spec, apply, axis_index, declare, squared_distance

NETWORKS = {
    "mlp-3x512": dict(name="mlp", width=512),
    "resnet20-x4": dict(name="resnet20", width=4),
}
EPOCHS = {"mlp-3x512": 20, "resnet20-x4": 3}
LIMITS = {"mlp-3x512": 0.5, "resnet20-x4": 2.0}
AIMS = {"mlp-3x512": 5, "resnet20-x4": 3}


def train(network: dict, data: ImageData, seed: int, epochs: int) -> tuple[dict[str, Tensor], Spec]:
    torch.manual_seed(seed)
    model = build_vision_model(shape=data.shape, classes=data.classes, **network)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(data.x_train)).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(model(data.x_train[rows]), data.y_train[rows]).backward()
            optimizer.step()
    return {name: value.detach().clone() for name, value in model.state_dict().items()}, declare(model)


def published_loop(spec: Spec, a: dict, b: dict, seed: int, max_sweeps: int = 300) -> tuple[dict, int]:
    """Git Re-Basin's algorithm 1 as the released ports run it, on plain channel groups; (permutation, assignments)."""
    permutation, solves = spec.identity(), 0
    generator = torch.Generator().manual_seed(seed)
    names = list(spec.groups)
    for _ in range(max_sweeps):
        progress = False
        for name in (names[i] for i in torch.randperm(len(names), generator=generator).tolist()):
            size = spec.groups[name].size
            cost = torch.zeros(size, size)
            for tensor, axis, _block in spec.members(name):
                if tensor in spec.statistics:
                    continue
                moved = b[tensor]
                for other, blocks in spec.axes[tensor].items():
                    if other != axis:
                        moved = moved.index_select(other, axis_index(spec, permutation, blocks, moved.shape[other]))
                left = a[tensor].movedim(axis, 0).reshape(size, -1)
                cost += left @ moved.movedim(axis, 0).reshape(size, -1).t()
            new = torch.from_numpy(linear_sum_assignment(cost.numpy(), maximize=True)[1])
            solves += 1
            before = torch.vdot(cost.flatten(), torch.eye(size)[permutation[name]].flatten())
            after = torch.vdot(cost.flatten(), torch.eye(size)[new].flatten())
            permutation[name] = new
            progress = progress or bool(after > before + 1e-12)
        if not progress:
            break
    return permutation, solves


def timed(run: Callable[[], object]) -> tuple[object, float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    return result, time.process_time() - cpu, time.perf_counter() - wall


def timed_pair(label: str, pair: int, a: dict, b: dict, spec: Spec, more: bool) -> dict:
    before = squared_distance(spec, a, b)
    (loop, solves), loop_cpu, _ = timed(lambda: published_loop(spec, a, b, pair))
    reached = squared_distance(spec, a, apply(spec, b, loop))
    # The loop computes no scores of slots either.
    ours, cpu, wall = timed(lambda: weight_matching(spec, a, b, seed=pair, keep_costs=False, keep_scores=False))
    return {
        "network": label,
        "pair": pair,
        "distance before": before,
        "loop distance": reached,
        "loop cpu s": loop_cpu,
        "loop solves": solves,
        "ours distance": ours.objective,
        "ours cpu s": cpu,
        "ours wall s": wall,
        "ours solves": ours.solves,
        "ratio": loop_cpu / cpu,
        "equal or better": ours.objective <= reached * (1 + 1e-6),
        **(restarted(pair, a, b, spec, loop_cpu) if more else {}),
    }


def restarted(pair: int, a: dict, b: dict, spec: Spec, seconds: float) -> dict:
    """What ours finds in as many CPU seconds as the loop took."""
    end = time.process_time() + seconds
    found, cpu, _ = timed(
        lambda: weight_matching(
            spec, a, b, seed=pair, restarts=99, keep_costs=False, should_stop=lambda: time.process_time() > end
        )
    )
    descents = 1 + int(max(step["restart"] for step in found.trace))
    return {"restarts": descents, "restarts distance": found.objective, "restarts cpu s": cpu}


def compare(label: str, data: ImageData, epochs: int, pairs: int, more: bool) -> list[dict]:
    rows = []
    for pair in range(pairs):
        (a, spec), (b, _) = (train(NETWORKS[label], data, 2 * pair + k, epochs) for k in (0, 1))
        rows.append(timed_pair(label, pair, a, b, spec, more))
    return rows


def memory(label: str) -> dict[str, float]:
    """Peak resident memory of a process that loads A and B and matches them, above one that only loads them."""
    peaks = {}
    for mode in ("load", "match"):
        command = [sys.executable, __file__, "--memory-child", mode, "--networks", label]
        peaks[mode] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    data = load_digits_images()
    model = build_vision_model(shape=data.shape, classes=data.classes, **NETWORKS[label])
    spec = declare(model)
    size = sum(value.numel() * value.element_size() for value in model.state_dict().values()) / 2**20
    cost = max(group.size for group in spec.groups.values()) ** 2 * 8 / 2**20
    return {
        "network": label,
        "model MiB": size,
        "one cost matrix MiB": cost,
        "above load MiB": peaks["match"] - peaks["load"],
    }


def memory_child(label: str, mode: str) -> None:
    states = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = build_vision_model(shape=(1, 8, 8), classes=10, **NETWORKS[label])
        states.append(model.state_dict())
    # Warm the libraries up on a small problem, so that their own buffers are not counted.
    small = build_vision_model("mlp", shape=(1, 8, 8), classes=10, width=64)
    weight_matching(declare(small), small.state_dict(), small.state_dict())
    if mode == "match":
        weight_matching(declare(model), *states, keep_costs=False)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--epochs", type=int, help="default: 20 for the mlp, 1 for the resnet")
    parser.add_argument("--once", action="store_true", help="no further descents in the time of the loop")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", help="also write the rows to this file")
    parser.add_argument("--memory-child", choices=["load", "match"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_child:
        memory_child(options.networks[0], options.memory_child)
        return
    torch.set_num_threads(options.threads)
    data = load_digits_images()
    rows, peaks = [], []
    for label in options.networks:
        rows += compare(label, data, options.epochs or EPOCHS[label], options.pairs, not options.once)
        peaks.append(memory(label))
    for row in rows:
        print(
            f"{row['network']} pair {row['pair']}: distance {row['distance before']:.1f} -> "
            f"loop {row['loop distance']:.2f} in {row['loop cpu s']:.2f} s ({row['loop solves']} solves), "
            f"ours {row['ours distance']:.2f} in {row['ours cpu s']:.2f} s ({row['ours solves']} solves): "
            f"ratio {row['ratio']:.1f}, {'equal or better' if row['equal or better'] else 'WORSE'}"
            + (
                f"; {row['restarts']} descents {row['restarts distance']:.2f} in {row['restarts cpu s']:.2f} s"
                if "restarts" in row
                else ""
            )
        )
    for label in options.networks:
        mine = [row for row in rows if row["network"] == label]
        ratio = sum(row["loop cpu s"] for row in mine) / sum(row["ours cpu s"] for row in mine)
        cpu = sum(row["ours cpu s"] for row in mine) / len(mine)
        above = sum(row["ours distance"] / row["loop distance"] - 1 for row in mine) / len(mine)
        print(
            f"{label}: mean {cpu:.2f} CPU s (aim {LIMITS[label]} s), ratio {ratio:.1f} (aim {AIMS[label]}), "
            f"objective {above:+.3%} against the loop's (aim at most +0.1%)"
        )
    for peak in peaks:
        total = 2 * peak["model MiB"] + peak["above load MiB"]
        bound = 3 * peak["model MiB"] + peak["one cost matrix MiB"]
        print(
            f"{peak['network']}: peak {total:.1f} MiB with both models, "
            f"bound {bound:.1f} MiB (3 x model + one cost matrix)"
        )
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"rows": rows, "memory": peaks}, file, indent=2)


if __name__ == "__main__":
    main()
