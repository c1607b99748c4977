"""`permlab task=merge` by recipe, with a factor searched for, with Fisher information: what is written, and loads."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from checkpoints_made import network
from here import command, rows
from language_runs import TEXTS
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from permlab.models.tokenizers import train_tokenizer

sys.path.insert(0, str(Path(__file__).parents[1] / "merging"))
from recipes_made import MERGEKIT, RECIPES, projection_of, save, state

SCORED = ["dataset=jsonl", "dataset.path=texts.txt", "task.points=3"]


pytestmark = pytest.mark.usefixtures("empty_folder")


def merge(*arguments):
    return command("task=merge", *arguments, "task.controls=false")


def written(recipe, **more):
    Path("recipe.yml").write_text(yaml.safe_dump(json.loads(json.dumps({**recipe, **more}))))
    return "task.recipe=recipe.yml"


def logits(model):
    return model.eval()(input_ids=torch.arange(3, 12)[None]).logits


@pytest.mark.slow
def test_a_recipe_of_three_networks_loads_in_transformers_with_the_expected_logits(tmp_path):
    save(tmp_path)
    assert merge(written(RECIPES["TIES"], dtype="float32"), "dataset=none") == 0
    assert projection_of(Path("run/artifacts/model")) == pytest.approx(MERGEKIT["TIES"], abs=3e-4)
    found = AutoModelForCausalLM.from_pretrained("run/artifacts/model")
    expected = AutoModelForCausalLM.from_pretrained("a")
    # TIES spelled out in place: each tensor's largest entries, elected by weight, and 0.8 of their mean.
    base, changes = state("base"), []
    for name, share in (("a", 0.5), ("b", 0.25), ("c", 0.75)):
        change = {key: value - base[key] for key, value in state(name).items()}
        limits = {key: value.abs().flatten().sort(descending=True).values for key, value in change.items()}
        changes.append({k: v.where(v.abs() >= limits[k][int(share * v.numel()) - 1], 0.0) for k, v in change.items()})
    whole = {}
    for key, value in base.items():
        votes = torch.stack([weight * each[key] for weight, each in zip((1.0, 0.5, 0.25), changes)])
        agrees = (votes.sign() == votes.sum(0).sign()) & (votes != 0)
        shares = (torch.tensor([1.0, 0.5, 0.25]).view(3, *[1] * value.dim()) * agrees).sum(0)
        whole[key] = value + 0.8 * (votes * agrees).sum(0) / shares.where(shares > 0, 1.0)
    expected.load_state_dict(whole)
    assert torch.allclose(logits(found), logits(expected), atol=1e-5)
    record = json.loads(Path("run/artifacts/model/merge.json").read_text())
    assert "merge_method: ties" in record["recipe"] and record["weights"] == [] and len(record["inputs"]) == 4


@pytest.mark.slow
def test_stacked_layers_and_another_number_type_load_too(tmp_path):
    save(tmp_path)
    assert merge(written(RECIPES["stacked layers"], dtype="bfloat16"), "dataset=none") == 0
    found = AutoModelForCausalLM.from_pretrained("run/artifacts/model")
    assert len(found.model.layers) == 4 and found.dtype == torch.bfloat16
    layer = found.model.layers[3].mlp.up_proj.weight
    assert torch.equal(layer, state("b")["model.layers.2.mlp.up_proj.weight"].bfloat16())
    shutil.rmtree("run")
    twice = {"merge_method": "passthrough", "slices": [{"sources": [{"model": "a", "layer_range": [0, 3]}]}] * 2}
    assert merge(written(json.loads(json.dumps(twice))), "dataset=none") == 0
    assert len(AutoModelForCausalLM.from_pretrained("run/artifacts/model").model.layers) == 6


@pytest.mark.slow
@pytest.mark.parametrize(("source", "owner"), [("model:b", "b"), ("./b", "b")])
def test_the_tokenizer_is_that_of_the_network_that_is_named(source, owner, tmp_path):
    save(tmp_path)
    for name in ("base", "a", "b"):
        Path(name, "tokenizer_config.json").write_text(json.dumps({"of": name}))
    assert merge(written(RECIPES["TIES"], tokenizer_source=source), "dataset=none") == 0
    assert json.loads(Path("run/artifacts/model/tokenizer_config.json").read_text()) == {"of": owner}


@pytest.mark.slow
@pytest.mark.parametrize(("source", "tokens"), [("union", 8), ("base", 6)])
def test_a_recipe_brings_vocabularies_together(source, tokens, tmp_path):
    save(tmp_path)
    words = {"base": ["<s>", "the", "cat", "sat", "on", "mat"], "b": ["<s>", "cat", "the", "dog", "sat", "on"]}
    for name in ("base", "a", "b", "c"):
        own = words.get(name, words["base"][::-1] if name == "a" else [*words["base"], "bird"])
        backend = Tokenizer(WordLevel({word: k for k, word in enumerate(own)}, unk_token="<s>"))
        PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>").save_pretrained(tmp_path / name)
    assert merge(written(RECIPES["TIES"], tokenizer_source=source), "dataset=none") == 0
    table = rows("vocabulary")
    named = [row["token"] for row in table if row["token"]]
    assert named == [*words["base"], "dog", "bird"][:tokens] and len(table) == 40
    assert table[1] | {"from": "all", "base": "1", "a": "4", "b": "2", "c": "1"} == table[1]
    record = json.loads(Path("run/artifacts/model/merge.json").read_text())["vocabulary"]
    assert record["tokenizer"] == source and record["tokens"] == tokens and record["lost"] == 8 - tokens
    found = AutoModelForCausalLM.from_pretrained("run/artifacts/model")
    assert len(AutoTokenizer.from_pretrained("run/artifacts/model")) == tokens
    # TIES with weights 1, 0.5 and 0.25 by token: whatever happens, a token of one network is its row.
    if source == "union":
        assert torch.equal(found.get_input_embeddings().weight[6], state("b")["model.embed_tokens.weight"][3])
        assert torch.equal(found.lm_head.weight[7], state("c")["lm_head.weight"][6])


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (["task.models=[a,b]"], "task.models and task.recipe say the same thing"),
        (["task.density=0.5"], "task.density and task.recipe say the same thing"),
        (["task.scales=[1,2]"], "task.scales: a recipe says itself"),
    ],
)
def test_a_recipe_beside_keys_that_say_the_same_is_refused(keys, line, tmp_path, capsys):
    save(tmp_path)
    assert merge(written(RECIPES["TIES"]), *keys, "dataset=none") == 2
    assert line in capsys.readouterr().err and not Path("run").exists()


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (["task.combine=fisher"], "files of it with task.fisher, or texts"),
        (["task.combine=fisher", "task.fisher=[x.safetensors]"], "task.fisher has 1 files for 2 networks"),
        (["task.fisher=[x.safetensors,y.safetensors]"], "task.fisher belongs to task.combine=fisher"),
        (["task.scale=0.5"], "task.scale is about changes since an ancestor"),
        (["task.dtype=int8"], "task.dtype=int8"),
        (["task.tokenizer=c.json"], "task.tokenizer=c.json is no folder"),
        (["task.combine=ties", "task.ancestor=base", "task.match=identity", "task.scales=[1,2]"], "compared on texts"),
        (
            ["task.combine=ties", "task.ancestor=base", "task.match=identity", "task.densities=[1]"],
            "has 1 values for 2",
        ),
    ],
)
def test_keys_that_no_arm_has_a_use_for_are_one_line(keys, line, tmp_path, capsys):
    save(tmp_path)
    assert merge("task.models=[a,b]", *keys, "dataset=none") == 2
    assert line in capsys.readouterr().err and not Path("run").exists()


@pytest.mark.slow
def test_fisher_information_from_files_weighs_every_entry(tmp_path):
    save(tmp_path)
    ones = {name: torch.ones_like(value) for name, value in state("a").items()}
    known = "model.layers.1.mlp.up_proj.weight"
    save_file(ones, "fa.safetensors")
    save_file(ones | {known: torch.full_like(ones[known], 3.0)}, "fb.safetensors")
    keys = ["task.combine=fisher", "task.match=identity", "task.fisher=[fa.safetensors,fb.safetensors]"]
    assert merge("task.models=[a,b]", *keys, "dataset=none") == 0
    found, a, b = load_file("run/artifacts/model/model.safetensors"), state("a"), state("b")
    assert torch.allclose(found[known], a[known] / 4 + 3 * b[known] / 4, atol=1e-5)
    assert torch.allclose(found["lm_head.weight"], (a["lm_head.weight"] + b["lm_head.weight"]) / 2, atol=1e-5)


def speakers(folder):
    tokenizer = train_tokenizer(TEXTS, "word", 101)
    for name, seed in (("base", 0), ("a", 1), ("b", 2)):
        model = network("llama-tied", 0)
        with torch.no_grad():
            generator = torch.Generator().manual_seed(seed)
            for parameter in model.parameters():
                parameter.add_(0.02 * seed * torch.randn(parameter.shape, generator=generator))
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    (folder / "texts.txt").write_text("\n".join(TEXTS))


@pytest.mark.slow
def test_the_factor_on_changes_is_chosen_on_texts_that_are_not_scored(tmp_path):
    speakers(tmp_path)
    keys = ["task.models=[a,b]", "task.ancestor=base", "task.match=identity", "task.combine=task_arithmetic"]
    assert merge(*keys, "task.scales=[0.1,1,30]", *SCORED) == 0
    losses = {float(row["scale"]): float(row["loss"]) for row in rows("scales")}
    best = min(losses, key=losses.get)
    assert set(losses) == {0.1, 1.0, 30.0} and best != 30
    assert json.loads(Path("run/artifacts/model/merge.json").read_text()).get("scale", 1.0) == best
    base, a, b, found = (
        load_file(f"{folder}/model.safetensors") for folder in ("base", "a", "b", "run/artifacts/model")
    )
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.allclose(found[name], base[name] + best * (a[name] + b[name] - 2 * base[name]), atol=1e-6)


@pytest.mark.slow
def test_fisher_information_is_computed_on_texts(tmp_path):
    speakers(tmp_path)
    assert merge("task.models=[a,b]", "task.match=identity", "task.combine=fisher", *SCORED) == 0
    files = [load_file(f"run/artifacts/fisher/{k}.safetensors") for k in range(2)]
    assert all(bool((value >= 0).all()) for file in files for value in file.values())
    name = "model.layers.0.mlp.up_proj.weight"
    a, b, found = (load_file(f"{folder}/model.safetensors")[name] for folder in ("a", "b", "run/artifacts/model"))
    floor = (
        1e-6
        * sum(float(v.sum()) for f in files for v in f.values())
        / sum(v.numel() for f in files for v in f.values())
    )
    one, two = (file[name] + floor for file in files)
    assert torch.allclose(found, (one * a + two * b) / (one + two), atol=1e-5)
