"""`permlab task=lora_lego` end to end: tiny benchmarks, adapters of the user, and bad input in one line."""

from __future__ import annotations

import json

import pytest
import torch
from here import command, resume, rows
from safetensors.torch import load_file, save_file

from permlab.adapters import open_adapter, random_adapter, relative_difference, write_adapter

SHAPES = {"model.layers.0.q_proj": (16, 12), "model.layers.0.v_proj": (8, 12)}
TINY = [
    "task=lora_lego",
    "task.facts=16",
    "task.facts_per_adapter=4",
    "task.counts=[2]",
    "task.lora_ranks=[2]",
    "task.train.base_steps=40",
    "task.train.adapter_steps=40",
    "task.scales=[0.5,1.0]",
    "task.sweep=[1.0]",
    "model.scratch.hidden_size=16",
    "model.scratch.layers=1",
    "model.scratch.heads=2",
    "model.scratch.kv_heads=2",
    "model.scratch.intermediate_size=32",
]


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """Two random adapters A and B in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("AB"):
        write_adapter(tmp_path / name, random_adapter(name, SHAPES, 4, seed))
    return tmp_path


@pytest.mark.slow
def test_knowledge_benchmark_end_to_end_and_resumable(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command(*TINY, "task.repeats=2", "run.dir=r") == 0
    run = tmp_path / "r"
    result = json.loads((run / "result.json").read_text())
    table = rows("methods", run)
    families = {row["family"] for row in table}
    assert families >= {"lego", "linear", "cat", "svd", "ties", "dare", "knots", "ensemble"}
    assert {row["repeats"] for row in table} == {"2"}
    assert any(row["score_sd"] not in ("", "0.0") for row in table)
    settings = {(r["param_reweight"], r["output_reweight"]) for r in table if r["family"] == "lego"}
    assert settings >= {("l2", "True"), ("l2", "False"), ("none", "True"), ("none", "False")}
    # k = all units without reweighting is the concatenation, whatever was learned.
    cat = next(row for row in table if row["family"] == "cat" and row["scale_rule"] == "1")
    plain = next(row for row in table if row["method"] == "lego k=4, no reweighting" and row["scale_rule"] == "1")
    assert float(plain["score"]) == pytest.approx(float(cat["score"]))
    assert float(plain["norm_ratio"]) == pytest.approx(float(cat["norm_ratio"]), rel=1e-5)
    assert result["metrics"]["peft_output_gap"] < 1e-4
    assert result["metrics"]["average_score"] == pytest.approx(
        float(next(r for r in table if r["method"] == "the task's keys" and r["scale_rule"] == "1")["score"])
    )
    scores = {(row["method"], row["scale_rule"]): float(row["score"]) for row in table if row["score"]}
    metrics = result["metrics"]
    for name, key in {
        "tuned_sum": ("cat: sum of updates", "tuned"),
        "tuned_ties": ("ties on updates, density 0.5", "tuned"),
        "tuned_svd": ("svd of the sum, rank 2", "tuned"),
        "tuned_lego": ("lego k=2, both", "tuned"),
        "lego_parameter_only": ("lego k=2, parameter only", "1"),
        "constant_score": ("best constant answer", "1"),
    }.items():
        assert metrics[name] == pytest.approx(scores[key]), name
    gain = (metrics["tuned_lego"] - metrics["constant_score"]) / (1 - metrics["constant_score"])
    assert metrics["tuned_lego_gain"] == pytest.approx(gain)
    assert metrics["methods_refused"] == 0
    assert open_adapter(run / "artifacts" / "adapter").modules
    assert (run / "figures" / "methods_independent_2.png").stat().st_size > 5000
    # A killed run goes on from the models it had finished and ends with the same table.
    trained = run / "artifacts" / "trained" / "seed-1" / "independent" / "adapter-2" / "adapter_model.safetensors"
    base = run / "artifacts" / "trained" / "seed-0" / "base" / "model.safetensors"
    stamps, before = base.stat().st_mtime_ns, load_file(trained)
    for path in trained.parent.iterdir():
        path.unlink()
    (run / "result.json").write_text(json.dumps(result | {"status": "interrupted"}))
    assert resume(run) == 0
    assert base.stat().st_mtime_ns == stamps
    again = load_file(trained)
    assert all(torch.equal(before[key], again[key]) for key in before)
    assert [r["score"] for r in rows("methods", run)] == [r["score"] for r in table]


@pytest.mark.slow
def test_base_training_that_was_stopped_logs_every_step_once(tmp_path, monkeypatch):
    from permlab.adapters.benchmark.settings import questions_of
    from permlab.errors import Interrupted
    from permlab.runs.run import Run
    from permlab.tasks.lora_lego import studies, training

    monkeypatch.chdir(tmp_path)
    asked = []

    def only_bases(config, run) -> None:
        for repeat in range(config.task.repeats):
            training.base_of(config, run, questions_of(config.task, config.seed + repeat), repeat)

    def stop(run: Run) -> None:
        asked.append(run)
        if len(asked) == 6:  # four checks a base model: in the middle of the second seed's
            raise Interrupted(15)

    keys = [*TINY, "task.repeats=2", "task.study=prune"]
    monkeypatch.setattr(studies, "study_pruning", only_bases)
    assert command(*keys, "run.dir=whole") == 0
    with monkeypatch.context() as patch:
        patch.setattr(Run, "check_stop", stop)
        assert command(*keys, "run.dir=r") == 128 + 15
    assert resume(tmp_path / "r") == 0
    whole, resumed = ((tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "r"))
    assert [json.loads(line)["step"] for line in resumed.splitlines()] == [10, 20, 30, 40, 50, 60, 70, 80]
    assert resumed == whole


@pytest.mark.slow
def test_pruning_and_mixed_ranks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command(*TINY, "task.study=prune", "task.lora_ranks=[4]", "run.dir=p") == 0
    table = rows("pruning", tmp_path / "p")
    full = [float(row["score"]) for row in table if row["k"] == "4"]
    assert len(full) == 7 and full == pytest.approx([full[0]] * 7) and full[0] > 0
    kept = {(row["method"], row["k"]): float(row["score"]) for row in table}
    metrics = json.loads((tmp_path / "p" / "result.json").read_text())["metrics"]
    assert metrics["lego_gauge_none_half_rank"] == pytest.approx(kept["lego, gauge none", "2"])
    assert metrics["random_half_rank"] == pytest.approx(kept["random units", "2"])
    assert command(*TINY, "task.lora_ranks=[2,4]", "run.dir=m") == 0
    assert json.loads((tmp_path / "m" / "result.json").read_text())["metrics"]["methods_refused"] == 4
    table = rows("methods", tmp_path / "m")
    refused = [row for row in table if row["note"]]
    assert {row["family"] for row in refused} == {"linear", "ties", "dare"}
    assert all("equal ranks" in row["note"] and not row["score"] for row in refused)
    assert any("reference rank max" in row["method"] for row in table)


@pytest.mark.slow
def test_identities_study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command("task=lora_lego", "task.study=identities", "run.dir=i") == 0
    metrics = json.loads((tmp_path / "i" / "result.json").read_text())["metrics"]
    assert metrics["identities_held"] == metrics["identities"] == 6
    assert metrics["balanced_gauge_error"] < 1e-4
    assert 0.8 < metrics["norm_ratio_lowest"] < metrics["norm_ratio_highest"] < 1.25


OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in ("svd", "linear", "ties", "dare", "knots")]


@pytest.mark.parametrize("method", ["lego", "cat", *OTHERS])
def test_merges_adapters_of_the_user(pair, method, unsaved):
    rank = ["task.rank=3"] if method in ("lego", "svd") else []
    keys = [f"task.method={method}", *rank, "task.weights=[0.5,2.0]"]
    assert command("task=lora_lego", "task.adapters=[A,B]", *keys, "run.dir=r") == 0
    written = open_adapter(pair / "r" / "artifacts" / "adapter")
    assert len(written.modules) == 2
    if rank:
        assert {info.rank for info in written.modules.values()} == {3}
    if method == "cat":
        first, second = (open_adapter(pair / name) for name in "AB")
        for module in SHAPES:
            wanted = 0.5 * first.load(module).delta() + 2.0 * second.load(module).delta()
            torch.testing.assert_close(written.load(module).delta(), wanted, atol=1e-5, rtol=1e-4)
    assert [row["module"] for row in rows("modules", pair / "r")] == sorted(SHAPES)


@pytest.mark.slow
def test_two_adapters_in_folders_of_one_name(pair, unsaved):
    (pair / "other").mkdir()
    (pair / "B").rename(pair / "other" / "A")
    assert command("task=lora_lego", "task.adapters=[A,other/A]", "run.dir=r") == 0
    card = (pair / "r" / "artifacts" / "adapter" / "README.md").read_text()
    assert "| A (1) |" in card and "| A (2) |" in card


@pytest.fixture
def asked(pair):
    """A tiny base of a vocabulary of six words, and adapters C and D of it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from permlab.models.tokenizers import train_tokenizer

    torch.manual_seed(0)
    texts = ["red green blue", "one two three"]
    tokenizer = train_tokenizer(texts)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=16, **sizes, **ids))
    model.save_pretrained(pair / "base")
    tokenizer.save_pretrained(pair / "base")
    shapes = {"model.layers.0.self_attn.q_proj": (16, 16), "model.layers.0.mlp.up_proj": (32, 16)}
    for seed, name in enumerate("CD"):
        write_adapter(pair / name, random_adapter(name, shapes, 2, seed))
    return pair


