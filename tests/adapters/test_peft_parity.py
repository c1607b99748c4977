"""The merge methods that PEFT >= 0.21 has, against its `add_weighted_adapter`; and what it gets wrong or refuses."""

from __future__ import annotations

import copy

import peft
import pytest
import torch
from torch import nn

from permlab.adapters import MergeRule, applied, merge_adapters, open_adapter, write_merge
from permlab.adapters.methods.dare import merge_dare
from permlab.errors import UserError


class Net(nn.Module):
    """Two linear layers, an embedding and a convolution; small enough for dense checks."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 12)
        self.first = nn.Linear(12, 20)
        self.second = nn.Linear(20, 8)
        self.conv = nn.Conv1d(8, 6, 3, padding=1)
        self.grid = nn.Conv2d(6, 4, 3, padding=1)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.second(torch.tanh(self.first(self.embed(ids))))
        return self.grid(self.conv(hidden.transpose(1, 2))[:, :, :, None])


LINEAR = ["first", "second"]
ALL = ["embed", "first", "second", "conv", "grid"]


def make(tmp_path, configs: list[dict], seed: int = 0) -> tuple[peft.PeftModel, list, Net]:
    """A PEFT model with one randomised adapter per config, and our view of the saved folders."""
    torch.manual_seed(seed)
    net = Net()
    model = None
    for index, keys in enumerate(configs):
        config = peft.LoraConfig(**keys)
        name = f"a{index}"
        if model is None:
            model = peft.get_peft_model(copy.deepcopy(net), config, adapter_name=name)
        else:
            model.add_adapter(name, config)
    for key, parameter in model.named_parameters():
        if "lora_" in key:
            parameter.data = torch.randn_like(parameter) * 0.3
    model.save_pretrained(tmp_path)
    return model, [open_adapter(tmp_path / f"a{index}") for index in range(len(configs))], net


def peft_deltas(model: peft.PeftModel, name: str) -> dict[str, torch.Tensor]:
    found = {}
    for key, module in model.named_modules():
        if isinstance(module, peft.tuners.lora.LoraLayer) and name in module.r:
            delta = module.get_delta_weight(name).detach()
            delta = delta.T if isinstance(module, peft.tuners.lora.Embedding) else delta
            found[key.removeprefix("base_model.model.")] = delta.reshape(delta.shape[0], -1)
    return found


def assert_same(model: peft.PeftModel, name: str, rule: MergeRule, adapters: list) -> None:
    ours = merge_adapters(adapters, rule).adapter
    theirs = peft_deltas(model, name)
    assert set(theirs) == set(ours.modules)
    for module, delta in theirs.items():
        torch.testing.assert_close(ours.load(module).delta(), delta, atol=1e-5, rtol=1e-5)


TWO = [{"r": 4, "lora_alpha": 8, "target_modules": LINEAR}, {"r": 4, "lora_alpha": 2, "target_modules": LINEAR}]


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.7, 0.4), (0.6, -0.9)])
@pytest.mark.parametrize("method", ["linear", "cat", "svd"])
def test_linear_cat_and_svd(tmp_path, method, weights):
    model, adapters, _ = make(tmp_path, TWO)
    model.add_weighted_adapter(["a0", "a1"], list(weights), "m", combination_type=method)
    assert_same(model, "m", MergeRule(method=method, weights=weights), adapters)


@pytest.mark.parametrize("sign_method", ["total", "frequency"])
@pytest.mark.parametrize("space, kind", [("factor", "ties"), ("delta", "ties_svd")])
def test_ties(tmp_path, space, kind, sign_method):
    model, adapters, _ = make(tmp_path, TWO)
    model.add_weighted_adapter(
        ["a0", "a1"], [0.8, 1.3], "m", kind, svd_rank=8, density=0.3, majority_sign_method=sign_method
    )
    rule = MergeRule("ties", weights=[0.8, 1.3], density=0.3, trim_space=space, sign_method=sign_method)
    assert_same(model, "m", rule, adapters)


@pytest.mark.parametrize("election", [False, True])
@pytest.mark.parametrize("space", ["factor", "delta"])
def test_dare_with_the_same_seed(tmp_path, space, election):
    one = [dict(keys, target_modules=["first"]) for keys in TWO]
    model, adapters, _ = make(tmp_path, one)
    kind = ("dare_ties" if election else "dare_linear") + ("_svd" if space == "delta" else "")
    # Making the merged adapter draws its initial weights first; a copy shows where the generator stands after that.
    torch.manual_seed(5)
    kept, torch.bernoulli = torch.bernoulli, None
    drawn = []

    def recorded(probability: torch.Tensor) -> torch.Tensor:
        if not drawn:
            torch.manual_seed(5)
        drawn.append(probability.shape)
        return kept(probability)

    torch.bernoulli = recorded
    try:
        model.add_weighted_adapter(["a0", "a1"], [0.8, 1.3], "m", kind, svd_rank=8, density=0.4)
    finally:
        torch.bernoulli = kept
    assert len(drawn) == (4 if space == "factor" else 2)
    rule = MergeRule("dare", density=0.4, trim_space=space, election=election)
    updates = [adapter.load("first") for adapter in adapters]
    ours = merge_dare(updates, [0.8, 1.3], 8, rule, 5)
    torch.testing.assert_close(ours.delta(), peft_deltas(model, "m")["first"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", ["cat", "svd"])
def test_embeddings_and_convolutions(tmp_path, method):
    modules = ALL if method == "cat" else [name for name in ALL if name != "conv"]  # PEFT's svd fails on Conv1d
    configs = [{"r": 3, "lora_alpha": 6, "target_modules": modules}] * 2
    model, adapters, _ = make(tmp_path, configs)
    assert adapters[0].modules["grid"].in_shape == (6, 3, 3)
    assert adapters[0].modules["embed"].kind == "embedding"
    model.add_weighted_adapter(["a0", "a1"], [1.0, 0.5], "m", combination_type=method)
    assert_same(model, "m", MergeRule(method=method, weights=[1.0, 0.5]), adapters)


# rsLoRA, per-module ranks and alphas, mixed ranks, regular expressions: one adapter of each kind beside a plain one.
AWKWARD = {
    "rslora": {"r": 4, "lora_alpha": 8, "use_rslora": True, "target_modules": LINEAR},
    "patterns": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": LINEAR,
        "rank_pattern": {"second": 2},
        "alpha_pattern": {"^first": 3},
    },
    "regex": {"r": 6, "lora_alpha": 3, "target_modules": ".*(first|conv)"},
    "everything": {"r": 2, "lora_alpha": 8, "use_rslora": True, "target_modules": ALL, "rank_pattern": {"grid": 3}},
}


@pytest.mark.parametrize("method", ["cat", "svd", "lego", "knots"])
@pytest.mark.parametrize("kind", AWKWARD)
def test_peft_loads_the_folder_and_gives_the_outputs_of_our_delta(tmp_path, kind, method):
    _, adapters, net = make(tmp_path, [AWKWARD[kind], TWO[0]])
    rank = 5 if method == "svd" else None
    rule = MergeRule(method=method, rank_pattern={"^first$": rank} if rank else {})
    write_merge(tmp_path / "merged", adapters, rule)
    ids = torch.arange(11)[None]
    ours = merge_adapters(adapters, rule).adapter
    plain = net(ids)
    with applied(net, ours):
        wanted = net(ids)
    assert torch.equal(net(ids), plain)
    loaded = peft.PeftModel.from_pretrained(net, tmp_path / "merged")
    assert not loaded.load_adapter(tmp_path / "merged", "again").unexpected_keys
    torch.testing.assert_close(loaded(ids), wanted, atol=1e-5, rtol=1e-5)
    assert float((wanted - plain).detach().abs().max()) > 1e-2


@pytest.mark.parametrize("kind", AWKWARD)
def test_one_adapter_of_an_awkward_kind_is_its_own_sum(tmp_path, kind):
    model, adapters, _ = make(tmp_path, [AWKWARD[kind]])
    assert_same(model, "a0", MergeRule(method="cat"), adapters)


def test_peft_scales_rslora_merges_wrongly_and_we_do_not(tmp_path):
    model, adapters, net = make(tmp_path, [AWKWARD["rslora"]])
    truth = peft_deltas(model, "a0")
    model.add_weighted_adapter(["a0"], [1.0], "m", combination_type="cat")
    theirs = peft_deltas(model, "m")["first"]
    assert float((theirs - truth["first"]).norm() / truth["first"].norm()) > 0.5
    write_merge(tmp_path / "merged", adapters, MergeRule(method="cat"))
    loaded = peft.PeftModel.from_pretrained(net, tmp_path / "merged", adapter_name="m")
    torch.testing.assert_close(peft_deltas(loaded, "m")["first"], truth["first"], atol=1e-5, rtol=1e-5)


def test_mixed_ranks_are_refused_where_factors_are_added(tmp_path):
    _, adapters, _ = make(tmp_path, [AWKWARD["patterns"], TWO[0]])
    with pytest.raises(UserError, match=r"equal ranks, found \[2, 4\]; use one of the methods lego, cat"):
        merge_adapters(adapters, MergeRule(method="linear"))


def test_transformers_conv1d_layout(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 20, "n_positions": 8}
    base = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).eval()
    config = peft.LoraConfig(r=2, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)
    model = peft.get_peft_model(copy.deepcopy(base), config)
    for key, parameter in model.named_parameters():
        if "lora_" in key:
            parameter.data = torch.randn_like(parameter) * 0.2
    model.save_pretrained(tmp_path / "gpt")
    ids = torch.arange(8)[None]
    with applied(base, open_adapter(tmp_path / "gpt")):
        torch.testing.assert_close(base(ids).logits, model.eval()(ids).logits, atol=1e-5, rtol=1e-5)
