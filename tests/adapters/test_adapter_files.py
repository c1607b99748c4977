"""Reading and writing adapter folders: round trips, refusals, and nothing left behind."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from permlab.adapters import Factors, MergeRule, merge_adapters, open_adapter, write_adapter, write_merge
from permlab.adapters.factors import random_adapter
from permlab.adapters.settings import LoraSettings, match_pattern, targets
from permlab.errors import UserError

SHAPES = {"model.layers.0.q_proj": (12, 10), "model.layers.1.q_proj": (12, 10)}


def folder(path, seed: int = 0, rank: int = 3, shapes=SHAPES, config: dict | None = None, dtype=torch.float32):
    """An adapter folder with keys as PEFT writes them."""
    path.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for module, update in random_adapter("x", shapes, rank, seed).tensors.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = update.a.to(dtype)
        tensors[f"base_model.model.{module}.lora_B.weight"] = update.b.to(dtype).contiguous()
    save_file(tensors, path / "adapter_model.safetensors", metadata={"format": "pt"})
    stated = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": ["q_proj"]}
    (path / "adapter_config.json").write_text(json.dumps(stated | (config or {})))
    return path


def edit_tensors(path, **changes) -> None:
    tensors = load_file(path / "adapter_model.safetensors")
    tensors.update({key.replace("__", "."): value for key, value in changes.items()})
    save_file(tensors, path / "adapter_model.safetensors")


def test_unknown_config_keys_survive_a_round_trip(tmp_path):
    odd = {"invented_key": {"deep": [1, 2]}, "base_model_name_or_path": "some/base", "revision": None}
    first = folder(tmp_path / "a", config=odd)
    write_merge(tmp_path / "m", [open_adapter(first)], MergeRule(method="cat"))
    config = json.loads((tmp_path / "m" / "adapter_config.json").read_text())
    assert {key: config[key] for key in odd} == odd
    assert config["target_modules"] == ["q_proj"]
    assert open_adapter(tmp_path / "m").settings.raw == config


def test_written_folder_reads_back_and_states_its_inputs(tmp_path):
    adapters = [open_adapter(folder(tmp_path / name, seed)) for seed, name in enumerate("ab")]
    merged = write_merge(tmp_path / "m", adapters, MergeRule(rank=4, rank_pattern={"layers.1.q_proj": 2}))
    again = open_adapter(tmp_path / "m")
    assert {name: info.rank for name, info in again.modules.items()} == {
        "model.layers.0.q_proj": 4,
        "model.layers.1.q_proj": 2,
    }
    assert all(info.scaling == 1.0 for info in again.modules.values())
    memory = merge_adapters(adapters, MergeRule(rank=4, rank_pattern={"layers.1.q_proj": 2})).adapter
    for module in again.modules:
        assert torch.equal(again.load(module).a, memory.load(module).a)
    assert set(merged.reports) == set(SHAPES)
    card = (tmp_path / "m" / "README.md").read_text()
    record = json.loads((tmp_path / "m" / "merge.json").read_text())
    for adapter, entry in zip(adapters, record["inputs"]):
        assert entry["sha256"] == adapter.sha256()
        assert adapter.sha256() in card
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "m"]


def test_half_precision_stays_half_precision(tmp_path):
    first = open_adapter(folder(tmp_path / "a", dtype=torch.bfloat16))
    second = open_adapter(folder(tmp_path / "b", 1, dtype=torch.float16))
    write_merge(tmp_path / "one", [first], MergeRule(method="cat"))
    write_merge(tmp_path / "two", [first, second], MergeRule(method="cat"))
    assert {t.dtype for t in load_file(tmp_path / "one" / "adapter_model.safetensors").values()} == {torch.bfloat16}
    assert {t.dtype for t in load_file(tmp_path / "two" / "adapter_model.safetensors").values()} == {torch.float32}


def test_write_adapter_folds_the_scaling_in(tmp_path):
    source = random_adapter("x", SHAPES, 3, 0, alpha=12.0)
    write_adapter(tmp_path / "w", source)
    again = open_adapter(tmp_path / "w")
    for module in SHAPES:
        torch.testing.assert_close(again.load(module).delta(), source.load(module).delta())


def test_older_keys_with_the_adapter_name_are_read(tmp_path):
    path = folder(tmp_path / "a")
    tensors = load_file(path / "adapter_model.safetensors")
    renamed = {key.replace(".weight", ".default.weight"): value for key, value in tensors.items()}
    save_file(renamed, path / "adapter_model.safetensors")
    assert set(open_adapter(path).modules) == set(SHAPES)


def test_shards_with_an_index(tmp_path):
    path = folder(tmp_path / "a")
    tensors = load_file(path / "adapter_model.safetensors")
    whole = open_adapter(path)
    wanted = {module: whole.load(module).delta() for module in SHAPES}
    (path / "adapter_model.safetensors").unlink()
    weight_map = {}
    for number, (key, value) in enumerate(tensors.items()):
        save_file({key: value}, path / f"part-{number}.safetensors")
        weight_map[key] = f"part-{number}.safetensors"
    index = path / "adapter_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    sharded = open_adapter(path)
    for module in SHAPES:
        assert torch.equal(sharded.load(module).delta(), wanted[module])
    index.write_text(json.dumps({"weight_map": dict(weight_map, **{key: f"../{weight_map[key]}"})}))
    with pytest.raises(UserError, match=r"points outside the folder \(\.\./part-3"):
        open_adapter(path)


REFUSED = {
    "DoRA": ({"use_dora": True}, "DoRA"),
    "bias": ({"lora_bias": True}, "lora_bias"),
    "other kind": ({"peft_type": "LOHA"}, "LOHA adapter"),
    "pissa": ({"init_lora_weights": "pissa_niter_4"}, "rewrites the base weights"),
    "rank": ({"r": 5}, "rank 3 in the file and 5"),
    "zero rank": ({"r": 0}, "at least 1"),
    "pattern": ({"rank_pattern": {"(": 3}}, "cannot be read"),
    "pattern type": ({"rank_pattern": [3]}, "cannot be read"),
    "base type": ({"base_model_name_or_path": True}, "base_model_name_or_path must be a name, not True"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_what_is_not_plain_lora_in_one_line(tmp_path, case):
    config, reason = REFUSED[case]
    with pytest.raises(UserError, match=reason) as problem:
        open_adapter(folder(tmp_path / "a", config=config))
    assert "\n" not in str(problem.value)


def test_refuses_variant_tensors_pickles_and_damaged_files(tmp_path):
    path = folder(tmp_path / "dora")
    edit_tensors(path, **{"base_model.model.x.lora_magnitude_vector": torch.ones(3)})
    with pytest.raises(UserError, match="belongs to DoRA"):
        open_adapter(path)
    path = folder(tmp_path / "cut")
    whole = (path / "adapter_model.safetensors").read_bytes()
    (path / "adapter_model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="truncated or damaged"):
        open_adapter(path)
    path = folder(tmp_path / "pickle")
    (path / "adapter_model.safetensors").rename(path / "adapter_model.bin")
    with pytest.raises(UserError, match="is a pickle"):
        open_adapter(path)
    with pytest.raises(UserError, match="neither a folder nor a hub id"):
        open_adapter(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no adapter_config\.json"):
        open_adapter(tmp_path / "empty")
    path = folder(tmp_path / "grouped")
    edit_tensors(path, **{"base_model.model.model.layers.0.q_proj.lora_B.weight": torch.ones(12, 2)})
    with pytest.raises(UserError, match="do not multiply"):
        open_adapter(path)
    path = folder(tmp_path / "half")
    edit_tensors(path, **{"base_model.model.lonely.lora_A.weight": torch.ones(3, 4)})
    with pytest.raises(UserError, match="lonely has no lora_B"):
        open_adapter(path)


@pytest.mark.parametrize(
    "shapes, rule, reason",
    [
        ({"model.layers.0.q_proj": (12, 11)}, {}, r"\(12, 10\) in a and \(12, 11\) in b"),
        ({"other.q_proj": (12, 10)}, {}, "no module that another adapter adapts"),
        (SHAPES, {"rank": 7}, r"rank=7 does not fit model.layers.0.q_proj, which has 6 units of rank 3\+3"),
        (SHAPES, {"rank_ratio": 1.5}, "choose a rank from 1 to 6"),
        (SHAPES, {"weights": [1.0]}, "weights has 1 values for 2 adapters"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(tmp_path, shapes, rule, reason):
    adapters = [open_adapter(folder(tmp_path / "a")), open_adapter(folder(tmp_path / "b", 1, shapes=shapes))]
    with pytest.raises(UserError, match=reason) as problem:
        write_merge(tmp_path / "m", adapters, MergeRule(**rule))
    assert "\n" not in str(problem.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_nan_is_refused_and_leaves_nothing(tmp_path):
    path = folder(tmp_path / "a")
    edit_tensors(path, **{"base_model.model.model.layers.1.q_proj.lora_A.weight": torch.full((3, 10), float("nan"))})
    with pytest.raises(UserError, match=r"a: model.layers.1.q_proj holds values that are not finite"):
        write_merge(tmp_path / "m", [open_adapter(path)], MergeRule(method="svd"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_a_folder_that_is_no_adapter_is_not_overwritten(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="is not overwritten"):
        write_merge(tmp_path / "m", [open_adapter(folder(tmp_path / "a"))], MergeRule())
    assert (tmp_path / "m" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("rule, value", [("average", 2.0), ("first", 1.0), ("drop", None)])
def test_tensors_beside_the_factors(tmp_path, rule, value):
    adapters = []
    for name, size in (("a", 1.0), ("b", 3.0)):
        path = folder(tmp_path / name, int(size))
        edit_tensors(path, **{"base_model.model.score.weight": torch.full((2, 2), size)})
        adapters.append(open_adapter(path))
    with pytest.raises(UserError, match=r"set extra=average"):
        write_merge(tmp_path / "m", adapters, MergeRule())
    write_merge(tmp_path / "m", adapters, MergeRule(), extra=rule)
    found = load_file(tmp_path / "m" / "adapter_model.safetensors").get("base_model.model.score.weight")
    assert found is None if value is None else torch.equal(found, torch.full((2, 2), value))


def test_a_module_that_only_some_adapters_have_is_kept(tmp_path):
    wide = dict(SHAPES, extra=(4, 4))
    adapters = [open_adapter(folder(tmp_path / "a")), open_adapter(folder(tmp_path / "b", 1, shapes=wide))]
    merged = merge_adapters(adapters, MergeRule(method="cat", weights=[1.0, 2.0])).adapter
    torch.testing.assert_close(merged.load("extra").delta(), 2 * adapters[1].load("extra").delta())
    assert merged.modules["extra"].rank == 3


def test_pattern_matching_follows_the_rules_of_peft():
    from peft.utils.other import get_pattern_key

    patterns = ["q_proj", "^model.v", r"layers\.[01]\.up", "a.b"]
    for module in (
        "model.q_proj",
        "q_proj",
        "xq_proj",
        "model.v",
        "x.model.v",
        "m.layers.1.up",
        "m.layers.2.up",
        "c.a.b",
    ):
        ours = match_pattern(patterns, module)
        assert (ours or module) == get_pattern_key(patterns, module)
    assert targets(["q_proj", "up"], "m.up") and not targets(["up"], "m.sup")
    assert targets(r".*\.(q|v)_proj", "m.q_proj") and not targets("q_proj", "m.q_proj")


def test_rank_stabilised_scaling():
    settings = LoraSettings.from_json({"r": 16, "lora_alpha": 8, "use_rslora": True, "alpha_pattern": {"v": 4}})
    assert settings.scaling("m.q", 16) == 2.0
    assert settings.scaling("m.v", 4) == 2.0


def test_memory_adapter_and_file_give_the_same_merge(tmp_path):
    paths = [folder(tmp_path / name, seed) for seed, name in enumerate("ab")]
    memory = [random_adapter(name, SHAPES, 3, seed) for seed, name in enumerate("ab")]
    from_files = merge_adapters([open_adapter(path) for path in paths], MergeRule(rank=4)).adapter
    from_memory = merge_adapters(memory, MergeRule(rank=4)).adapter
    for module in SHAPES:
        left, right = from_files.load(module), from_memory.load(module)
        assert isinstance(left, Factors) and torch.equal(left.a, right.a) and torch.equal(left.b, right.b)


def test_layers_to_transform_of_one_input_does_not_hide_the_others(tmp_path):
    only_first = {"model.layers.0.q_proj": (12, 10)}
    first = open_adapter(folder(tmp_path / "a", shapes=only_first, config={"layers_to_transform": [0]}))
    second = open_adapter(folder(tmp_path / "b", 1))
    write_merge(tmp_path / "m", [first, second], MergeRule(method="cat"))
    config = json.loads((tmp_path / "m" / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(SHAPES)
    assert config["layers_to_transform"] is None


def test_an_unreachable_hub_id_is_one_line(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="cannot be fetched from the hub") as problem:
        open_adapter("nobody/nothing-here")
    assert "\n" not in str(problem.value)