ASK = ["task=lora_lego", "task.adapters=[C,D]", "model=local", "model.path=base"]


@pytest.mark.slow
def test_asks_a_model_when_there_are_questions(asked):
    for name in "CD":
        (asked / f"{name}.jsonl").write_text(json.dumps({"prompt": "red green", "completion": " blue"}) + "\n")
    keys = [*ASK, "task.data=[C.jsonl,D.jsonl]"]
    assert command(*keys, "run.dir=r") == 0
    table = rows("methods", asked / "r")
    assert [row["adapter"] for row in table] == ["C", "D"]
    assert {"average_score", "single_score"} <= set(json.loads((asked / "r" / "result.json").read_text())["metrics"])
    (asked / "C.jsonl").write_text('{"prompt": "red"}\n')
    assert command(*keys, "run.dir=q") == 2
    assert not (asked / "q").exists()


@pytest.mark.slow
def test_merges_in_the_metric_of_the_calibration_texts(asked, capfd):
    """The command's merge is the library's with the same moments; every merge it compares is in that metric."""
    from permlab.adapters import MergeRule, merge_adapters
    from permlab.adapters.diagnostics import seed_spread
    from permlab.adapters.interference import predicted_error
    from permlab.adapters.moments import input_moments
    from permlab.pretraining import load_base
    from permlab.seeding import derived_seed

    texts = ["red green blue", "one two", "three red one"]
    (asked / "texts.txt").write_text("\n".join(texts))
    keys = [*ASK, "task.rank=2", "task.calibration=texts.txt"]
    assert command(*keys, "run.dry_run=true") == 0
    assert "3 texts of texts.txt" in "".join(capfd.readouterr())
    adapters = [open_adapter(asked / name) for name in "CD"]
    model, tokenizer = load_base(asked / "base")
    batches = [(ids, torch.ones_like(ids)) for ids in (torch.tensor([tokenizer(t)["input_ids"]]) for t in texts)]
    moments = input_moments(model, adapters[0].modules, batches)
    for method in ("svd", "lego"):
        assert command(*keys, f"task.method={method}", f"run.dir={method}") == 0
        rule = MergeRule(method, rank=2)
        wanted, plain = (merge_adapters(adapters, rule, moments=given).adapter for given in (moments, None))
        written = open_adapter(asked / method / "artifacts" / "adapter")
        gaps = {relative_difference(written.load(m), wanted.load(m)) for m in wanted.modules}
        assert max(gaps) < 1e-5
        assert min(relative_difference(written.load(m), plain.load(m)) for m in wanted.modules) > 0.01
        metrics = json.loads((asked / method / "result.json").read_text())["metrics"]
        error = predicted_error(written, adapters, [moments] * 2)
        assert metrics["predicted_error"] == pytest.approx(error, rel=1e-4)
    others = [derived_seed(0, "another clustering", index) for index in range(2)]
    spread = seed_spread(adapters, MergeRule("lego", rank=2), others, moments=moments)
    assert metrics["seed_spread"] == pytest.approx(spread, abs=1e-5)


