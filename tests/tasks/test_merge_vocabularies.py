"""`permlab task=merge task.tokenizer=union`: what is written loads, what is told adds up, what cannot be is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from here import command, metrics, rows
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from permlab.symmetry import apply, declare_huggingface

sys.path.insert(0, str(Path(__file__).parents[1] / "merging"))
from test_vocabularies import EMBEDDING, WORDS, save

pytestmark = pytest.mark.usefixtures("empty_folder")


def merge(*arguments):
    return command("task=merge", "task.models=[a,b]", *arguments)


def permuted_pair(tmp_path):
    """a, and b: a's units and tokens in other orders, with a word and three spare rows more."""
    one = save(tmp_path / "a", WORDS, tied=False)
    order = torch.tensor([0, 3, 1, 5, 4, 2])
    spec = declare_huggingface(one.config, one.state_dict())
    state = apply(spec, one.state_dict(), spec.random(torch.Generator().manual_seed(3)))
    for name in (EMBEDDING, "lm_head.weight"):
        state[name] = torch.cat([state[name][order], torch.randn(4, 16)])
    save(tmp_path / "b", [*(WORDS[k - 1] for k in order[1:]), "dog"], tied=False, size=10, state=state)
    return one


@pytest.mark.slow
def test_a_network_merged_with_itself_in_another_order_of_units_and_tokens_is_itself(tmp_path, capsys):
    one = permuted_pair(tmp_path)
    Path("texts.txt").write_text("the cat sat on the mat\nthe dog sat\nthe mat sat on the cat\n")
    scored = ["dataset=jsonl", "dataset.path=texts.txt", "task.points=3", "task.general.path=texts.txt"]
    assert merge("task.tokenizer=union", *scored, "task.general.tokens=8", "task.general.sequences=1") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "of 7 tokens 6 are known to all networks, 1 to some; 1 were appended, 0 of the others' were lost" in told
    assert "what a token is" in told
    model, tokenizer = (each.from_pretrained("run/artifacts/model") for each in (AutoModelForCausalLM, AutoTokenizer))
    ids = tokenizer("the cat sat on the mat", return_tensors="pt")["input_ids"]
    assert torch.allclose(model(ids).logits[..., :6], one(ids).logits, atol=1e-5)
    assert len(tokenizer) == 7 and model.config.vocab_size == 7 and len(model.lm_head.weight) == 7
    # The row of the appended token is b's own, in the order of units that both were brought to.
    theirs = load_file("b/model.safetensors")[EMBEDDING][6]
    (number,) = tokenizer("dog", add_special_tokens=False)["input_ids"]
    assert torch.equal(model.get_input_embeddings().weight[number].sort().values, theirs.sort().values)
    assert rows("vocabulary")[6] == {"row": "6", "token": "dog", "from": "b", "a": "-1", "b": "6"}
    assert metrics()["vocabulary_appended"] == 1 and abs(metrics()["loss_barrier"]) < 1e-3


@pytest.mark.slow
def test_networks_of_one_vocabulary_give_the_same_bytes(tmp_path):
    for seed, name in enumerate("ab"):
        save(tmp_path / name, WORDS, seed)
    written = []
    for given in ("task.tokenizer=null", "task.tokenizer=union", "task.tokenizer=base", "task.tokenizer=./b"):
        assert merge(given, "dataset=none", "task.general.sequences=0", f"run.dir=run{len(written)}") == 0
        folder = Path(f"run{len(written)}/artifacts/model")
        written.append([(folder / name).read_bytes() for name in ("model.safetensors", "config.json")])
        assert (folder / "tokenizer.json").is_file() and not Path(f"run{len(written)}/tables/vocabulary.csv").exists()
    assert all(each == written[0] for each in written)


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda: Path("b/tokenizer.json").unlink(), "b has no tokenizer.json"),
        (lambda: save(Path("b"), ["x", "y"]), "a and b have no token in common"),
    ],
)
def test_refusals_are_one_line_before_anything_is_written(spoil, line, tmp_path, capsys):
    for name in "ab":
        save(tmp_path / name, WORDS)
    spoil()
    for more in ([], ["run.dry_run=true"]):
        assert merge("task.tokenizer=union", "dataset=none", *more) == 2
        told = capsys.readouterr().err
        assert line in told and not Path("run").exists()


@pytest.mark.slow
def test_a_dry_run_accepts_vocabularies_that_are_mapped(tmp_path, capsys):
    permuted_pair(tmp_path)
    assert merge("dataset=none", "run.dry_run=true") == 2
    assert "vocabularies can be mapped: tokenizer=union" in " ".join(capsys.readouterr().out.split())
    assert merge("task.tokenizer=union", "dataset=none", "run.dry_run=true") == 0
