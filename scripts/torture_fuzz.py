"""Feed spoiled files to every reader of permlab: `python scripts/torture_fuzz.py --tries 3000 --seed 0`.

Each input is a good file, spoiled in one or more places, and the command that reads it, in a process of its own that is
forked from one that has imported everything. An input is survived when

- the exit code is 0 (the damage does no harm) or 2 (refused);
- a refusal is at most two lines of at most 300 characters, with no traceback, no terminal escape, no bidi control;
- it takes at most 10 seconds, of work and of waiting, and 1.5 GiB;
- nothing is written but into the directory of a run, and nothing at all after a refusal;
- no pickle was executed, and a secret of the environment or of a linked file is nowhere.

`--only 17` repeats input 17 of a seed and prints what it did.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import math
import os
import pickle
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fuzz_children import SECRET, Seen, in_child, in_fork, preload, stand_in
from fuzz_kinds import KINDS, QUIET, Kind
from fuzz_mutations import Marker, copy_tree, mutate
from fuzz_overrides import draw_overrides
from fuzz_templates import make_templates
from tally import Tally

SECONDS, BYTES, LINES, WIDTH = 10.0, 1.5 * 2**30, 2, 300
PAID = "outputs/cache/segments.jsonl"
"""Answers of an assistant are kept whatever becomes of the run: a second one asks nothing."""
FOREIGN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")


@dataclass
class Input:
    """One spoiled input: its kind, the command, and what was done to the files."""

    kind: Kind
    command: tuple[str, ...]
    folder: Path
    said: list[str]


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Return path -> (size, time) of everything below a folder."""
    found = {}
    for here, folders, files in os.walk(folder):
        for name in (*folders, *files):
            about = os.lstat(os.path.join(here, name))
            size, changed = (0, 0) if name in folders else (about.st_size, about.st_mtime_ns)
            found[os.path.relpath(os.path.join(here, name), folder)] = (size, changed)
    return found


def judge(seen: Seen, each: Input, base: Path, before: dict[str, tuple[int, int]]) -> None:
    """Add to `seen.wrong` what an input must not lead to."""
    lines = [line for line in seen.error.split("\n") if line.strip()]
    if seen.code not in each.kind.codes:
        last = lines[-1][:200] if lines else ""
        seen.wrong.append(f"exit code {seen.code} ({last})")
    if "Traceback" in seen.error:
        seen.wrong.append("a traceback")
    if seen.code != 0 and (len(lines) > LINES or any(len(line) > WIDTH for line in lines)):
        seen.wrong.append(f"{len(lines)} lines, the longest of {max(map(len, lines), default=0)}: {lines[0][:200]}")
    if seen.code == 2 and not lines:
        seen.wrong.append("no line about what is wrong")
    if FOREIGN.search(seen.error.replace("\n", "")):
        seen.wrong.append(f"control characters on the terminal: {ascii(seen.error)[:200]}")
    if seen.seconds > SECONDS:
        seen.wrong.append(f"{seen.seconds:.1f} s")
    if seen.bytes > BYTES:
        seen.wrong.append(f"{seen.bytes / 2**30:.2f} GiB")
    after = tree(each.folder)
    if not each.kind.writes and after != before:
        changed = sorted(name for name in {**after, **before} if after.get(name) != before.get(name))
        seen.wrong.append(f"its input was changed: {changed[:3]}")
    written = [name for name in tree(base / "work") if not name.startswith("outputs")]
    left = [name for name, (size, _) in tree(base / "work").items() if size] if seen.code == 2 else []
    left = [name for name in left if name != PAID]
    outside = [name for name in os.listdir(base) if name not in BESIDE]
    for what, names in (("written outside", written + outside), ("left behind", left)):
        if names:
            seen.wrong.append(f"{what}: {sorted(names)[:3]}")
    if (base / "marker").exists():
        seen.wrong.append("a pickle was executed")
    seen.wrong += [f"the secret stands in {name}" for name in leaks(base)]


BESIDE = ("in", "work", "home", "stdout", "stderr", "secret", "marker")


def leaks(base: Path) -> list[str]:
    """Return the files that the run wrote and that hold the secret."""
    found = []
    for path in (base / "stdout", base / "stderr", *(base / "work").rglob("*")):
        if path.is_file() and path.stat().st_size < 2**24 and SECRET.encode() in path.read_bytes():
            found.append(path.name)
    return found