@pytest.mark.slow
def test_calibration_that_cannot_be_is_one_line(asked, capfd):
    (asked / "texts.jsonl").write_text('{"words": "red"}\n')
    assert command(*ASK, "task.calibration=texts.jsonl", "run.dir=r") == 2
    shown = "".join(capfd.readouterr())
    assert "texts.jsonl" in shown and "Traceback" not in shown and not (asked / "r").exists()
    (asked / "texts.txt").write_text("red green blue")
    # A and B adapt modules that this base has not.
    keys = [*ASK, "task.calibration=texts.txt", "task.adapters=[A,B]", "run.dir=q"]
    assert command(*keys) == 2
    shown = "".join(capfd.readouterr())
    assert "the model has no module model.layers.0.q_proj" in shown and "Traceback" not in shown


def break_nan(folder) -> None:
    path = folder / "B" / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors[min(tensors)][0, 0] = float("nan")
    save_file(tensors, path)


def break_shape(folder) -> None:
    write_adapter(folder / "B", random_adapter("B", {"model.layers.0.q_proj": (16, 13)}, 4, 1))


def break_modules(folder) -> None:
    write_adapter(folder / "B", random_adapter("B", {"model.layers.9.q_proj": (16, 12)}, 4, 1))


def break_file(folder) -> None:
    path = folder / "B" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-40])


