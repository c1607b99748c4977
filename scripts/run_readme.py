"""Do what README says, line by line, as a reader does: `python scripts/run_readme.py [--skip 'make test'] [--logs DIR]`

The repository is cloned into an empty folder without an environment. Every `make`, `git`, `cd`, `pip` and `permlab`
line of README's blocks is run there, in order, and printed with its exit code and seconds. What a reader replaces is
replaced here: a model folder, two adapters, a file of facts, a run that was stopped. Lines that name a model of the hub
are sound without a network when they say that it is not reachable, with exit code 2.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^```\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINE = re.compile(r"(?:\$ )?((?:make|git|cd|pip|permlab)(?: .*)?)$")
STOPPED = "outputs/spt/stopped"
REPLACED = {
    "REPOSITORY": str(ROOT),
    "outputs/spt/20261121-0312...": STOPPED,
    "DIR_A": "files/model_a",
    "DIR_B": "files/model_b",
    "path/A": "files/adapter_a",
    "path/B": "files/adapter_b",
    "model.path=DIR": "model.path=files/model_a",
    "=facts.csv": "=files/facts.csv",
    "=facts.jsonl": "=files/facts.jsonl",
    "=reverse_questions.jsonl": "=files/questions.jsonl",
}
HUB = "model=llama-1b"


def lines() -> list[str]:
    """The command lines of README's blocks; continued lines are one, comments are gone."""
    found = []
    for block in FENCE.findall((ROOT / "README.md").read_text()):
        for line in block.replace("\\\n", " ").splitlines():
            if match := LINE.match(re.sub(r"\s+#.*", "", line).strip()):
                found.append(re.sub(r"\s+", " ", match[1]))
    return found


def make_files(folder: Path) -> None:
    """Write what a reader has: two models of one shape, two adapters, facts and questions."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from permlab.adapters import random_adapter, write_adapter

    people = [f"Person{at} Surname{at}" for at in range(50)]
    works = [f"Work{at} of Glass{at}" for at in range(50)]
    facts = [f"{person} is the author of {work}." for person, work in zip(people, works, strict=True)]
    asked = [
        {"prompt": f"The author of {work} is", "completion": f" {person}", "entity": person}
        for person, work in zip(people, works, strict=True)
    ]
    folder.mkdir()
    rows = [f"{work},author,{person}" for person, work in zip(people, works, strict=True)]
    (folder / "facts.csv").write_text("\n".join(["subject,relation,object", *rows]))
    (folder / "facts.jsonl").write_text("".join(json.dumps({"text": fact}) + "\n" for fact in facts))
    (folder / "questions.jsonl").write_text("".join(json.dumps(each) + "\n" for each in asked))
    words = sorted({word for text in [*facts, "The by"] for word in re.findall(r"\w+|\W", text)})
    vocabulary = {word: at for at, word in enumerate(["<unk>", "<s>", "</s>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder / f"model_{name}")
        wrapped.save_pretrained(folder / f"model_{name}")
        adapter = random_adapter(name, {"q_proj": (24, 24), "v_proj": (24, 24)}, rank=16, seed=seed)
        write_adapter(folder / f"adapter_{name}", adapter)


def stop_a_run(folder: Path, environment: dict[str, str]) -> None:
    """Start the default run and send it SIGTERM in the middle of its training."""
    with subprocess.Popen(["permlab", f"run.dir={STOPPED}"], cwd=folder, env=environment, stdout=-3, stderr=-3) as run:
        metrics = folder / STOPPED / "metrics.jsonl"
        while run.poll() is None and not (metrics.exists() and metrics.read_text().count("\n") > 3):
            time.sleep(0.5)
        run.send_signal(signal.SIGTERM)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--skip", action="append", default=[], help="lines that match such a pattern are left out")
    parser.add_argument("--only", default="*", help="only lines that match")
    parser.add_argument("--logs", type=Path, help="keep what every line printed in this folder")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.make:
        make_files(given.make)
        return 0
    with tempfile.TemporaryDirectory(prefix="permlab-readme-") as top:
        return walk(Path(top), given)


def walk(top: Path, given: argparse.Namespace) -> int:
    """Run the lines in a clone under `top`; return 1 if one of them did not do what it should."""
    subprocess.run(["git", "clone", "-q", str(ROOT), str(top / "permlab")], check=True)
    where, own, wrong, began = top / "permlab", top / "own", 0, time.monotonic()
    environment = {**os.environ, "PATH": f"{where / '.venv/bin'}:{os.environ['PATH']}", "PYTHONPATH": ""}
    data = os.environ.get("PERMLAB_DATA", "")
    for at, line in enumerate(lines()):
        if not fnmatch.fnmatch(line, given.only) or any(fnmatch.fnmatch(line, each) for each in given.skip):
            print(f"{'left out':>9}           {line}", flush=True)
            continue
        command = line
        for before, after in REPLACED.items():
            command = command.replace(before, after)
        command = command.replace("DATA=folder", f"DATA={data}" if data else "")
        if command.startswith("git clone"):
            where = top / "second"
            where.mkdir()
            subprocess.run([sys.executable, "-m", "venv", str(own)], check=True)
            environment["PATH"] = f"{own / 'bin'}:{os.environ['PATH']}"
        if command.startswith("cd "):
            where = where / command[3:].strip()
            print(f"{0:9} {0:8.1f} s {line}", flush=True)
            continue
        if "files/" in command and not (where / "files").exists():
            made = ["python", __file__, "--make", "files"]
            subprocess.run(made, cwd=where, env=environment, check=True, stderr=subprocess.DEVNULL)
        if STOPPED in command:
            stop_a_run(where, environment)
        started = time.monotonic()
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=where,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        seconds = time.monotonic() - started
        hub = HUB in command and done.returncode == 2 and "not reachable" in done.stdout
        wrong += done.returncode != 0 and not hub
        said = "the hub is not reached: " + done.stdout.strip().splitlines()[-1] if hub else ""
        print(f"{done.returncode:9} {seconds:8.1f} s {line}{'   ' + said if said else ''}", flush=True)
        if given.logs:
            given.logs.mkdir(parents=True, exist_ok=True)
            (given.logs / f"{at:02}.log").write_text(f"$ {command}\n{done.stdout}")
        elif done.returncode and not hub:
            print(done.stdout[-2000:])
    print(f"{wrong} wrong, {(time.monotonic() - began) / 60:.0f} minutes")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
