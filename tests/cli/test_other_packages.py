"""Another package brings a task, a data set and methods: installed with entry points, or named by `plugins=[...]`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from permlab.adapters import open_adapter, random_adapter, write_adapter

EXAMPLE = Path(__file__).resolve().parents[1] / "plugin_example"
QUIET = ["tracker=none", "hardware=cpu", "hardware.threads=1", "run.dir=run"]
TINY_MERGE = ["task=merge", "model.width=8", "task.train.epochs=1", "task.points=3", "task.controls=false"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The folder that the example package is installed into."""
    folder = tmp_path_factory.mktemp("plugin")
    source = folder / "source"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build"))
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "install"]
    options = ["--no-build-isolation", "--no-deps", "--no-index", "--target", str(folder / "installed")]
    subprocess.run([*pip, *options, str(source)], check=True, timeout=180, capture_output=True)
    return folder / "installed"


@pytest.fixture
def run(permlab, package, tmp_path):
    """Return a function that runs the command with the example installed and gives its result."""

    def start(*arguments: str) -> dict:
        done = permlab(*arguments, *QUIET, PYTHONPATH=str(package))
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads((tmp_path / "run" / "result.json").read_text())

    return start


def test_its_task(run):
    assert abs(run("task=derangements")["metrics"]["derangements"] - 0.368) < 0.05


def test_its_data_set_and_its_way_to_combine(run, tmp_path):
    assert run(*TINY_MERGE, "dataset=stripes", "task.combine=larger")["status"] == "done"
    assert "larger entry" in (tmp_path / "run" / "tables" / "arms.csv").read_text()


def test_its_lora_method(run, tmp_path):
    for seed, name in enumerate("AB"):
        write_adapter(tmp_path / name, random_adapter(name, {"q_proj": (16, 12)}, 4, seed))
    assert run("task=lora_lego", "task.adapters=[A,B]", "task.method=first")["status"] == "done"
    merged = open_adapter(tmp_path / "run" / "artifacts" / "adapter").load("q_proj")
    assert torch.allclose(merged.delta(), open_adapter(tmp_path / "A").load("q_proj").delta(), atol=1e-6)


def test_its_order(run, tiny):
    result = run(*tiny, "task.order=halves", "task.train.epochs=1", "task.evaluation.limit=2")
    assert result["status"] == "done"


def test_typos_and_lists_know_its_names(permlab, package):
    path = {"PYTHONPATH": str(package)}
    assert "did you mean 'derangements'" in permlab("task=derangement", **path).stderr
    assert "did you mean 'larger'" in permlab("task=merge", "task.combine=largr", **path).stderr
    assert "did you mean 'halves'" in permlab("task.order=halfes", **path).stderr
    shown = permlab("ls", **path).stdout
    assert "derangements" in shown and "stripes" in shown
    shown = permlab("ls", "methods", **path).stdout
    assert all(name in shown for name in ("larger", "first adapter", "halves"))


def test_without_entry_points_plugins_names_it(permlab, tmp_path):
    """The folder itself on the path: nothing is installed, so its names are known where `plugins` says so."""
    path = {"PYTHONPATH": str(EXAMPLE)}
    arguments = [*TINY_MERGE, "task.combine=first_network"]
    assert "task.combine=first_network is not known" in permlab(*arguments, **path).stderr
    done = permlab(*arguments, "plugins=[permlab_example_extra]", *QUIET, **path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "plugins" in (tmp_path / "run" / "config.yaml").read_text()
    wrong = permlab("plugins=[permlab_exmple]", **path)
    assert wrong.returncode == 2 and "plugins=permlab_exmple cannot be imported" in wrong.stderr
