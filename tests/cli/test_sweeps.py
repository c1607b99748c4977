"""Multirun: seeds reset, a failing job recorded, one table at the end; and the same through W&B offline."""

from __future__ import annotations

import csv
import json

import pytest


def results(folder):
    return [json.loads(path.read_text()) for path in sorted(folder.glob("outputs/spt/*/result.json"))]


@pytest.mark.slow
def test_two_jobs_log_two_offline_wandb_runs(installed, tmp_path, tiny):
    done = installed("-m", *tiny, "seed=0,0", "tracker.mode=offline", WANDB_MODE="")
    assert done.returncode == 0, done.stdout + done.stderr
    runs = list(tmp_path.glob("outputs/spt/*/wandb/offline-run-*/run-*.wandb"))
    assert len(runs) == 2 and len({path.name for path in runs}) == 2
    assert len({json.loads(p.read_text())["id"] for p in tmp_path.glob("outputs/spt/*/wandb.json")}) == 2
    # Equal seeds in one process give equal numbers: nothing leaks from job to job.
    first, second = (
        {k: v for k, v in r["metrics"].items() if "seconds" not in k and "per_second" not in k}
        for r in results(tmp_path)
    )
    assert first == second
    assert "wandb sync" in done.stdout


@pytest.mark.slow
def test_a_failing_job_is_recorded_and_the_others_go_on(permlab, tmp_path, tiny):
    # What no check before a run can know: an architecture that this version of transformers lacks.
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text('{"model_type": "nonesuch"}')
    done = permlab("-m", *tiny, f"model.path=null,{broken}", "task.evaluation.limit=2")
    assert done.returncode == 1
    assert "jobs of outputs/sweeps/" in done.stdout
    rows = list(csv.DictReader(next(tmp_path.glob("outputs/sweeps/*/jobs.csv")).open()))
    assert [row["status"] == "done" for row in rows] == [True, False]
    assert rows[1]["status"] in ("failed", "refused")
    assert sorted(r["status"] for r in results(tmp_path)) == ["done", "failed"]


@pytest.mark.slow
def test_an_unreachable_server_with_a_key_delays_a_run_by_less_than_ten_seconds(installed, tmp_path, tiny):
    """The server accepts connections and never says a word: worse than one that refuses."""
    import socket
    import time

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(1)
        began = time.monotonic()
        plain = installed(  # offline too, so that importing W&B is no part of the delay
            *(*tiny, "task.train.epochs=1", "run.dir=plain", "task.evaluation.limit=1"),
            **{"WANDB_MODE": "offline", "WANDB_API_KEY": "0" * 40},
        )
        without = time.monotonic() - began
        began = time.monotonic()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        done = installed(
            *(*tiny, "task.train.epochs=1", "run.dir=mirrored", "task.evaluation.limit=1"),
            **{"WANDB_MODE": "", "WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": url},
        )
        delayed = time.monotonic() - began
    assert plain.returncode == done.returncode == 0, done.stdout + done.stderr
    assert "offline" in done.stdout
    assert list(tmp_path.glob("mirrored/wandb/offline-run-*"))
    assert delayed - without < 10
