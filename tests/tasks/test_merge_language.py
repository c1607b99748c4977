"""`permlab task=merge` on language models: trained here, or Hugging Face folders of the user; scores and refusals."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch
from checkpoints_made import edit, inputs_of, network, save_pair
from transformers import AutoModelForCausalLM, AutoTokenizer, ViTForImageClassification

from permlab import cli
from permlab.merging import average
from permlab.merging.measure.summary import NAMES
from permlab.merging.networks.language import LanguagePairs
from permlab.merging.networks.loading import load_networks
from permlab.models.tokenizers import train_tokenizer
from permlab.symmetry import apply, declare_huggingface

QUIET = ["tracker=none", "hardware=cpu", "hardware.threads=1", "run.dir=run"]
TINY = [
    "model=tiny-llama", "dataset=people", "dataset.people=6", "dataset.templates=2", "model.scratch.hidden_size=32",
    "model.scratch.layers=2", "model.scratch.kv_heads=2", "model.scratch.intermediate_size=48", "task.points=3",
    "task.train.epochs=2", "task.train.batch_size=8",
]  # fmt: skip
TEXTS = ["the cat sat on the mat", "a dog ran to the cat", "the dog sat", "a cat ran to the mat and sat there"]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def merge(*arguments: str) -> int:
    try:
        return int(cli.main(["task=merge", *arguments, *QUIET]) or 0)
    except SystemExit as stop:
        return int(stop.code or 0)


def arms(run="run") -> dict[tuple[str, str], dict[str, float]]:
    """(arm, set of texts) -> numbers of its last pair."""
    with open(f"{run}/tables/arms.csv") as handle:
        rows = list(csv.DictReader(handle))
    found = {}
    for row in rows:
        numbers = {k: float(v) for k, v in row.items() if v and k not in NAMES}
        train = {k.removeprefix("train_"): v for k, v in numbers.items() if k.startswith("train_")}
        test = {k: v for k, v in numbers.items() if not k.startswith("train_")}
        for name, own in (("test", test), ("train", train)):
            if own:
                found[row["arm"], name] = own | {"loss": own.get("midpoint_loss")}
    return found


def result(run="run") -> dict:
    found = json.loads(Path(run, "result.json").read_text())
    assert found["status"] == "done"
    return found


def speakers(folder, name="llama-tied", change=None):
    """Folders a and b with a tokenizer each, and a file of texts."""
    tokenizer = train_tokenizer(TEXTS, "word", 101)
    model = network(name, 0)
    spec = declare_huggingface(model.config, model.state_dict())
    for at, letter in enumerate("ab"):
        other = network(name, at)
        if change is not None and at:
            other.load_state_dict(change(spec, model.state_dict()))
        other.save_pretrained(folder / letter)
        tokenizer.save_pretrained(folder / letter)
    (folder / "texts.txt").write_text("\n".join(TEXTS * 1))
    return f"task.models=[{folder}/a,{folder}/b]", ["dataset=jsonl", f"dataset.path={folder}/texts.txt"]


@pytest.mark.slow
def test_pairs_trained_here(tmp_path):
    assert merge(*TINY, "task.pairs=2", "task.compare=[activation]") == 0
    table, metrics = arms(), result()["metrics"]
    labels = {
        "network A",
        "network B",
        "weight matching",
        "no permutation",
        "random permutation",
        "activation matching",
    }
    labels |= {"ensemble", "untrained network", "untrained networks, weight matching"}
    assert set(table) == {(arm, texts) for arm in labels for texts in ("test", "train")}
    with open("run/tables/arms.csv") as handle:
        rows = list(csv.DictReader(handle))
    for arm, prefix in (
        ("weight matching", ""),
        ("no permutation", "naive_"),
        ("activation matching", "activation_matching_"),
    ):
        losses = [float(row["midpoint_loss"]) for row in rows if row["arm"] == arm]
        assert len(losses) == 2 and losses[0] != losses[1]
        assert metrics[f"{prefix}midpoint_loss"] == pytest.approx(sum(losses) / 2)
        assert metrics[f"{prefix}midpoint_perplexity"] == pytest.approx(math.exp(sum(losses) / 2))
    assert metrics["largest_end_change"] < 1e-5
    assert 0 < metrics["l2_reduction"] < 1 and metrics["untrained_loss"] > metrics["endpoint_loss"]
    with open("run/tables/curves.csv") as handle:
        curve = [row for row in csv.DictReader(handle) if (row["arm"], row["set"]) == ("weight matching", "test")]
    assert [float(row["position"]) for row in curve] == [0, 0.5, 1] * 2
    first = [float(row["loss"]) for row in curve[:3]]
    mine = next(row for row in rows if row["arm"] == "weight matching")
    assert float(mine["loss_barrier"]) == pytest.approx(first[1] - (first[0] + first[2]) / 2)
    for name in ("barriers.png", "arms.svg"):
        assert Path("run/figures", name).stat().st_size > 5000
    # What is written is a mean of the two networks that are written too, and says the words it was trained on.
    state = AutoModelForCausalLM.from_pretrained("run/artifacts/model").state_dict()
    ends = [AutoModelForCausalLM.from_pretrained(f"run/artifacts/networks/{k}").state_dict() for k in "ab"]
    assert torch.allclose(
        state["lm_head.weight"].sum(), (ends[0]["lm_head.weight"] + ends[1]["lm_head.weight"]).sum() / 2
    )
    assert state["lm_head.weight"].data_ptr() == state["model.embed_tokens.weight"].data_ptr()
    assert len(AutoTokenizer.from_pretrained("run/artifacts/model")) == state["lm_head.weight"].shape[0]


@pytest.mark.slow
def test_same_seed_gives_the_same_numbers():
    assert merge(*TINY, "task.train.epochs=1") == 0
    once = result()["metrics"]
    shutil.rmtree("run")
    assert merge(*TINY, "task.train.epochs=1") == 0
    again = result()["metrics"]
    del once["match_seconds"], again["match_seconds"]
    assert once == again


@pytest.mark.slow
def test_interrupted_pairs_are_resumed_with_the_same_numbers(monkeypatch):
    settings = [*TINY, "task.train.epochs=1", "task.pairs=2"]
    assert merge(*settings) == 0
    whole = arms()
    shutil.rmtree("run")
    trained, original = [], LanguagePairs.train

    def stopped(pairs, pair, member, *arguments):
        trained.append((pair, member))
        if len(trained) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return original(pairs, pair, member, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(LanguagePairs, "train", stopped)
        assert merge(*settings) == 130
    assert json.loads(Path("run/result.json").read_text())["status"] == "interrupted"
    with monkeypatch.context() as patch:
        patch.setattr(LanguagePairs, "train", stopped)
        with pytest.raises(SystemExit, match=r"^0$"):
            cli.main(["resume", "run"])
    assert trained == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 1)]
    assert result()["metrics"]["pairs"] == 2
    assert all(arms()[key]["loss"] == row["loss"] for key, row in whole.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama-tied", "gpt2"])
def test_planted_permutation_keeps_the_perplexity_of_a(name, tmp_path):
    models, texts = speakers(
        tmp_path, name, lambda spec, state: apply(spec, state, spec.random(torch.Generator().manual_seed(2)))
    )
    assert merge(models, *texts, "task.compare=[activation]", "task.points=3") == 0
    table = arms()
    a = table["a", "test"]["loss"]
    assert table["weight matching", "test"]["midpoint_loss"] == pytest.approx(a, abs=1e-5)
    assert table["weight matching", "test"]["l2_reduction"] == 1
    assert table["activation matching", "test"]["midpoint_loss"] == pytest.approx(a, abs=1e-5)
    assert abs(table["no permutation", "test"]["midpoint_loss"] - a) > 0.01
    merged = AutoModelForCausalLM.from_pretrained("run/artifacts/model").eval()
    with torch.no_grad():
        expected = network(name)(**inputs_of(name)).logits
        assert torch.allclose(merged(**inputs_of(name)).logits, expected, atol=1e-5)


@pytest.mark.slow
def test_perplexity_is_that_of_transformers(tmp_path):
    models, texts = speakers(tmp_path)
    assert merge(models, *texts, "task.points=3") == 0
    model, tokenizer = AutoModelForCausalLM.from_pretrained("a").eval(), AutoTokenizer.from_pretrained("a")
    loss, count = 0.0, 0
    for text in TEXTS:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        assert ids[0, 0] == tokenizer.bos_token_id
        with torch.no_grad():
            loss += float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    assert result()["metrics"]["tokens"] == count
    assert arms()["a", "test"]["loss"] == pytest.approx(loss / count, abs=1e-5)
    both = [network("llama-tied", seed) for seed in (0, 1)]
    ids = tokenizer(TEXTS[0], return_tensors="pt")["input_ids"]
    assert arms()["ensemble", "test"]["loss"] < max(arms()[k, "test"]["loss"] for k in "ab")
    assert not torch.equal(both[0](ids).logits, both[1](ids).logits)


@pytest.mark.slow
def test_three_networks_and_weights(tmp_path):
    models, texts = speakers(tmp_path)
    network("llama-tied", 2).save_pretrained(tmp_path / "c")
    three = models.replace("]", f",{tmp_path}/c]")
    assert merge(three, *texts, "task.match=identity", "task.weights=[2,1,1]", "task.controls=false") == 0
    state = AutoModelForCausalLM.from_pretrained("run/artifacts/model").state_dict()
    loaded = load_networks([str(tmp_path / k) for k in "abc"])
    expected = average(loaded.stored, [2, 1, 1])
    assert all(torch.equal(state[name], value) for name, value in expected.items())
    table = arms()
    mean = sum(w * table[k, "test"]["loss"] for k, w in zip("abc", (0.5, 0.25, 0.25)))
    merged = table["no permutation", "test"]
    assert merged["loss_barrier"] == pytest.approx(merged["midpoint_loss"] - mean)
    assert json.loads(Path("run/artifacts/model/merge.json").read_text())["weights"] == [0.5, 0.25, 0.25]


@pytest.mark.slow
def test_task_vectors_of_a_common_ancestor(tmp_path):
    def tuned(spec, state):
        generator = torch.Generator().manual_seed(9)
        return {k: v + 0.01 * torch.randn(v.shape, generator=generator) for k, v in state.items()}

    models, texts = speakers(tmp_path, change=tuned)
    ancestor = f"task.ancestor={tmp_path}/a"
    assert merge(models, *texts, ancestor, "task.match=identity", "task.combine=task_arithmetic") == 0
    # A is the ancestor itself: its task vector is 0, so the sum of task vectors leads to B.
    state, b = (AutoModelForCausalLM.from_pretrained(p).state_dict() for p in ("run/artifacts/model", "b"))
    assert all(torch.allclose(state[name], value, atol=1e-6) for name, value in b.items())
    assert arms()["task arithmetic", "test"]["loss"] == pytest.approx(arms()["b", "test"]["loss"], abs=1e-5)
    shutil.rmtree("run")
    assert merge(models, ancestor, "task.match=identity", "task.combine=ties", "task.density=0.5", "dataset=none") == 0
    state = AutoModelForCausalLM.from_pretrained("run/artifacts/model").state_dict()
    changed = [
        float((state[n] != v).float().mean()) for n, v in AutoModelForCausalLM.from_pretrained("a").state_dict().items()
    ]
    assert 0.2 < sum(changed) / len(changed) < 0.8


@pytest.mark.parametrize(
    "combine, weights, applied",
    [
        pytest.param("task_arithmetic", "[]", [1, 1], marks=pytest.mark.slow),
        pytest.param("task_arithmetic", "[1,0.5]", [1, 0.5], marks=pytest.mark.slow),
        pytest.param("ties", "[]", [0.5, 0.5], marks=pytest.mark.slow),
        ("ties", "[1,0.01]", [1 / 1.01, 0.01 / 1.01]),
    ],
)
def test_the_record_has_the_weights_that_were_applied(combine, weights, applied, tmp_path):
    save_pair(tmp_path)
    base = network("llama-tied", 7)
    base.save_pretrained(tmp_path / "base")
    given = [f"task.models=[{tmp_path}/a,{tmp_path}/b]", f"task.ancestor={tmp_path}/base", "task.density=1"]
    given += ["task.match=identity", f"task.combine={combine}", f"task.weights={weights}", "task.controls=false"]
    assert merge(*given) == 0
    assert json.loads(Path("run/artifacts/model/merge.json").read_text())["weights"] == pytest.approx(applied)
    card = Path("run/artifacts/model/README.md").read_text()
    assert [line.split("|")[2].strip() for line in card.splitlines() if str(tmp_path) in line and "|" in line] == [
        *(f"{weight:g}" for weight in applied),
        "ancestor",
    ]
    name = "model.norm.weight"
    start, *ends = (each.state_dict()[name] for each in (base, network("llama-tied", 0), network("llama-tied", 1)))
    changes = [w * (end - start) for w, end in zip(applied, ends)]
    if combine == "task_arithmetic":
        wanted = start + sum(changes)
    else:
        agree = [(change * sum(changes) > 0).float() for change in changes]
        wanted = start + sum(c * m for c, m in zip(changes, agree)) / sum(w * m for w, m in zip(applied, agree))
    merged = AutoModelForCausalLM.from_pretrained("run/artifacts/model").state_dict()[name]
    assert torch.allclose(merged, wanted, atol=1e-5)


def test_networks_without_texts_are_merged_and_not_scored(tmp_path, capsys):
    save_pair(tmp_path, "vit")
    assert merge(f"task.models=[{tmp_path}/a,{tmp_path}/b]") == 0
    assert "nothing was scored" in capsys.readouterr().out
    table = arms()
    assert table["weight matching", "test"]["l2_reduction"] > table["no permutation", "test"]["l2_reduction"] == 0
    ViTForImageClassification.from_pretrained("run/artifacts/model")
    assert "midpoint_loss" not in result()["metrics"]


def test_half_precision_is_matched_and_merged_without_a_wide_copy(tmp_path, monkeypatch):
    for seed, letter in enumerate("ab"):
        network("llama-tied", seed).bfloat16().save_pretrained(tmp_path / letter)

    def copied(self, name):
        raise AssertionError(f"{name} was widened as a whole")

    monkeypatch.setattr("permlab.merging.networks.states.Widened.__getitem__", copied)
    assert merge(f"task.models=[{tmp_path}/a,{tmp_path}/b]", "task.memory_gb=1") == 0
    assert arms()["weight matching", "test"]["l2_reduction"] > 0


def test_matching_of_networks_on_disk_multiplies_on_the_gpu(monkeypatch):
    from types import SimpleNamespace

    from permlab.tasks.merge import language_run

    config = SimpleNamespace(task=SimpleNamespace(memory_gb=None))
    for kind, found in (("cuda", torch.device("cuda")), ("cpu", None)):
        monkeypatch.setattr(language_run, "device_of", lambda _, kind=kind: torch.device(kind))
        memory = language_run.memory_of(config)
        assert memory.device == found and memory.most == 3 * 2**30


@pytest.mark.slow
def test_a_merge_that_was_stopped_is_not_matched_again(tmp_path, monkeypatch):
    save_pair(tmp_path)
    models = f"task.models=[{tmp_path}/a,{tmp_path}/b]"

    def stopped(*_, **__):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("permlab.storage.tensors.SafetensorsStream.put_rows", stopped)
        assert merge(models) != 0
    matched = Path("run/artifacts/matching.safetensors").read_bytes()
    monkeypatch.setattr("permlab.matching.many.weight_matching", stopped)
    with pytest.raises(SystemExit) as end:
        cli.main(["resume", "run"])
    assert not end.value.code
    assert Path("run/artifacts/matching.safetensors").read_bytes() == matched
    assert result()["metrics"]["l2_reduction"] > 0


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
def test_bad_input_is_one_line_and_leaves_nothing(case, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    a, b = save_pair(tmp_path / "given")
    before = sorted(path for path in tmp_path.rglob("*"))
    arguments, line = REFUSED[case]
    found = [each.replace("[A", f"[{a}").replace(",B", f",{b}").replace("=A", f"={a}") for each in arguments]
    assert merge(*found) == 2
    err = capsys.readouterr().err
    assert line in err and "Traceback" not in err and len(err.strip().splitlines()) == 1
    assert sorted(path for path in tmp_path.rglob("*")) == before


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
