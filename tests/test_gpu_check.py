"""The whole check of a GPU runs on the CPU with tiny sizes; what it installs and compares is known."""

from __future__ import annotations

import json

import gpu_check
import pytest


@pytest.mark.slow
def test_every_part_runs_on_the_cpu_with_tiny_sizes(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert gpu_check.main(["--tiny", "--json", "found.json"]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    rows = found["rows"]
    assert [row["task"] for row in rows if row["part"] == "tasks"] == [
        "spt", "inverse_permutation", "ntk", "merge", "state_tracking", "lora_lego",
    ]  # fmt: skip
    assert {row["part"] for row in rows} == {"tasks", "products", "llama", "matching", "lego", "probe"}
    assert all(row["ok"] for row in rows), rows
    llama = [row for row in rows if row["part"] == "llama"]
    assert all(row["tokens_per_second"] > 0 and float(row["utilisation"]) >= 0 for row in llama)


def test_runs_are_compared_by_their_steady_numbers():
    cpu = {"loss": 1.0, "seconds": 3.0, "accuracy": 0.5}
    assert gpu_check.compared(cpu, {"loss": 1.001, "seconds": 9.0, "accuracy": 0.5})["ok"]
    wrong = gpu_check.compared(cpu, {"loss": 1.1, "seconds": 3.0, "accuracy": 0.5})
    assert not wrong["ok"] and wrong["largest"] == "loss"
    assert not gpu_check.compared(cpu, {"exit code": 1})["ok"]
    assert not gpu_check.compared({"exit code": 1}, {"exit code": 1, "loss": 1.0})["ok"]


def test_a_part_that_fails_is_a_row_and_the_time_ends_the_rest(capsys):
    def broken():
        raise ValueError("no such kernel")
        yield

    check = gpu_check.Check(tiny=True, seconds=100)
    check.part("products", broken)
    check.ends = 0
    check.part("llama", broken)
    assert [row["ok"] for row in check.rows] == [False, None]
    assert "no such kernel" in check.rows[0]["said"] and "time was over" in check.rows[1]["said"]


def test_only_what_is_lacking_is_taken_from_the_wheels(tmp_path):
    for name in ("hydra_core-1.3.8-py3-none-any.whl", "markdown_it_py-4.3.0-py3-none-any.whl"):
        (tmp_path / name).touch()
    taken = [path.name for path in sorted(tmp_path.iterdir()) if gpu_check.belongs(path, ["hydra", "rich"])]
    assert taken == ["hydra_core-1.3.8-py3-none-any.whl"]


def test_without_a_gpu_nothing_is_measured(monkeypatch, capsys):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_check.main([]) == 2
    assert "no CUDA GPU here" in capsys.readouterr().out