def draw(number: int, seed: int, kinds: Sequence[Kind], templates: Path, base: Path, url: str) -> Input:
    """Make input `number` of a seed in the folder `base`."""
    rng = random.Random(f"{seed}-{number}")
    kind = rng.choices(kinds, [each.weight for each in kinds])[0]
    folder = base / "in" / str(number)
    folder.parent.mkdir(parents=True)
    copy_tree(templates / kind.folder, folder)
    for name in ("work", "home"):
        (base / name).mkdir()
    (base / "secret").write_text(f"{SECRET}\n")
    said: list[str] = []
    if not kind.commands:
        return Input(kind, draw_overrides(rng), folder, said)
    if kind.name.startswith("pickles"):
        for path in (p for pattern in kind.targets for p in folder.glob(pattern)):
            path.write_bytes(pickle.dumps(Marker(str(base / "marker"))))
    else:
        for _ in range(rng.choice((1, 1, 1, 2))):
            pattern = rng.choice(kind.targets)
            paths = sorted(path for path in folder.glob(pattern) if path.is_file() and not path.is_symlink())
            if paths:
                others = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size < 2**24)
                said.append(mutate(rng.choice(paths), rng, others, base / "marker", base / "secret"))
    command = tuple(text.replace("{in}", str(folder)).replace("{url}", url) for text in rng.choice(kind.commands))
    return Input(kind, command if command[0] == "resume" else (*command, *QUIET), folder, said)


def attempt(number: int, seed: int, kinds: Sequence[Kind], templates: Path, place: Path) -> tuple[Input, Seen]:
    """Make one input, run its command, judge and clean up."""
    base = place / "try"
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir(parents=True)
    with contextlib.ExitStack() as opened:
        rng = random.Random(f"{seed}-{number}")
        chosen = rng.choices(kinds, [each.weight for each in kinds])[0]
        url = ""
        if chosen.server:
            url = opened.enter_context(stand_in(base / "in" / str(number) / "answer.json"))
        each = draw(number, seed, kinds, templates, base, url)
        before = tree(each.folder)
        seen = in_child(base / "work", each.command, 2 * SECONDS)
    judge(seen, each, base, before)
    return each, seen


def run(
    tries: int,
    seed: int,
    quick: bool,
    only: int | None = None,
    first: int = 0,
    kept: Path | None = None,
    minutes: float = math.inf,
) -> tuple[Tally, str]:
    """Try inputs `first` to `first + tries`, or one; return the table and the largest time and memory.

    `kept`: a folder for the good files, which are made where it is not there. After `minutes` no other one is begun.
    """
    kinds = [kind for kind in KINDS if kind.quick or not quick]
    tally, slowest, largest = Tally("spoiled input"), 0.0, 0
    with tempfile.TemporaryDirectory(prefix="permlab-fuzz-") as name:
        place = Path(name)
        preload(everything=not quick)
        templates = kept or place / "templates"
        if not templates.exists():
            in_fork(lambda: make_templates(templates, {kind.folder for kind in kinds}))
        gc.freeze()  # children would copy every page that a collection touches
        until = time.monotonic() + 60 * minutes
        for number in [only] if only is not None else range(first, first + tries):
            if time.monotonic() > until:
                break
            each, seen = attempt(number, seed, kinds, templates, place)
            how = f"--seed {seed} --only {number}{' --quick' * quick}"
            said = "; ".join(each.said) or " ".join(each.command[:6])
            tally.add(each.kind.name, not seen.wrong, ascii(f"{how}: {said[:300]}: {'; '.join(seen.wrong)}")[1:-1])
            slowest, largest = max(slowest, seen.seconds), max(largest, seen.bytes)
            if only is not None:
                shown = (place / "try" / "stdout").read_text(errors="replace")[-3000:]
                print(f"{ascii(' '.join(each.command))[:2000]}\n{each.said}\n{seen}\n{shown!a}")
            elif seen.wrong:
                print(f"OPEN {tally.failures[-1]}", flush=True)
    return tally, f"slowest {slowest:.1f} s, largest {largest / 2**30:.2f} GiB"


def main() -> int:
    """Parse the command line, run, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--only", type=int, help="repeat one input and print what it did")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no other input after so long")
    parser.add_argument("--templates", type=Path, help="folder that keeps the good files for other calls")
    parser.add_argument("--quick", action="store_true", help="only kinds that need no transformers")
    given = parser.parse_args()
    started = time.monotonic()
    tally, largest = run(given.tries, given.seed, given.quick, given.only, given.first, given.templates, given.minutes)
    code = tally.report()
    print(f"{(time.monotonic() - started) / 60:.1f} minutes; {largest}")
    return code


if __name__ == "__main__":
    sys.exit(main())
