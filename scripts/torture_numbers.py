"""Losses that diverge, systems without one solution, and runs that must repeat: every task, many times.

python scripts/torture_numbers.py [--tries 5] [--repeats 2] [--seed 0]

- diverging: a learning rate of 1e3 to 1e30, and a loss that is NaN at a step drawn at random: the run fails with
  exit 1 and one line with step, loss, last good checkpoint and remedy; its files are strict JSON without NaN, its
  checkpoints hold finite numbers, and resuming it ends in the same line.
- ambiguous: dead and doubled units, singular Gram matrices, fewer points than clusters: listed in result.json.
- repeated: the same seed after other tasks in one process, and in a new process with another PYTHONHASHSEED, gives
  equal metrics and tables.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import tiny_runs
from tally import Tally

TIMES = re.compile(r"seconds|per_second|rss|duration")
"""Numbers that differ between equal runs."""
LINE = re.compile(
    r"training diverged: .*(step|epoch) (?P<step>\d+).*; "
    r"(the last good checkpoint is (?P<kept>\S+)|there is no checkpoint from before); lower \w*rate="
)


def strict(text: str) -> Any:
    """Read JSON as strict readers do: NaN and Infinity are errors."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def only_run(root: Path) -> Path:
    (path,) = root.glob("*/*/result.json")
    return path.parent


# ---- diverging -------------------------------------------------------------------------------------------------------


def check_diverged(root: Path, code: int, step: int | None = None) -> str:
    """Return what is wrong with a run that had to diverge; empty when nothing is."""
    run = only_run(root)
    result = strict((run / "result.json").read_text())
    error = result.get("error", "")
    found = LINE.search(error)
    if code != 1 or result["status"] != "failed" or found is None or len(error) > 300 or "\n" in error:
        return f"exit {code}, {result['status']}: {error!r}"
    if step is not None and int(found["step"]) != step:
        return f"NaN at step {step}, but: {error!r}"
    if found["kept"] and not (run / found["kept"]).exists():
        return f"there is no {found['kept']}"
    for line in (run / "metrics.jsonl").read_text().splitlines():
        if None in strict(line).values():
            return f"metrics.jsonl: {line}"
    if "Traceback" in (run / "run.log").read_text():
        return "traceback in run.log"
    return finite_checkpoints(run)


def finite_checkpoints(run: Path) -> str:
    """Return the name of a checkpoint with a NaN, or nothing."""
    import torch
    from safetensors.torch import load_file

    for path in [*run.rglob("*.pt"), *run.rglob("*.safetensors")]:
        if path.suffix == ".safetensors":
            values: Any = load_file(path)
        else:
            values = torch.load(path, map_location="cpu", weights_only=False)
        if not all(bool(each.isfinite().all()) for each in tensors_of(values)):
            return f"{path.relative_to(run)} holds numbers that are not finite"
    return ""


def tensors_of(value: Any) -> Iterator[Any]:
    if hasattr(value, "isfinite") and value.is_floating_point():
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors_of(item)


