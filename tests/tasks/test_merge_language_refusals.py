"""What `permlab task=merge` says of language models before it starts: the dry run, and bad input in one line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from checkpoints_made import edit, save_pair
from language_runs import TINY, merge, speakers

pytestmark = pytest.mark.usefixtures("empty_folder")


def test_dry_run_compares_and_estimates(tmp_path, capsys):
    models, texts = speakers(tmp_path)
    assert merge(models, *texts, "run.dry_run=true") == 0
    shown = capsys.readouterr().out
    assert all(re.search(rf"\b{name} \(LlamaForCausalLM, 0\.\d\dM parameters\)", shown) for name in "ab")
    assert re.search(r"about [1-9][\d.]* [KM]iB, beside [1-9]\d* MiB of libraries", shown) and shown.endswith(
        "\nready\n"
    )
    assert not Path("run").exists()
    edit(tmp_path / "b", rms_norm_eps=0.1)
    assert merge(models, *texts, "run.dry_run=true") == 2
    assert re.search(r"not ready: .*rms_norm_eps: 1e-06 \| 0.1", capsys.readouterr().out)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    return save_pair(tmp_path_factory.mktemp("given"))


REFUSED = {
    "one": (["task.models=[A]"], "task.models has 1 network"),
    "missing": (["task.models=[A,./nowhere]"], "./nowhere does not exist"),
    "hub": (["task.models=[A,nobody/nothing]"], "nobody/nothing is not in the cache, and HF_HUB_OFFLINE=1"),
    "renorm": (["task.models=[A,B]", "task.renorm=reset"], "set task.renorm=none"),
    "budget": (["task.models=[A,B]", "task.budget=1.5"], "task.budget is for image networks"),
    "study": (["task.models=[A,B]", "task.study=lmc"], "task.study=lmc analyses image networks"),
    "match": (["task.models=[A,B]", "task.match=straight_through"], "language models take match identity, random"),
    "combine": (
        ["task.models=[A,B]", "task.combine=least_squares"],
        "and combine average, fisher, task_arithmetic, ties, dare, dare_ties",
    ),
    "no data": (["task.models=[A,B]", "task.match=activation"], "match=activation reads activations on texts"),
    "ancestor": (["task.models=[A,B]", "task.match=identity", "task.combine=ties"], "set task.ancestor=DIR"),
    "arc": (["task.models=[A,B,B]", "task.combine=slerp"], "combine=slerp joins two networks, not 3"),
    "little": (["task.models=[A,B]", "task.memory_gb=0.1"], "task.memory_gb=0.1 is out of range"),
    "nothing kept": (["task.models=[A,B]", "task.density=0"], "would drop every change"),
    "weights": (["task.models=[A,B]", "task.weights=[1]"], "task.weights has 1 values for 2 networks"),
    "images": (["task.models=[A,B]", "dataset=mnist", "dataset.path=A"], "dataset=mnist has no texts"),
    "no tokenizer": (["task.models=[A,B]", "dataset=people"], "has no tokenizer that loads"),
    "held out": ([*TINY, "task.text.held_out=1"], "task.text.held_out=1 is out of range"),
    "train on images": (
        ["model=tiny-llama", "dataset=digits"],
        "has no texts to train tiny-llama on",
    ),
    "no path": (["model=tiny-llama", "dataset=jsonl", "run.dry_run=true"], "dataset=jsonl needs dataset.path"),
    "lora": ([*TINY, "model.lora.rank=4"], "start from random weights"),
    "optimizer": ([*TINY, "task.train.optimizer=sgd"], "language models are trained with adam"),
    "two weights": ([*TINY, "task.weights=[1,1,1]"], "3 values for 2 networks"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_line_and_leaves_nothing(case, given, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    a, b = given
    places = [tmp_path, Path(a).parent]
    before = [sorted(place.rglob("*")) for place in places]
    arguments, line = REFUSED[case]
    found = [each.replace("[A", f"[{a}").replace(",B", f",{b}").replace("=A", f"={a}") for each in arguments]
    assert merge(*found) == 2
    err = capsys.readouterr().err
    assert line in err and "Traceback" not in err and len(err.strip().splitlines()) == 1
    assert [sorted(place.rglob("*")) for place in places] == before


def test_scores_are_refused_for_what_does_not_speak(tmp_path, capsys):
    save_pair(tmp_path, "bert")
    assert merge(f"task.models=[{tmp_path}/a,{tmp_path}/b]", "dataset=people") == 2
    assert "is a BertForSequenceClassification, which is merged but not scored" in capsys.readouterr().err
    assert not Path("run").exists()


@pytest.mark.slow
def test_networks_that_cannot_fit_into_memory_are_refused(tmp_path, capsys, monkeypatch):
    a, b = save_pair(tmp_path)
    monkeypatch.setattr("permlab.tasks.merge.needs.memory", lambda *_: 2.0**60)
    for more in (["run.dry_run=true"], []):
        assert merge(f"task.models=[{a},{b}]", *more) == 2
        said = capsys.readouterr()  # of a dry run the plan with why it is not ready, of the run the refusal
        assert "this run needs about 1,073,741,824 GiB" in said.out + said.err
        assert not Path("run").exists()