def break_index(folder) -> None:
    (folder / "B" / "adapter_model.safetensors").unlink()
    index = {"weight_map": {"base_model.model.x.lora_A.weight": "../A/adapter_model.safetensors"}}
    (folder / "B" / "adapter_model.safetensors.index.json").write_text(json.dumps(index))


def break_nothing(folder) -> None:
    pass


@pytest.mark.parametrize(
    "spoil, keys, reason",
    [
        (break_nan, [], "values that are not finite"),
        (break_shape, [], "model.layers.0.q_proj is (16, 12) in A and (16, 13) in B"),
        (break_modules, [], "adapts no module that another adapter adapts"),
        (break_file, [], "truncated or damaged"),
        (break_index, [], "points outside the folder"),
        (break_nothing, ["task.rank=9"], "choose a rank from 1 to 8"),
        (break_nothing, ["task.weights=[1.0]"], "task.weights has 1 values for 2 adapters"),
        (break_nothing, ["task.method=legos"], "did you mean 'lego'?"),
        (break_nothing, ["task.method=cat", "task.rank=3"], "no rank to choose"),
        (break_nothing, ["task.data=[a,b]"], "task.data: a is no file"),
        (break_nothing, ["task.rank=2", "task.rank_ratio=0.5"], "keep one"),
        (break_nothing, ["task.reference_rank=median"], "is not mean, max, min or a number"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_directory(pair, capfd, spoil, keys, reason):
    spoil(pair)
    assert command("task=lora_lego", "task.adapters=[A,B]", *keys, "run.dir=r") == 2
    shown = capfd.readouterr()
    text = shown.out + shown.err
    assert reason in text
    assert "Traceback" not in text
    assert not (pair / "r").exists()


@pytest.mark.parametrize(
    "keys, reason",
    [
        (["model=none"], "use model=tiny-llama"),
        (["task.benchmark=text"], "needs task.folder=DIR"),
        (["task.counts=[7]", "task.benchmark=lists"], "task.counts=7 is out of range"),
        pytest.param(["task.facts=4096"], "4096 names exist", marks=pytest.mark.slow),
    ],
)
def test_benchmark_keys_are_checked(tmp_path, monkeypatch, capfd, keys, reason):
    monkeypatch.chdir(tmp_path)
    assert command("task=lora_lego", *keys, "run.dir=r") == 2
    assert reason in "".join(capfd.readouterr())
    assert not (tmp_path / "r").exists()


def test_dry_run_says_what_would_be_merged(pair, capfd):
    assert command("task=lora_lego", "task.adapters=[A,B]", "task.rank=3", "run.dry_run=true") == 0
    shown = "".join(capfd.readouterr())
    assert "A (2 modules, rank 4)" in shown and "2 modules, rank 3" in shown


@pytest.mark.slow
def test_a_merge_written_by_the_command_is_the_library_merge(pair):
    from permlab.adapters import MergeRule, merge_adapters

    assert command("task=lora_lego", "task.adapters=[A,B]", "task.rank=5", "seed=3", "run.dir=r") == 0
    rule = MergeRule("lego", rank=5)
    library = merge_adapters([open_adapter(pair / name) for name in "AB"], rule, seed=3).adapter
    written = open_adapter(pair / "r" / "artifacts" / "adapter")
    assert all(relative_difference(written.load(m), library.load(m)) < 1e-6 for m in SHAPES)
