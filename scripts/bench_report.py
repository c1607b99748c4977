"""Seconds that `permlab task=report` takes on synthetic runs of every task: python scripts/bench_report.py [runs]

Prints the seconds of the whole command, the size of the page and what the report found. A tenth of the runs is failed,
interrupted, half-written or corrupt.
"""

from __future__ import annotations

import csv
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

Row = dict[str, Any]
TASKS = ("spt", "inverse_permutation", "ntk", "merge", "lora_lego")
BROKEN = ("failed", "interrupted", "empty", "no result", "torn result", "no config", "torn config", "torn table")


def main() -> None:
    """Write the runs, report them, print the seconds."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "outputs"
        make_runs(root, count)
        report = Path(folder) / "report"
        command = [sys.executable, "-m", "permlab", "task=report", f"report.runs=[{root}]", f"run.dir={report}"]
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
        seconds = time.perf_counter() - started
        if done.returncode:
            sys.exit(done.stdout + done.stderr)
        metrics = json.loads((report / "result.json").read_text())["metrics"]
        size = (report / "index.html").stat().st_size / 2**20
        print(f"{count} run directories: {seconds:.1f} s, page of {size:.1f} MiB, {metrics}")


def make_runs(root: Path, count: int) -> None:
    """Write `count` run directories: every task, ten configurations each, as many seeds as it takes."""
    drawing = draw()
    for number in range(count):
        task = TASKS[number % len(TASKS)]
        arm, seed = number // len(TASKS) % 10, number // len(TASKS) // 10
        path = (
            root
            / task
            / f"20260101-{number // 3600:02d}{number // 60 % 60:02d}{number % 60:02d}-{number:06d}-{number:04x}"
        )
        path.mkdir(parents=True)
        broken = BROKEN[number // 10 % len(BROKEN)] if number % 10 == 9 else ""
        if broken != "empty":
            make_run(path, task, arm, seed, drawing, broken)


def make_run(path: Path, task: str, arm: int, seed: int, drawing: dict[str, bytes], broken: str = "") -> None:
    """Write one run directory; `broken` leaves something out or cuts it."""
    chance = random.Random(f"{task} {arm} {seed}")
    config, metrics = configuration(task, arm, seed), numbers(task, arm, chance)
    status = broken if broken in ("failed", "interrupted") else "done"
    result = {"task": task, "status": status, "metrics": metrics, "artifacts": [], "seconds": 60.0 + seed, "seed": seed}
    result |= {"peak_rss_mb": 500.0, "name": None, "version": "0.1.0"}
    if status == "failed":
        result["error"] = "ValueError: a loss that is not a number"
    texts = {
        "result.json": json.dumps(result, indent=2),
        "config.yaml": json.dumps(config),
        "environment.json": json.dumps({"python": "3.11.7", "packages": {"torch": "2.13.0"}, "cpu": "c", "seed": seed}),
        "metrics.jsonl": "".join(json.dumps({"step": s, "loss": 4 / (1 + s / 50)}) + "\n" for s in range(0, 2000, 10)),
        "run.log": "started\n",
    }
    for name, text in texts.items():
        if broken == f"no {name.split('.')[0]}":
            continue
        (path / name).write_text(text[: len(text) // 2] if broken == f"torn {name.split('.')[0]}" else text)
    for name, rows in tables(task, arm, chance).items():
        write(path / "tables" / f"{name}.csv", rows, torn=broken == "torn table")
    for kind, data in drawing.items():
        (path / "figures").mkdir(exist_ok=True)
        (path / "figures" / f"{FIGURE[task]}.{kind}").write_bytes(data)


FIGURE = {
    "spt": "recall",
    "inverse_permutation": "attention_scratch",
    "ntk": "n_against_k",
    "merge": "arms",
    "lora_lego": "methods_independent_3",
}


def configuration(task: str, arm: int, seed: int) -> Row:
    """A configuration with an experiment section; `arm` is what it sweeps over."""
    own = {
        "spt": {"order": f"order{arm}"},
        "inverse_permutation": {"mode": "train", "seeds": 3, "n": 4 + arm},
        "ntk": {"mode": "law", "test": "random", "k": [5, 10], "target": 0.5 + arm / 20},
        "merge": {"study": "merge", "match": f"match{arm}", "pairs": 1},
        "lora_lego": {"study": "merge", "method": "lego", "repeats": 1, "rank": 1 + arm},
    }[task]
    key = next(key for key in reversed(own) if key not in ("seeds", "pairs", "repeats", "k"))
    return {
        "task": {"name": task, **own},
        "model": {"name": "none", "kind": "none"},
        "dataset": {"name": "none", "kind": "none"},
        "hardware": {"name": "auto", "device": "cpu", "dtype": "auto", "threads": 1, "workers": 0},
        "run": {"root": "outputs", "sweep": None},
        "experiment": {
            "name": f"{task}/synthetic",
            "claim": f"A claim about {task}.",
            "source": "synthetic",
            "checks": [f"mean(score) >= 0.4 where task.{key}={own[key]}", "mean(score) > 2 -- never"],
            "scale": "paper",
            "sweep": {f"task.{key}": "0,1,2,3,4,5,6,7,8,9"},
        },
        "seed": seed,
    }


def numbers(task: str, arm: int, chance: random.Random) -> Row:
    """Flat metrics of one run."""
    score = 0.5 + arm / 100 + chance.gauss(0, 0.02)
    named = {"spt": ("forward_accuracy", "reverse_accuracy"), "ntk": ("ensemble_size",), "merge": ("loss_barrier",)}
    return {"score": score, **{name: score for name in named.get(task, ("test_mse", "average_score"))}}


def tables(task: str, arm: int, chance: random.Random) -> dict[str, list[Row]]:
    """The tables that the section of a task reads."""
    if task == "spt":
        asked = [
            {"wording": "trained", "direction": d, "group": "both", "asked": "name"} for d in ("forward", "reverse")
        ]
        recall = [{**row, "accuracy": chance.random(), "bleu": None, "queries": 100} for row in asked]
        return {"recall": recall, "units_histogram": [{"units": u, "texts": 100 - u} for u in range(1, 9)]}
    if task == "inverse_permutation":
        arms = ("scratch", "causal")
        curves = [
            {"arm": a, "seed": s, "step": t, "test_mse": math.exp(-t / 100), "row_accuracy": 0.5}
            for a in arms
            for s in range(3)
            for t in range(0, 600, 25)
        ]
        return {"curves": curves, "arms": [{"arm": a, "test_mse": 0.1, "mse_floor": 0.05} for a in arms]}
    if task == "ntk":
        sizes = [{"k": k, "ones": 2, "ensemble_size": 6 * k, "low": 4 * k, "high": 8 * k} for k in (5, 10, 20)]
        return {"ensemble_size": sizes, "fits": [{"ones": 2, "shape": "k log k", "rms_log_residual": 0.1}]}
    if task == "merge":
        points = [
            {"pair": 0, "arm": a, "set": "test", "position": p / 10, "loss": 1 + p * (10 - p) / 25, "accuracy": 0.9}
            for a in ("no permutation", "weight matching")
            for p in range(11)
        ]
        arms = [{"pair": 0, "seed": 0, "arm": a, "loss_barrier": 0.1 * arm} for a in ("weight matching", "ZipIt")]
        return {"curves": points, "arms": arms}
    scores = [
        {"seed": 0, "regime": "shared", "adapters": 3, "method": m, "family": m, "scale_rule": "tuned", "score": 0.5}
        for m in ("lego", "ties", "svd")
    ]
    return {"scores": scores, "diagnostics": [{"regime": "shared", "adapters": 3, "k": 4, "mixed_share": 0.1}]}


def write(path: Path, rows: list[Row], torn: bool) -> None:
    """Write a CSV; a torn one ends in the middle, after bytes that are no text."""
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    if torn:
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2] + b"\xff\xfe,")


def draw() -> dict[str, bytes]:
    """One drawing of common size, as PNG and SVG."""
    import io

    from permlab import figures

    drawn = {}
    for kind in ("png", "svg"):
        figure, ax = figures.new(width=2)
        for line in range(5):
            ax.plot([math.sin(x / 9 + line) for x in range(200)])
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=160)
        drawn[kind] = buffer.getvalue()
        import matplotlib.pyplot as plt

        plt.close(figure)
    return drawn


if __name__ == "__main__":
    main()
