"""One training on several processes: the batches, losses and weights of one; a lost process, stops, resumes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from permlab.config import build_config
from permlab.footprint import Footprint, of_processes
from permlab.hardware import HardwareConfig
from permlab.tasks.spt.needs import footprint
from permlab.text.batches import FILLS, Collator
from permlab.text.training import Share

STEPS, EIGHT = 24, ["task.train.batch_size=8"]
SETTINGS = [
    *("task=spt", "dataset.people=6", "dataset.templates=2", "dataset.held_out=1", "task.train.batch_size=6"),
    *("task.train.accumulate=2", "task.train.log_steps=1", "model.scratch.hidden_size=32", "model.scratch.layers=1"),
    *("model.scratch.intermediate_size=64", "hardware=cpu", "hardware.threads=1", "task.evaluation.likelihood=false"),
]
"""16 texts and 18 epochs: 288 rows in 24 batches of 12, half of them with a part for each micro-batch."""


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("rows", [24, 25, 29])
def test_the_parts_of_a_batch_are_the_batch(count, rows):
    stream = [{"input_ids": [number]} for number in range(rows)]
    parts = [Share(stream, 6, place, count) for place in range(count)]
    assert len({len(part) for part in parts}) == 1  # none waits for another in vain
    for step in range(-(-rows // 6)):
        each = 6 // count
        seen = [part[row] for part in parts for row in range(step * each, (step + 1) * each)]
        learned = [row["input_ids"][0] for row in seen if FILLS not in row]
        assert learned == list(range(6 * step, min(6 * step + 6, rows)))


def test_rows_that_fill_a_batch_are_attended_to_and_not_learned():
    batch = Collator(0)([{"input_ids": [5, 6, 7]}, {"input_ids": [8, 9], FILLS: True}])
    assert batch["labels"].tolist() == [[5, 6, 7], [-100, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ["task=spt", *EIGHT, "hardware.processes=16"],
            "work for 8 at most, the rows of a batch (task.train.batch_size=8)",
        ),
        (["task=spt", *EIGHT, "hardware.processes=3"], "cannot be divided by 3"),
        (["task=spt", "hardware.shard=true"], "add hardware.processes=2"),
        (["task=spt", "model.lora.rank=4", "hardware.processes=2", "hardware.shard=true"], "not divided"),
        (["task=spt", "hardware.processes=2", "hardware.device=cuda:1"], "is one GPU"),
        (["task=spt", "hardware.processes=0"], "hardware.processes=0 is out of range"),
        (["task=spt", "hardware.processes=2", "hardware.nodes=2"], "hardware=slurm_multi_gpu hardware.nodes=2"),
        (["task=spt", "hardware.processes=2", "hardware.shard=true", "task.evaluation.every=5"], "leave it"),
        (["task=lora_lego", "hardware.processes=2"], "nothing here that several processes could share"),
        (["task=ntk", "task.mode=maps", "hardware.processes=2"], "nothing here that several processes could share"),
        (["task=merge", "hardware.processes=2", "hardware.nodes=2"], "hardware.nodes is for one training"),
        (["task=merge", "task.pairs=2", "hardware.processes=3"], "work for 2 at most, pairs (task.pairs=2)"),
    ],
)
def test_what_cannot_be_divided_is_refused(permlab, tmp_path, given, said):
    ended = permlab(*given)
    assert ended.returncode == 2
    assert said in ended.stderr.replace("\n", " ")
    assert not (tmp_path / "outputs").exists()


def test_a_dry_run_says_how_many(permlab):
    said = permlab("task=spt", *EIGHT, "hardware=cpu", "hardware.processes=2", "run.dry_run=true").stdout
    assert "processes      2, 4 rows of each batch in every one" in said
    said = permlab("task=spt", "hardware=cpu", "run.dry_run=true").stdout
    assert "processes" not in said


def test_jobs_of_a_cluster_find_their_gpus_there(permlab):
    pytest.importorskip("submitit")
    given = ("hardware=slurm_multi_gpu", "hardware.processes=4", "hardware.nodes=2", "run.dry_run=true")
    ended = permlab("-m", "task=spt", "seed=0,1", *EIGHT, *given)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "8 on 2 machines, 1 rows of each batch in every one" in ended.stdout
    assert "device cuda" in ended.stdout and ended.stdout.endswith("ready\n")


def test_the_memory_is_that_of_all_processes():
    settings = {
        "task": {"name": "spt", "train": {"batch_size": 64}, "evaluation": {"batch_size": 1}},
        "model": {"name": "tiny", "kind": "causal_lm", "scratch": {"hidden_size": 512}},
        "dataset": {"name": "people", "kind": "people"},
    }

    def need(**hardware: Any) -> Footprint:
        config = build_config({**settings, "hardware": {"device": "cpu", **hardware}})
        found = footprint(config)
        assert found is not None
        return found

    alone, each, part = need(), need(processes=4), need(processes=4, shard=True)
    assert each.parts["weights"] == alone.parts["weights"] == 4 * part.parts["weights"]
    assert part.parts["optimizer"] == alone.parts["optimizer"] / 4
    assert each.parts["activations"] < 0.5 * alone.parts["activations"]
    assert alone.peak > each.peak > part.peak > alone.parts["weights"]
    both = of_processes(each, HardwareConfig(device="cpu", processes=4))
    assert (both.peak, both.libraries) == (4 * each.peak, 5 * each.libraries)
    assert of_processes(each, HardwareConfig(device="cpu")) == each


def test_only_the_number_of_processes_may_change(permlab):
    assert "usage" in permlab("resume", "here", "hardware.processes=two").stderr
    assert "start a new run" in permlab("resume", "here", "seed=1").stderr


# ---- real processes --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """The run of one process that the others are compared with."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    assert command(folder, "task.train.epochs=18", "run.checkpoint_steps=1000").wait() == 0
    assert json.loads((folder / "result.json").read_text())["metrics"]["steps"] == STEPS
    return folder


