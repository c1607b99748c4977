"""Adapters as others write them: DoRA, other target modules, modules trained in full, old configurations."""

from __future__ import annotations

import copy
import json

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_adapter_files import folder
from torch import nn

from permlab.adapters import MergeRule, merge_adapters, open_adapter, write_merge
from permlab.errors import UserError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 20, bias=True)
        self.second = nn.Linear(20, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x)))


def dora(tmp_path, rank: int):
    """A trained-looking DoRA adapter, its base on disk, and the weights that PEFT merges it into."""
    torch.manual_seed(0)
    net = Net()
    base = tmp_path / "base"
    base.mkdir(exist_ok=True)
    save_file(net.state_dict(), base / "model.safetensors", metadata={"format": "pt"})
    keys = {"r": rank, "lora_alpha": 2 * rank, "target_modules": ["first", "second"], "use_dora": True}
    model = peft.get_peft_model(copy.deepcopy(net), peft.LoraConfig(**keys))
    for name, parameter in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            parameter.data = torch.randn_like(parameter) * 0.1
        elif "magnitude" in name:
            parameter.data = parameter.data * (1 + 0.1 * torch.rand_like(parameter))
    model.save_pretrained(tmp_path / f"dora-{rank}")
    merged = model.merge_and_unload()
    exact = {name: getattr(merged, name).weight.detach() - getattr(net, name).weight.detach() for name in keys_of(net)}
    return tmp_path / f"dora-{rank}", base, exact


def keys_of(net: nn.Module) -> list[str]:
    return [name for name, _ in net.named_children()]


def test_dora_is_folded_exactly_where_its_rank_allows_and_as_well_as_any_rank_can_elsewhere(tmp_path):
    path, base, exact = dora(tmp_path, rank=6)  # twice the rank is all of both matrices
    adapter = open_adapter(path, base=base)
    for name, wanted in exact.items():
        torch.testing.assert_close(adapter.load(name).delta(), wanted, atol=1e-5, rtol=1e-4)
        assert adapter.kept[name] == pytest.approx(1.0, abs=1e-6)
    path, base, exact = dora(tmp_path, rank=2)
    adapter = open_adapter(path, base=base)
    for name, wanted in exact.items():
        found = adapter.load(name)
        squares = torch.linalg.svdvals(wanted.double()) ** 2
        assert found.rank == 4 == adapter.modules[name].rank
        assert adapter.kept[name] == pytest.approx(float(squares[:4].sum() / squares.sum()), abs=1e-5)
        # Forgetting the magnitudes is another update.
        assert float((found.delta() - wanted).norm()) < 0.5 * float(wanted.norm())


def test_a_merge_of_dora_is_plain_lora_that_peft_loads(tmp_path):
    path, base, exact = dora(tmp_path, rank=6)
    write_merge(tmp_path / "merged", [open_adapter(path, base=base)], MergeRule("cat"))
    torch.manual_seed(0)
    net = Net()
    before = {name: getattr(net, name).weight.detach().clone() for name in exact}
    loaded = peft.PeftModel.from_pretrained(net, str(tmp_path / "merged")).merge_and_unload()
    for name, wanted in exact.items():
        moved = getattr(loaded, name).weight.detach() - before[name]
        torch.testing.assert_close(moved, wanted, atol=1e-5, rtol=1e-4)


def test_dora_without_its_base_or_with_another_is_refused(tmp_path):
    path, base, _ = dora(tmp_path, rank=2)
    with pytest.raises(UserError, match=r"belongs to DoRA.*model\.path=BASE"):
        open_adapter(path)
    with pytest.raises(UserError, match=r"holds no model\.safetensors"):
        open_adapter(path, base=tmp_path / "nowhere")
    tensors = load_file(base / "model.safetensors")
    save_file({"other.weight": tensors["first.weight"]}, base / "model.safetensors")
    with pytest.raises(UserError, match=r"has no first\.weight"):
        open_adapter(path, base=base).load("first")


