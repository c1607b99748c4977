"""`permlab resume`: a run that is killed or stopped anywhere ends with the same numbers and weights, bit for bit."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMAND = str(Path(sys.executable).with_name("permlab"))
CHANGING = ("train_tokens_per_second", "seconds_training")


@pytest.fixture
def start(tmp_path, environment, tiny):
    """Return a function that starts a run in the background."""

    def run(*arguments: str) -> subprocess.Popen[str]:
        with (tmp_path / "stdout.txt").open("a") as out:
            return subprocess.Popen(
                [COMMAND, *arguments], cwd=tmp_path, env=environment, stdout=out, stderr=out, text=True
            )

    return run


@pytest.fixture
def settings(tiny):
    return [*tiny, "task.train.epochs=40", "run.checkpoint_steps=20", "task.evaluation.likelihood=false"]


def wait_for(process: subprocess.Popen, found, seconds: float = 120) -> None:
    """Wait until `found()` is true while the process runs."""
    end = time.monotonic() + seconds
    while not found():
        assert process.poll() is None, "the run ended before it could be stopped"
        assert time.monotonic() < end
        time.sleep(0.005)


def outcome(folder: Path) -> tuple[dict, list[str], bytes]:
    """Return what must not depend on interruptions: metrics, logged lines, weights."""
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "done"
    metrics = {key: value for key, value in result["metrics"].items() if key not in CHANGING}
    weights = (folder / "artifacts" / "model" / "model.safetensors").read_bytes()
    return metrics, (folder / "metrics.jsonl").read_text().splitlines(), weights


@pytest.mark.slow
def test_killed_and_stopped_runs_end_like_an_uninterrupted_one(tmp_path, start, settings):
    whole = start(*settings, "run.dir=whole")
    assert whole.wait(240) == 0, (tmp_path / "stdout.txt").read_text()
    expected = outcome(tmp_path / "whole")

    # Killed before the first checkpoint, then after the second, then stopped politely, then left to finish.
    cut = tmp_path / "cut"
    first = start(*settings, "run.dir=cut")
    wait_for(first, lambda: (cut / "metrics.jsonl").exists() and (cut / "metrics.jsonl").stat().st_size > 0)
    first.kill()
    first.wait()
    assert json.loads((cut / "result.json").read_text())["status"] == "running"

    second = start("resume", "cut")
    wait_for(second, lambda: (cut / "checkpoints" / "checkpoint-40" / "complete").exists())
    second.kill()
    second.wait()

    third = start("resume", "cut")
    wait_for(third, lambda: '"step": 60' in (cut / "metrics.jsonl").read_text())
    third.send_signal(signal.SIGTERM)
    assert third.wait(60) == 143
    assert json.loads((cut / "result.json").read_text())["status"] == "interrupted"
    assert "permlab resume cut" in (tmp_path / "stdout.txt").read_text()

    last = start("resume", "cut")
    assert last.wait(240) == 0, (tmp_path / "stdout.txt").read_text()
    continued = [int(n) for n in re.findall(r"continuing after step (\d+)", (cut / "run.log").read_text())]
    assert continued[0] == 0 and continued[1] >= 40 and continued[2] >= 60
    assert outcome(cut) == expected

    again = start("resume", "cut")
    assert again.wait(60) == 0
    assert "is finished; nothing to resume" in (tmp_path / "stdout.txt").read_text()


@pytest.mark.slow
def test_interrupting_a_sweep_stops_the_jobs_that_have_not_begun(tmp_path, start, settings):
    sweep = start("-m", *settings, "task.train.epochs=4000", "seed=0,1")
    wait_for(sweep, lambda: any(p.stat().st_size for p in tmp_path.glob("outputs/spt/*/metrics.jsonl")))
    sweep.send_signal(signal.SIGINT)
    assert sweep.wait(60) == 130
    results = list(tmp_path.glob("outputs/spt/*/result.json"))
    assert [json.loads(r.read_text())["status"] for r in results] == ["interrupted"]
