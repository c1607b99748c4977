"""The installed command on networks of the user: a merged folder that loads, refusals that leave nothing."""

from __future__ import annotations

import json

import pytest
import torch
from checkpoints_made import save_pair
from transformers import AutoModelForCausalLM

from permlab.matching import Matching
from permlab.merging.networks.loading import load_networks
from permlab.symmetry import apply

QUIET = ["tracker=none", "hardware=cpu", "hardware.threads=1"]


@pytest.mark.slow
def test_merged_folder_loads_and_is_the_mean_of_the_matched_networks(permlab, tmp_path):
    a, b = save_pair(tmp_path, "gpt2")
    done = permlab("task=merge", f"task.models=[{a},{b}]", "run.dir=run", *QUIET)
    assert done.returncode == 0, done.stderr
    assert "5 groups of permutations, verified in float64 on the network itself" in done.stdout
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == "done" and 0 < result["metrics"]["l2_reduction"] < 1
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "artifacts" / "model").state_dict()
    loaded = load_networks([a, b])
    permutation = Matching.load(tmp_path / "run" / "artifacts" / "matching.safetensors").permutation
    moved = apply(loaded.spec, loaded.stored[1], permutation)
    for name, value in loaded.stored[0].items():
        assert torch.allclose(merged[name], (value + moved[name]) / 2, atol=1e-6)
    # What was merged can be merged again, straight from the run directory.
    again = permlab("task=merge", f"task.models=[{a},run]", "task.match=identity", "run.dir=again", *QUIET)
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize(
    ("models", "line"),
    [
        ("[a,nowhere.safetensors]", "nowhere.safetensors does not exist"),
        ("[a,weights.bin]", "weights.bin is a pickle"),
        ("[a]", "task.models has 1 network"),
    ],
)
def test_refusals_are_one_line_and_leave_nothing(permlab, tmp_path, models, line):
    save_pair(tmp_path, "gpt2")
    (tmp_path / "weights.bin").write_bytes(b"x")
    done = permlab("task=merge", f"task.models={models}", *QUIET)
    assert done.returncode == 2 and line in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "outputs").exists()
