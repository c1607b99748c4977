"""Run directories made by hand: `write_run(root, "spt", seed=0, metrics={"reverse_accuracy": 0.9})`."""

from __future__ import annotations

import csv
import importlib.util
import itertools
import json
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
_numbers = itertools.count(1)


def benchmark():
    """The module scripts/bench_report.py, which makes 500 run directories of all tasks."""
    spec = importlib.util.spec_from_file_location("bench_report", ROOT / "scripts" / "bench_report.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_run(
    root,
    task="toy",
    seed=0,
    metrics=None,
    keys=None,
    experiment=None,
    status="done",
    error=None,
    seconds=60.0,
    tables=None,
    sweep=None,
    name=None,
    hardware=None,
    directory=None,
):
    """Write one run directory as a run leaves it, and return its path; later calls are later runs."""
    number = next(_numbers)
    path = directory or Path(root) / task / f"20260101-000000-{number:06d}-{number % 65536:04x}"
    path.mkdir(parents=True)
    config = {
        "task": {"name": task, **(keys or {})},
        "model": {"name": "none", "kind": "none"},
        "dataset": {"name": "none", "kind": "none"},
        "hardware": {"name": "auto", "device": "cpu", "dtype": "auto", "threads": 1, "workers": 0, **(hardware or {})},
        "tracker": {"name": "none"},
        "run": {"root": str(root), "sweep": sweep, "name": name},
        "experiment": experiment or {"name": None},
        "seed": seed,
    }
    result = {"task": task, "status": status, "metrics": metrics or {}, "seconds": seconds, "seed": seed, "name": name}
    if error:
        result["error"] = error
    (path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (path / "result.json").write_text(json.dumps(result))
    (path / "environment.json").write_text(
        json.dumps({"python": "3.11", "cpu": "c", "argv": ["permlab"], "seed": seed})
    )
    (path / "run.log").write_text("started\n")
    (path / "metrics.jsonl").write_text("")
    for table, rows in (tables or {}).items():
        write_table(path, table, rows)
    return path


def write_table(path, name, rows):
    """Write tables/<name>.csv of a run."""
    file = path / "tables" / f"{name}.csv"
    file.parent.mkdir(exist_ok=True)
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
