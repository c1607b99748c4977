"""Kill runs and sweeps everywhere and compare what they end with to runs that nobody disturbed.

    python scripts/torture_kill.py                               # every task 20 times, and signals; prints the table
    python scripts/torture_kill.py --only spt --fault event:17   # one try again

A try is a list of faults, one for each process in turn, such as `event:17+time:0.4`: SIGKILL at the 17th event, resume,
SIGKILL after 0.4 s, resume until done. Events lie before and after every fsync, rename, unlink and mkdir of a run.
`SIGTERM:0.4` and `SIGINT:0.4` are signals, the second one five in quick succession. All processes are forked from this
one, which has imported everything, one at a time. Figures are written but not drawn: that is most of a tiny run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}

from killed import Ended, preload, process
from tally import Tally

QUIET = ["tracker=none", "hardware=cpu", "hardware.threads=1"]
LLAMA = [
    *("model=tiny-llama", "model.scratch.hidden_size=16", "model.scratch.layers=1", "model.scratch.heads=2"),
    *("model.scratch.kv_heads=2", "model.scratch.intermediate_size=32"),
]
PEOPLE = ["dataset=people", "dataset.people=4", "dataset.templates=2", "dataset.held_out=1"]
IMAGES = ["task=merge", "model.width=16", "task.train.epochs=2", "task.points=3", "task.images=200", "task.pairs=2"]
PROBE = ["task=inverse_permutation", "task.n=3", "task.seeds=1", "task.train.batch=16", "task.train.test_examples=16"]
STEPS = ["task.train.steps=60", "task.train.test_every=10", "task.target_mse=0", "run.checkpoint_steps=20"]
RUNS: dict[str, list[str]] = {
    "spt": [
        *("task=spt", *LLAMA, *PEOPLE, "task.train.epochs=10", "task.train.batch_size=4", "task.train.log_steps=2"),
        *("run.checkpoint_steps=5", "task.evaluation.likelihood=false"),
    ],
    "inverse_permutation": [*PROBE, *STEPS, "task.compare=[no_mask]"],
    "inverse_permutation prompts": [
        *(
            "task=inverse_permutation",
            "task.mode=prompt",
            *LLAMA,
            "task.prompt.examples=2",
            "task.prompt.sizes=[2,3,4]",
        ),
    ],
    "state_tracking": [
        *("task=state_tracking", "task.group=Z2", "task.width=16", "task.train.steps=60", "task.train.log_steps=5"),
        *("task.test_length=40", "task.test_words=4", "run.checkpoint_steps=10"),
    ],
    "ntk": ["task=ntk", "task.k=[5,10]", "task.replicates=20"],
    "ntk, trained": [
        *("task=ntk", "task.mode=train", "task.k=[4,5]", "task.ones=[2]", "task.width=[32]", "task.members=20"),
        *("run.checkpoint_steps=1",),
    ],
    "merge": [*IMAGES],
    "merge, lmc": [*IMAGES, "task.study=lmc", "task.analyses=[distances]"],
    "merge, language": [
        *("task=merge", *LLAMA, *PEOPLE, "task.points=3", "task.train.epochs=2", "task.train.batch_size=8"),
        *("task.pairs=2", "task.controls=false"),
    ],
    "lora_lego": [
        *("task=lora_lego", *LLAMA, "task.facts=16", "task.facts_per_adapter=4", "task.counts=[2]"),
        *("task.lora_ranks=[2]", "task.train.base_steps=40", "task.train.adapter_steps=20", "task.scales=[0.5,1.0]"),
        *("task.sweep=[1.0]", "task.repeats=2"),
    ],
}
SWEEP = ["-m", *PROBE, *STEPS, "seed=0,1,2", "run.root=outputs", "run.skip_finished=true"]
CHANGING = ("seconds", "per_second", "rss", "time")
LEFT = (".reserve", "run.lock")

# ---- what must be the same -------------------------------------------------------------------------------------------


def steady(value: Any) -> Any:
    """Leave out what no two runs have in common: seconds, rates, memory."""
    if isinstance(value, dict):
        return {key: steady(item) for key, item in value.items() if not any(word in key for word in CHANGING)}
    return [steady(item) for item in value] if isinstance(value, list) else value


def outcome(folder: Path) -> dict[str, Any]:
    """Everything of a finished run that must not depend on kills."""
    result = json.loads((folder / "result.json").read_text())
    files = sorted(
        str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and "checkpoints" not in p.parts
    )
    return {
        "status": result["status"],
        "metrics": steady(result["metrics"]),
        "artifacts": result["artifacts"],
        "metrics.jsonl": [steady(json.loads(line)) for line in (folder / "metrics.jsonl").read_text().splitlines()],
        "files": files,
        **{name: weights(folder / name) for name in files if name.endswith((".safetensors", ".pt"))},
    }


def weights(path: Path) -> tuple[Any, bytes]:
    """What a file of weights says of itself, without seconds, and the bytes of its tensors."""
    data = path.read_bytes()
    if path.suffix == ".pt":
        return None, data
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    about = header.get("__metadata__", {})
    header["__metadata__"] = {k: steady(json.loads(v)) if v.startswith("{") else v for k, v in about.items()}
    return header, data[start:]


def leftovers(folder: Path) -> list[str]:
    """Temporary files, reserves and locks under a folder."""
    return [str(p.relative_to(folder)) for p in folder.rglob("*") if p.name in LEFT or p.name.endswith(".tmp")]


def difference(expected: dict[str, Any], folder: Path) -> str:
    """Say what is not as expected; empty when all is."""
    try:
        found = outcome(folder)
    except (OSError, ValueError, KeyError) as error:
        return f"{type(error).__name__}: {error}"
    wrong = [key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key)]
    seen = [f"{key}: {str(found.get(key))[:200]} instead of {str(expected.get(key))[:200]}" for key in sorted(wrong)]
    return "; ".join([*seen, *(f"left over: {name}" for name in leftovers(folder))])


# ---- one try ---------------------------------------------------------------------------------------------------------


def whole(settings: list[str], folder: Path) -> Ended:
    """An undisturbed run in `folder`/run."""
    folder.mkdir(parents=True)
    ended = process([*settings, *QUIET, "run.dir=run"], folder)
    if ended.code:
        raise SystemExit(f"the undisturbed run failed: {settings}\n{ended.said}")
    return ended


def killed_run(settings: list[str], expected: dict[str, Any], folder: Path, faults: str) -> str:
    """Start, kill and resume a run until it is done; what is wrong with it then, or nothing."""
    folder.mkdir(parents=True)
    start, going_on = [*settings, *QUIET, "run.dir=run"], ["resume", "run"]
    given = [*faults.split("+"), "", "", ""]
    for fault in given:
        begun = (folder / "run" / "config.yaml").exists()
        ended = process(going_on if begun else start, folder, fault)
        if "Traceback" in ended.said or ended.code == 99:
            return f"traceback: {ended.said[-600:]}"
        if not fault and ended.code:
            return f"exit code {ended.code}: {ended.said[-300:]}"
        if fault.startswith("SIG") and ended.code not in (0, 130, 143, -signal.SIGTERM):
            return f"exit code {ended.code} after {fault}: {ended.said[-300:]}"
        if not (folder / "run" / "config.yaml").exists() and (folder / "run").exists():
            refused = process(going_on, folder)
            if refused.code != 2 or "has no config.yaml" not in refused.said:
                return f"no refusal: {refused.said[-300:]}"
    # Once more: a run that was killed when all was done is tidied up, and stays as it is.
    return difference(expected, folder / "run")


def killed_sweep(expected: dict[str, dict[str, Any]], folder: Path, faults: str) -> str:
    """Start a sweep, kill it and start it again until it is done; resume what was cut off."""
    folder.mkdir(parents=True)
    for fault in [*faults.split("+"), ""]:
        ended = process([*SWEEP, *QUIET], folder, fault)
        if "Traceback" in ended.said or ended.code == 99 or (not fault and ended.code):
            return f"exit code {ended.code}: {ended.said[-600:]}"
    done = set()
    for path in sorted((folder / "outputs").glob("inverse_permutation/*")):
        resumed = process(["resume", str(path)], folder)
        if resumed.code == 2 and "has no config.yaml" in resumed.said:
            continue
        seed = str(json.loads((path / "result.json").read_text())["seed"])
        if wrong := difference(expected[seed], path):
            return f"{path.name}: {wrong}"
        done.add(seed)
    left = leftovers(folder / "outputs")
    return f"left over: {left}" if left else "" if done == set(expected) else f"only seeds {sorted(done)} are done"


def planned(reference: Ended, draw: random.Random, tries: int) -> list[tuple[str, str]]:
    """(kind, faults) of `tries` kills and some signals: events all over the run, result.json, random moments."""
    events, found = reference.events, []
    about_result = [n for n, what in enumerate(events, 1) if "result.json" in what]
    around, results = tries * 3 // 5, max(1, tries // 10)
    for k in range(around):
        at = 1 + int((k + draw.random()) * len(events) / around)
        again = f"+event:{draw.randint(1, len(events))}" if k % 3 == 0 else ""
        found.append(("around fsync and rename", f"event:{at}{again}"))
    found += [("in result writing", f"event:{draw.choice(about_result)}") for _ in range(results)]
    for k in range(tries - around - results):
        again = f"+time:{draw.uniform(0, reference.seconds):.3f}" if k % 3 == 0 else ""
        found.append(("random moments", f"time:{draw.uniform(0, reference.seconds):.3f}{again}"))
    for name in ("SIGTERM", "SIGINT"):
        for _ in range(max(1, tries // 10)):
            found.append(("SIGTERM, five SIGINT", f"{name}:{draw.uniform(0, reference.seconds):.3f}"))
    return found


def torture(tally: Tally, names: list[str], tries: int, seed: int, fault: str = "") -> None:
    """Try every named run (`sweep` is one, too) and count."""
    # In memory where that is to be had: what a kill leaves does not depend on the disk, and fsync waits for nothing.
    memory = Path("/dev/shm")
    place = Path(tempfile.mkdtemp(prefix="permlab-kill-", dir=memory if os.access(memory, os.W_OK) else None))
    try:
        for name in names:
            draw, began = random.Random(f"{seed} {name}"), time.monotonic()
            try_one: Callable[[Path, str], str]
            if name == "sweep":
                expected = {str(k): _expected([*PROBE, *STEPS, f"seed={k}"], place / f"whole-{k}") for k in range(3)}
                (place / "sweep").mkdir()
                reference = process([*SWEEP, *QUIET], place / "sweep")
                try_one = lambda folder, faults, known=expected: killed_sweep(known, folder, faults)  # noqa: E731
            else:
                reference = whole(RUNS[name], place / "whole")
                known = outcome(place / "whole" / "run")
                shutil.rmtree(place / "whole")
                try_one = lambda folder, faults, n=name, e=known: killed_run(RUNS[n], e, folder, faults)  # noqa: E731
            for kind, faults in [("repeated", fault)] if fault else planned(reference, draw, tries):
                wrong = try_one(place / "try", faults)
                tally.add(f"{name}: {kind}", not wrong, f"--only '{name}' --fault {faults}: {wrong}")
                if wrong:
                    print(f"OPEN --only '{name}' --fault {faults}: {wrong}", flush=True)
                shutil.rmtree(place / "try", ignore_errors=True)
            print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _expected(settings: list[str], folder: Path) -> dict[str, Any]:
    whole(settings, folder)
    return outcome(folder / "run")


def main() -> int:
    """Print the table; 1 when something was not survived."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=20, help="kills of each task (default 20)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=[*RUNS, "sweep"], default=[*RUNS, "sweep"])
    parser.add_argument("--fault", default="", help="one try again, as printed")
    given = parser.parse_args()
    tally = Tally("killed")
    began = time.monotonic()
    preload()
    torture(tally, given.only, given.tries, given.seed, given.fault)
    code = tally.report()
    print(f"{time.monotonic() - began:.0f} s, seed {given.seed}")
    return code


if __name__ == "__main__":
    sys.exit(main())