def command(folder: Path, *given: str, **extra: str) -> subprocess.Popen[str]:
    """Start the command as a process of its own, so that signals to it are its own."""
    return begin("-m", "permlab", *SETTINGS, f"run.dir={folder}", *given, **extra)


def begin(*words: str, **extra: str) -> subprocess.Popen[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "HF_"))}
    environment = kept | {"WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *words],
        env=environment | extra, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def losses(folder: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == sorted({line["step"] for line in lines})
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def check_equal(folder: Path, alone: Path) -> None:
    """The losses of every step and the weights at the end are those of one process, up to rounding."""
    found, wanted = losses(folder), losses(alone)
    assert found.keys() == wanted.keys() and len(wanted) == STEPS
    assert max(abs(found[step] - wanted[step]) for step in wanted) < 2e-5
    first, second = (load_file(place / "artifacts" / "model" / "model.safetensors") for place in (folder, alone))
    for name, weight in second.items():
        torch.testing.assert_close(first[name], weight, rtol=0, atol=2e-5)


def wait_for(folder: Path, running: subprocess.Popen[str]) -> None:
    """Wait for a checkpoint that is complete."""
    until = time.monotonic() + 240
    while not list(folder.glob("checkpoints/checkpoint-*/complete")):
        assert running.poll() is None, running.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.02)


def member(running: subprocess.Popen[str], place: int) -> psutil.Process:
    """Return one of the processes of a training."""
    for each in psutil.Process(running.pid).children():
        if "permlab.runs.rank" in each.cmdline() and each.environ().get("RANK") == str(place):
            return each
    raise AssertionError("no such process")


@pytest.mark.slow
@pytest.mark.parametrize("shard", [False, True])
def test_two_processes_train_as_one(alone, tmp_path, shard):
    given = ("task.train.epochs=18", "hardware.processes=2", f"hardware.shard={shard}", "run.checkpoint_steps=1000")
    ended = command(tmp_path / "run", *given)
    said = ended.communicate()[0]
    assert ended.returncode == 0, said
    assert said.count("steps of 12 texts") == 1  # the first alone prints
    assert "warn" not in said.lower().replace("caution", "")
    check_equal(tmp_path / "run", alone)
    files = {str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert files == {str(path.relative_to(alone)) for path in alone.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("place", [0, 1])
def test_a_killed_process_ends_the_run_which_goes_on_with_any_number(alone, tmp_path, place):
    folder = tmp_path / "run"
    before = {each.pid for each in psutil.Process().children(recursive=True)}
    running = command(folder, "task.train.epochs=18", "hardware.processes=2", "run.checkpoint_steps=2")
    wait_for(folder, running)
    member(running, place).send_signal(signal.SIGKILL)
    said = running.communicate(timeout=120)[0]
    assert running.returncode == 1, said
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "failed"
    assert result["error"] == f"process {place} of 2 was killed by SIGKILL; continue with: permlab resume {folder}"
    assert said.count("failed") == 1
    assert {each.pid for each in psutil.Process().children(recursive=True)} <= before  # another test's W&B, say
    again = begin("-m", "permlab", "resume", str(folder), *(["hardware.processes=1"] if place else []))
    said = again.communicate(timeout=240)[0]
    assert again.returncode == 0, said
    assert "continuing after step" in said and "continuing after step 0" not in said
    check_equal(folder, alone)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_checkpoints_and_the_run_goes_on(alone, tmp_path, number):
    folder = tmp_path / "run"
    shard = f"hardware.shard={number == signal.SIGINT}"  # both ways to train, and both signals
    running = command(folder, "task.train.epochs=18", "hardware.processes=2", shard, "run.checkpoint_steps=3")
    wait_for(folder, running)
    running.send_signal(number)
    said = running.communicate(timeout=120)[0]
    assert running.returncode == 128 + number, said
    assert json.loads((folder / "result.json").read_text())["status"] == "interrupted"
    assert said.count("interrupted; continue with") == 1
    again = begin("-m", "permlab", "resume", str(folder))
    said = again.communicate(timeout=240)[0]
    assert again.returncode == 0, said
    check_equal(folder, alone)


@pytest.mark.slow
def test_without_its_parent_nobody_goes_on(tmp_path):
    running = command(tmp_path / "run", "task.train.epochs=2000", "hardware.processes=2", "run.checkpoint_steps=2")
    wait_for(tmp_path / "run", running)
    members = [member(running, place) for place in (0, 1)]
    running.kill()
    _gone, alive = psutil.wait_procs(members, timeout=20)
    assert not alive
    running.communicate()


@pytest.mark.slow
def test_two_machines_train_as_one(alone, tmp_path):
    """As Slurm starts them: the first carries the run out, the other joins it."""
    folder = tmp_path / "run"
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    job = {"SLURM_NNODES": "2", "SLURM_JOB_ID": "7", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    given = ("hardware.processes=1", "hardware.nodes=2", "run.checkpoint_steps=1000")
    first = command(folder, "task.train.epochs=18", *given, SLURM_NODEID="0", **job)
    until = time.monotonic() + 120
    while not (folder / "config.yaml").is_file() and time.monotonic() < until:
        time.sleep(0.1)
    joining = (
        "import sys; from pathlib import Path; from permlab.config import build_config; "
        "from permlab.runs.supervisor import join; from permlab.storage.plain import read_yaml; "
        "place = Path(sys.argv[1]); sys.exit(not join(build_config(read_yaml(place / 'config.yaml')), place))"
    )
    second = begin("-c", joining, str(folder), SLURM_NODEID="1", **job)
    said = first.communicate(timeout=300)[0]
    assert first.returncode == 0, said
    assert second.wait(timeout=60) == 0
    check_equal(folder, alone)


@pytest.mark.slow
def test_jobs_of_a_sweep_have_processes_of_their_own(alone, tmp_path):
    words = [*SETTINGS, "task.train.epochs=18", "hardware.processes=2", "seed=1,0"]
    ended = begin("-m", "permlab", "-m", *words, f"run.root={tmp_path}", "run.checkpoint_steps=1000")
    said = ended.communicate(timeout=400)[0]
    assert ended.returncode == 0, said
    table = next(tmp_path.glob("sweeps/*/jobs.csv")).read_text()
    assert table.count("done") == 2
    results = {path.parent: json.loads(path.read_text()) for path in tmp_path.glob("spt/*/result.json")}
    check_equal(next(folder for folder, result in results.items() if result["seed"] == 0), alone)