ATTENTION = {"model.layers.0.q_proj": (12, 10)}
MLP = {"model.layers.0.up_proj": (16, 10), "model.layers.0.down_proj": (10, 16)}


def test_adapters_on_different_modules_of_one_base_are_merged(tmp_path):
    stated = {"base_model_name_or_path": "some/base"}
    first = open_adapter(folder(tmp_path / "a", 0, shapes=ATTENTION, config=stated))
    second = open_adapter(folder(tmp_path / "b", 1, shapes=MLP, config=stated | {"target_modules": list("up")}))
    merged = merge_adapters([first, second], MergeRule("lego", rank=3)).adapter
    for adapter in (first, second):
        for module in adapter.modules:
            torch.testing.assert_close(merged.load(module).delta(), adapter.load(module).delta())
    write_merge(tmp_path / "m", [first, second], MergeRule("cat"))
    written = json.loads((tmp_path / "m" / "adapter_config.json").read_text())
    assert written["target_modules"] == sorted({**ATTENTION, **MLP})
    third = open_adapter(folder(tmp_path / "c", 2, shapes=MLP, config={"base_model_name_or_path": "other/base"}))
    with pytest.raises(UserError, match="same base model"):
        merge_adapters([first, third], MergeRule("lego", rank=3))


def test_a_module_trained_in_full_is_refused_by_name_or_merged_as_told(tmp_path):
    adapters = []
    for number, name in enumerate("ab"):
        path = folder(tmp_path / name, number, config={"modules_to_save": ["score"]})
        tensors = load_file(path / "adapter_model.safetensors")
        tensors["base_model.model.score.weight"] = torch.full((2, 10), float(number))
        save_file(tensors, path / "adapter_model.safetensors")
        adapters.append(open_adapter(path))
    with pytest.raises(UserError, match=r"base_model\.model\.score\.weight is trained in full.*extra=average"):
        write_merge(tmp_path / "m", adapters, MergeRule("cat"))
    write_merge(tmp_path / "m", adapters, MergeRule("cat"), extra="average")
    assert bool((load_file(tmp_path / "m" / "adapter_model.safetensors")["base_model.model.score.weight"] == 0.5).all())
    assert open_adapter(tmp_path / "m").settings.raw["modules_to_save"] == ["score"]


OLD = {
    "0.3": {"enable_lora": None, "merge_weights": False, "fan_in_fan_out": False, "bias": "none"},
    "0.7": {"loftq_config": {}, "megatron_config": None, "megatron_core": "megatron.core", "use_rslora": False},
    "0.10": {"use_dora": False, "layer_replication": None, "layers_pattern": None, "revision": None},
    "0.13": {"use_dora": False, "exclude_modules": None, "lora_bias": False, "eva_config": None},
    "0.17": {"corda_config": None, "trainable_token_indices": None, "qalora_group_size": 16, "use_qalora": False},
    "0.18": {"alora_invocation_tokens": None, "arrow_config": None, "ensure_weight_tying": False},
}
"""Keys by the release that brought or dropped them, with the values that a plain LoRA had."""


@pytest.mark.parametrize("release", OLD)
def test_configurations_of_every_release_are_read_and_merged_with_todays(tmp_path, release):
    config = OLD[release] | {"peft_version": release, "target_modules": ["q_proj"], "base_model_name_or_path": "x/y"}
    old = folder(tmp_path / "old", 0, config=config)
    tensors = load_file(old / "adapter_model.safetensors")
    if release == "0.3":  # the adapter's name stood in the keys
        tensors = {key.replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default."): value
                   for key, value in tensors.items()}  # fmt: skip
        save_file(tensors, old / "adapter_model.safetensors")
    adapters = [open_adapter(old), open_adapter(folder(tmp_path / "new", 1))]
    merged = merge_adapters(adapters, MergeRule("cat")).adapter
    for module in adapters[0].modules:
        wanted = sum(adapter.load(module).delta() for adapter in adapters)
        torch.testing.assert_close(merged.load(module).delta(), wanted)
