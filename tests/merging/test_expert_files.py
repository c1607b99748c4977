"""Mixtures of experts merged from their files: planted permutations of experts and units are found, the merge loads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from architectures import EXPERTS, shaken
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM
from transformers.utils import logging

from permlab import cli
from permlab.matching import identity_matching, weight_matching
from permlab.merging import Setting, load_networks, parse_arm, save_network
from permlab.merging.merge import combine_stored
from permlab.merging.networks.verification import verify_huggingface
from permlab.symmetry import apply, declare_huggingface, flat_experts, folded_experts

logging.disable_progress_bar()
TOKENS = torch.arange(3, 21).reshape(2, 9)


def network(name, seed):
    torch.manual_seed(seed)
    return shaken(EXPERTS[name]())


def planted(model, seed=5):
    """The same function with experts, units inside each, heads and the residual stream in another order."""
    flat = flat_experts(model)
    spec = declare_huggingface(model.config, flat.state_dict())
    moved = apply(spec, flat.state_dict(), spec.random(torch.Generator().manual_seed(seed)))
    other = type(model)(model.config).eval()
    other.load_state_dict(folded_experts(moved))
    return other


def mixed(name, folder, **options):
    """Folders a and b: a network, and itself with everything permuted."""
    one = network(name, 0)
    one.save_pretrained(folder / "a", **options)
    planted(one).save_pretrained(folder / "b", **options)
    return one


@pytest.mark.parametrize("original", [True, False])
@pytest.mark.parametrize("name", EXPERTS)
def test_a_network_with_its_experts_and_units_permuted_merges_to_itself(name, original, tmp_path):
    one = mixed(name, tmp_path, save_original_format=original)
    names = load_file(tmp_path / "a" / "model.safetensors").keys()
    assert any("experts.7." in each for each in names) == original
    loaded = load_networks([str(tmp_path / "a"), str(tmp_path / "b")])
    matching = weight_matching(loaded.spec, *loaded.states)
    assert matching.moved() > 0.5
    state = combine_stored(parse_arm("weight"), loaded.spec, loaded.stored, matching, Setting([]))
    folder = save_network(tmp_path / "m", state, loaded, {"method": "weight matching"})
    written = load_file(folder / "model.safetensors")
    own = load_file(tmp_path / "a" / "model.safetensors")
    assert written.keys() == own.keys()
    assert all(torch.equal(value, own[key]) for key, value in written.items())
    found = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.allclose(found(TOKENS).logits, one(TOKENS).logits, atol=1e-5)
    # Without a permutation it is another network.
    naive = combine_stored(
        parse_arm("identity"), loaded.spec, loaded.stored, identity_matching(loaded.spec), Setting([])
    )
    assert not torch.allclose(naive["model.norm.weight"], own["model.norm.weight"], atol=1e-3)


@pytest.mark.parametrize("name", ["mixtral", "deepseek-v3"])
def test_changes_of_experts_add_up_as_those_of_other_tensors_do(name, tmp_path):
    states = [network(name, seed).state_dict() for seed in range(3)]
    for seed, folder in enumerate(("base", "a", "b")):
        network(name, seed).bfloat16().save_pretrained(tmp_path / folder)
    loaded = load_networks([str(tmp_path / "a"), str(tmp_path / "b")], ancestor=str(tmp_path / "base"))
    setting = Setting([], ancestor=loaded.ancestor, weights=[0.5, 2.0], dtype="float32")
    matching = identity_matching(loaded.spec)
    state = combine_stored(parse_arm("identity/task_arithmetic"), loaded.spec, loaded.stored, matching, setting)
    folder = save_network(tmp_path / "m", state, loaded, {}, shard_size="50KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    found = AutoModelForCausalLM.from_pretrained(folder)
    assert found.dtype == torch.float32
    base, a, b = ({key: value.bfloat16().float() for key, value in state.items()} for state in states)
    for key, value in found.state_dict().items():
        assert torch.allclose(value, base[key] + 0.5 * (a[key] - base[key]) + 2 * (b[key] - base[key]), atol=1e-5), key


@pytest.mark.slow
def test_the_command_line_finds_eight_planted_experts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    one = mixed("mixtral", tmp_path)
    options = ["tracker=none", "hardware=cpu", "hardware.threads=1", "dataset=none", "run.dir=run"]
    with pytest.raises(SystemExit) as stop:
        cli.main(["task=merge", "task.models=[a,b]", *options])
    assert not stop.value.code
    told = " ".join(capsys.readouterr().out.split())
    assert "5 groups of permutations, verified in float64 on the network itself" in told
    found = AutoModelForCausalLM.from_pretrained("run/artifacts/model")
    assert torch.allclose(found(TOKENS).logits, one(TOKENS).logits, atol=1e-5)
    metrics = json.loads(Path("run/result.json").read_text())["metrics"]
    assert metrics["l2_reduction"] > 0.999 and metrics["moved"] > 0.8


@pytest.mark.slow
def test_large_mixtures_are_verified_on_a_small_twin():
    config = MixtralConfig(num_hidden_layers=3)
    changes, where = verify_huggingface(config, MixtralForCausalLM)
    assert where == "a small twin of the architecture" and len(changes) == 6