@contextlib.contextmanager
def nan_at(task: str, step: int) -> Iterator[None]:
    """Make the loss of one training step NaN (the steps are counted from 1)."""
    from permlab.adapters import training as lora
    from permlab.merging.networks import endpoints
    from permlab.probes import lengths as probe
    from permlab.state_tracking import training as tracking
    from permlab.text import training as text

    calls = 0

    def spoiled(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            loss = function(*arguments, **options)
            if not loss.requires_grad and task != "spt":
                return loss
            calls += 1
            return loss * float("nan") if calls == step else loss

        return call

    places: dict[str, tuple[Any, str]] = {
        "spt": (text.OrderedTrainer.__mro__[1], "training_step"),
        "inverse_permutation": (probe, "squared_error"),
        "merge": (endpoints.functional, "cross_entropy"),
        "lora_lego": (lora.nn.functional, "cross_entropy"),
        "state_tracking": (tracking.nn.functional, "cross_entropy"),
    }
    where, name = places[task]
    with mock.patch.object(where, name, spoiled(getattr(where, name))):
        yield


def diverge(tally: Tally, task: str, tries: int, draws: random.Random, root: Path) -> None:
    for number in range(tries):
        exponent = draws.choice((3, 6, 12, 30)) if task != "merge" else draws.choice((12, 30))
        if task in ("lora_lego", "state_tracking"):
            exponent = 30  # their gradients are clipped: a smaller rate only keeps them from learning
        place = root / f"{task}-rate-{number}"
        rate = f"{tiny_runs.RATE[task]}=1e{exponent}"
        more = ("task.train.optimizer=sgd",) if task == "merge" else ()
        code = run(task, rate, *more, "run.checkpoint_steps=1", f"run.root={place}")
        wrong = check_diverged(place, code) or resumed_again(place)
        tally.add(f"{task}: learning rate too large", not wrong, f"{rate}: {wrong}")
        if task == "ntk":
            continue
        step = draws.randint(1, 10)
        place = root / f"{task}-nan-{number}"
        with nan_at(task, step):
            code = run(task, "run.checkpoint_steps=1", f"run.root={place}")
        wrong = check_diverged(place, code, step)
        tally.add(f"{task}: NaN at a random step", not wrong, f"step {step}: {wrong}")


def resumed_again(root: Path) -> str:
    """Resume a diverged run: the same line again."""
    run_directory = only_run(root)
    before = strict((run_directory / "result.json").read_text())["error"]
    with tiny_runs.silent():
        code = tiny_runs.permlab("resume", str(run_directory))
    after = strict((run_directory / "result.json").read_text())["error"]
    steps = [LINE.search(text) for text in (before, after)]
    if code != 1 or steps[1] is None or steps[0]["step"] != steps[1]["step"]:
        return f"resumed: exit {code}: {after!r}, before: {before!r}"
    return ""


def run(task: str, *more: str) -> int:
    with tiny_runs.silent():
        return tiny_runs.permlab(*tiny_runs.overrides(task, *more))


# ---- ambiguous -------------------------------------------------------------------------------------------------------


def ambiguous() -> dict[str, tuple[Callable[[], Any], str]]:
    """Return fault -> (library call, what must be warned about)."""
    import torch

    from permlab.adapters.kmeans import kmeans
    from permlab.matching import activation_matching, weight_matching
    from permlab.merging.methods.regmean import regmean
    from permlab.models.vision import build_vision_model
    from permlab.symmetry import declare

    torch.manual_seed(0)
    model = build_vision_model("mlp", shape=(1, 4, 4), classes=3, width=6)
    spec = declare(model)
    states = [{name: torch.randn_like(value) for name, value in model.state_dict().items()} for _ in range(2)]
    images = torch.rand(40, 1, 4, 4)
    dead = [{name: value.clone() for name, value in state.items()} for state in states]
    first_weight, first_bias = list(states[0])[:2]
    for state in dead:
        state[first_weight][:3], state[first_bias][:3] = 0, -1
    doubled = [{name: value.clone() for name, value in state.items()} for state in states]
    for state in doubled:
        for value in state.values():
            if value.ndim == 2 and value.shape[1] == 6:
                value[:, 1] = value[:, 0]
        state[first_weight][1], state[first_bias][1] = state[first_weight][0], state[first_bias][0]
    black = images.clone()
    black[:, :, 0] = 0
    points = torch.ones(1, 5, 2, dtype=torch.float64)
    return {
        "dead units, activation matching": (lambda: activation_matching(spec, model, dead, [images]), "look alike"),
        "doubled units, weight matching": (lambda: weight_matching(spec, doubled[0], doubled[1]), "look alike"),
        "singular Gram matrix, RegMean": (lambda: regmean(spec, model, states, [[black], [black]]), "singular"),
        "fewer points than clusters": (lambda: kmeans(points @ points.mT, 3, [0]), "distinct points"),
    }


def warned(call: Callable[[], Any], words: str) -> str:
    """Return what is wrong with the warnings of a call within a run; empty when nothing is."""
    from permlab.runs.execute import cautions_of

    class Listener:
        def __init__(self) -> None:
            self.heard: list[str] = []

        def warn(self, message: str) -> None:
            self.heard.append(message)

    listener: Any = Listener()
    with cautions_of(listener):
        call()
    return "" if any(words in text for text in listener.heard) else f"warned: {listener.heard}"


# ---- repeated --------------------------------------------------------------------------------------------------------


def numbers(root: Path) -> dict[str, Any]:
    """Return metrics, logged lines and tables of the only run of a folder, without what the clock decides."""
    return numbers_of(only_run(root))


def numbers_of(path: Path) -> dict[str, Any]:
    """The same of one run directory."""
    import csv

    result = strict((path / "result.json").read_text())
    found: dict[str, Any] = {"status": result["status"], "metrics": untimed(result["metrics"])}
    found["log"] = [untimed(strict(line)) for line in (path / "metrics.jsonl").read_text().splitlines()]
    for table in sorted((path / "tables").glob("*.csv")):
        with table.open(newline="") as file:
            found[table.name] = [untimed(row) for row in csv.DictReader(file)]
    return found


def untimed(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if not TIMES.search(key)}


def repeat(tally: Tally, task: str, seed: int, root: Path, hash_seeds: tuple[int, ...]) -> None:
    """The first run of a task; again in this process, where the other tasks ran before; again in new processes."""
    again = f"seed={seed}"
    for name in ("first", "second"):
        run(task, again, f"run.root={root / name}")
    first, second = numbers(root / "first"), numbers(root / "second")
    fine = first["status"] == "done" and first == second
    tally.add(f"{task}: again after other tasks", fine, difference(first, second))
    for hash_seed in hash_seeds:
        place = root / f"hash-{hash_seed}"
        command = [sys.executable, "-m", "permlab", *tiny_runs.overrides(task, again, f"run.root={place}")]
        environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
        subprocess.run(command, env=environment, capture_output=True, timeout=600, check=False)
        other = numbers(place)
        tally.add(f"{task}: new process, other PYTHONHASHSEED", first == other, difference(first, other))


def difference(one: dict[str, Any], two: dict[str, Any]) -> str:
    """Name what differs first."""
    for key in one:
        if one[key] != two.get(key):
            return f"{key}: {str(one[key])[:150]} or {str(two.get(key))[:150]}"
    return "nothing"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=2, help="seeds that are run again")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started, draws, tally = time.monotonic(), random.Random(arguments.seed), Tally("numbers")
    with tempfile.TemporaryDirectory(prefix="permlab-numbers-") as folder:
        root = Path(folder)
        for task in tiny_runs.TINY:
            diverge(tally, task, arguments.tries, draws, root / "diverging")
        for fault, (call, words) in ambiguous().items():
            wrong = warned(call, words)
            tally.add(fault, not wrong, wrong)
        for number in range(arguments.repeats):
            for task in tiny_runs.TINY:
                repeat(tally, task, arguments.seed + number, root / f"repeat-{number}" / task, (1, 2))
    code = tally.report()
    print(f"seed {arguments.seed}, {time.monotonic() - started:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main())
