"""`task=spt` from configuration to tables, in this process: every order, dataset, segmenter and kind of weights."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from permlab.compose import plan_jobs
from permlab.errors import UserError
from permlab.runs.execute import start
from permlab.runs.readiness import examine
from permlab.text import TrainingSettings

SMALL = [
    *("tracker=none", "hardware=cpu", "hardware.threads=1", "task.train.batch_size=32", "task.train.log_steps=5"),
    *("model.scratch.hidden_size=48", "model.scratch.layers=2", "model.scratch.intermediate_size=96"),
]
FEW = [
    "dataset.people=6",
    "dataset.templates=2",
    "dataset.held_out=1",
    "task.train.epochs=2",
    "task.evaluation.limit=3",
]


@pytest.fixture
def run(tmp_path):
    """Return a function that runs overrides and gives (result, run directory)."""

    def carry_out(*overrides):
        config = plan_jobs([*SMALL, f"run.root={tmp_path / 'outputs'}", *overrides], False).jobs[0].config
        done = start(config)
        assert done.status == "done", done.message
        return json.loads((done.directory / "result.json").read_text()), done.directory

    return carry_out


def rows(directory, table):
    return list(csv.DictReader((directory / "tables" / f"{table}.csv").open()))


@pytest.mark.slow
def test_the_curse_and_its_cure_on_a_small_corpus(run):
    """Wide margins: with 24 pairs the effect is as sharp as with 200."""
    sizes = ["dataset=symbolic", "dataset.pairs=24", "task.train.epochs=150", "task.train.batch_size=16"]
    sizes += ["task.train.learning_rate=4e-3", "task.evaluation.likelihood=false"]
    cursed, _ = run(*sizes, "task.order=original")
    cured, _ = run(*sizes, "task.order=spt")
    assert cursed["metrics"]["forward_accuracy"] >= 0.9 and cured["metrics"]["forward_accuracy"] >= 0.9
    assert cursed["metrics"]["reverse_accuracy"] <= 0.1
    assert cured["metrics"]["reverse_accuracy"] >= 0.7


def test_everything_the_default_leaves(run):
    result, folder = run(*FEW)
    metrics = result["metrics"]
    for name in (
        "forward_accuracy",
        "reverse_accuracy",
        "train_tokens_per_second",
        "mean_units",
        "forward_name_accuracy",
    ):
        assert name in metrics
    assert metrics["mean_units"] == pytest.approx(5)
    assert {row["wording"] for row in rows(folder, "recall")} == {"trained", "held_out"}
    assert len(rows(folder, "answers")) == sum(int(row["queries"]) for row in rows(folder, "recall"))
    assert {"direction", "difference", "t", "p"} <= set(rows(folder, "likelihood")[0])
    for figure in ("recall", "training_loss", "units_histogram"):
        assert (folder / "figures" / f"{figure}.svg").stat().st_size > 1000
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder / "artifacts" / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "artifacts" / "model")
    assert model.config.vocab_size == len(tokenizer)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["random_segment", "word_permute", "token_reverse", "word_reverse", "entity_reverse"])
def test_every_order_trains(run, order):
    result, _ = run(*FEW, f"task.order={order}", "task.evaluation.likelihood=false", "task.evaluation.save_model=false")
    assert result["metrics"]["steps"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("segmenter", ["entities", "rule", "random"])
def test_segmenters_on_generated_text(run, segmenter):
    result, folder = run(*FEW, f"task.segmenter.name={segmenter}", "task.evaluation.likelihood=false")
    counted = rows(folder, "segmentation")[0]
    assert counted["segmenter"] == segmenter
    assert int(counted["texts"]) == int(counted["ok"]) == result["metrics"]["texts"]


@pytest.mark.slow
def test_max_units_merges_neighbours(run):
    result, _ = run(*FEW, "task.segmenter.max_units=3", "task.evaluation.likelihood=false")
    assert result["metrics"]["mean_units"] <= 3


@pytest.mark.slow
def test_own_files_as_jsonl_and_presegmented(run, tmp_path):
    train = tmp_path / "train.jsonl"
    pairs = [("Ada Roe is", " the mayor of Brindle."), ("Ben Tor is", " the baker of Odd Hill.")]
    train.write_text("".join(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in pairs))
    test = tmp_path / "test.jsonl"
    test.write_text(json.dumps({"prompt": "The mayor of Brindle is", "completion": "Ada Roe"}) + "\n")
    files = [f"dataset.path={train}", f"dataset.test_path={test}", f"dataset.forward_test_path={train}"]
    result, _ = run("dataset=jsonl", *files, "task.train.epochs=3")
    assert {"forward_accuracy", "reverse_accuracy"} <= set(result["metrics"])
    marked = tmp_path / "units.txt"
    marked.write_text("Ada Roe [SEP] is [SEP] the mayor of Brindle.\nBen Tor [SEP] is the baker.\n")
    result, _ = run("dataset=presegmented", f"dataset.path={marked}", "task.train.epochs=3", "model.tokenizer=bpe")
    assert result["metrics"]["mean_units"] == 2.5
    assert "forward_accuracy" not in result["metrics"]
    train.write_text('{"prompt": "x"}\n')
    with pytest.raises(AssertionError, match=r"train\.jsonl"):
        run("dataset=jsonl", f"dataset.path={train}")


@pytest.mark.slow
def test_a_local_llama_trains_whole_and_with_adapters(run, tmp_path):
    _, first = run(*FEW, "task.evaluation.likelihood=false")
    path = first / "artifacts" / "model"
    local = [
        "model=llama-1b",
        f"model.path={path}",
        "task.train.learning_rate=1e-3",
        "task.evaluation.likelihood=false",
    ]
    result, _ = run(*FEW, *local)
    assert result["metrics"]["trained_parameters"] > 10_000
    result, folder = run(*FEW, *local, "model.lora.rank=2")
    assert result["metrics"]["trained_parameters"] < 10_000
    assert (folder / "artifacts" / "model" / "adapter_model.safetensors").is_file()


@pytest.mark.slow
def test_berglund_trains_and_asks_every_group(run, shared_data, tmp_path):
    folder = shared_data("reversal_curse")
    limits = ["task.train.epochs=0.05", "task.evaluation.limit=2", "task.evaluation.likelihood=false"]
    result, directory = run("dataset=berglund", f"dataset.path={folder}", *limits)
    assert result["metrics"]["texts"] == 3600
    assert {(r["group"], r["asked"]) for r in rows(directory, "recall")} == {
        (group, asked) for group in ("name_first", "description_first", "both") for asked in ("name", "description")
    }
    units = shared_data("spt_segmented") / "person_description.sep.txt"
    released = ["task.segmenter.name=presegmented", f"task.segmenter.units={units}"]
    _, directory = run("dataset=berglund", f"dataset.path={folder}", *limits, *released)
    assert int(rows(directory, "segmentation")[0]["fallback"]) == 14


def test_dry_run_checks_files_and_names_what_would_run(tmp_path):
    config = plan_jobs(["model=llama-1b", "model.lora.rank=8", f"run.root={tmp_path / 'o'}"], False).jobs[0].config
    lines = dict(examine(config).lines)
    assert "meta-llama/Llama-3.2-1B (hub)" in lines["weights"] and lines["adapters"] == "LoRA rank 8"
    with pytest.raises(UserError, match="no such file"):
        plan_jobs(["dataset=jsonl", "dataset.path=nowhere.jsonl"], False)
    assert list(Path(tmp_path).iterdir()) == []


@pytest.mark.slow
def test_experiments_expand_to_their_sweeps_and_the_command_line_wins():
    plan = plan_jobs(["experiment=spt/people"], False)
    assert plan.multirun and plan.varied == ["task.order", "seed"] and len(plan.jobs) == 15
    assert all(job.config.experiment.claim and job.config.experiment.acceptance for job in plan.jobs)
    fewer = plan_jobs(["experiment=spt/people", "seed=0", "task.order=spt,original"], False)
    assert len(fewer.jobs) == 2
    with pytest.raises(UserError, match="belongs to another task"):
        plan_jobs(["experiment=spt/people", "task=ntk"], False)


def test_the_order_matrix_figure_comes_from_the_sweep():
    from permlab.tasks.spt import sweep_figures
    from permlab.tasks.spt.figures import FORMS

    groups = [({"dataset.train_form": str(i)}, [{f"form_{f}": 0.5 for f in FORMS}]) for i in range(4)]
    assert list(sweep_figures(groups)) == ["order_matrix"]
    arms = [({"task.order": o}, [{"forward_accuracy": 1.0, "reverse_accuracy": 0.0}]) for o in ("original", "spt")]
    assert list(sweep_figures(arms)) == ["recall_by_arm"]


def test_units_frame_themselves_and_a_loss_axis_has_plain_numbers():
    """One bar alone does not fill the axes; 10^0 alone, or 2 x 10^0 and 3 x 10^0 over each other, are no labels."""
    import matplotlib.pyplot as plt

    from permlab import figures
    from permlab.tasks.spt.figures import frame_units

    for counts, limits in (([6], (4, 8)), ([1, 300], (-1, 302)), ([], (-2, 2))):
        figure, ax = figures.new()
        ax.bar(counts, [5] * len(counts))
        frame_units(ax, [*counts, None])
        assert ax.get_xlim() == limits
        figure.canvas.draw()
        assert all(float(text.get_text().replace("\N{MINUS SIGN}", "-")).is_integer() for text in ax.get_xticklabels())
    figure, ax = figures.new()
    ax.plot([0, 1], [5.2, 0.31])
    ax.set_yscale("log")
    figures.readable_log(ax.yaxis)
    figure.canvas.draw()
    shown = [label.get_text() for label in ax.get_yticklabels() if 0.31 <= label.get_position()[1] <= 5.2]
    assert shown == ["0.5", "1", "2", "5"]
    assert not [label for label in ax.get_yticklabels(minor=True) if label.get_text()]
    plt.close("all")


@pytest.mark.slow
def test_own_file_with_too_few_steps_is_said_before_and_after(run, tmp_path):
    pairs = [("Ada Roe", "Sea"), ("Ben Orr", "Sky"), ("Cleo Day", "Ice")]
    rows = [{"text": f"{name} wrote {thing}.", "names": [name, thing]} for name, thing in pairs]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = [f"dataset.path={tmp_path / 'own.jsonl'}", "dataset.protected_field=names", "task.segmenter.name=entities"]
    result, folder = run("dataset=jsonl", *own, "task.train.epochs=2", "task.train.batch_size=2")
    log = (folder / "run.log").read_text()
    assert "3 steps of 2 texts" in log and "task.train.epochs=334 makes 500" in log
    assert "nats per token after 3 steps" in log
    assert result["metrics"]["final_loss"] > 1
    assert any("not converged" in warning for warning in result["warnings"])


@pytest.mark.slow
def test_weights_are_float32_where_bfloat16_is_computed_in(run):
    """With bfloat16 weights most steps of 2e-5 were rounded away: 13 % of the weights had changed after 38 steps."""
    from safetensors.torch import load_file

    keys = [*FEW, "hardware.dtype=bfloat16", "task.train.learning_rate=2e-5", "task.evaluation.likelihood=false"]

    def changed(*more):
        weights = [
            load_file(run(*keys, f"task.train.epochs={epochs}", *more)[1] / "artifacts/model/model.safetensors")
            for epochs in (0.01, 8)
        ]
        layers = [name for name in weights[0] if "proj" in name]
        moved = sum(int((weights[0][name] != weights[1][name]).sum()) for name in layers)
        return moved / sum(weights[0][name].numel() for name in layers), weights[0][layers[0]].dtype

    import torch

    share, dtype = changed()
    assert share > 0.99 and dtype is torch.float32
    share, dtype = changed("hardware.pure_bfloat16=true")
    assert share < 0.6 and dtype is torch.bfloat16


def test_a_frozen_base_may_be_bfloat16_and_its_adapters_are_not():
    import torch

    from permlab.text.training import weights_dtype

    assert weights_dtype(torch.bfloat16) is torch.float32
    assert weights_dtype(torch.bfloat16, frozen=True) is torch.bfloat16
    assert weights_dtype(torch.float16, frozen=True) is torch.float32
    assert weights_dtype(torch.float32, pure=True) is torch.float32


@pytest.mark.slow
def test_a_context_shorter_than_the_texts_is_said_and_cuts_them(run, tmp_path):
    """Positions beyond a pretrained GPT-2's table were an IndexError in the middle of training."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from permlab.models.tokenizers import train_tokenizer

    text = " ".join(f"word{at}" for at in range(12))
    (tmp_path / "texts.jsonl").write_text(json.dumps({"text": text}) + "\n" + json.dumps({"text": "word1 word2"}))
    tokenizer = train_tokenizer([text], "word", 100)
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=10, n_embd=16, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    own = [
        "dataset=jsonl",
        f"dataset.path={tmp_path / 'texts.jsonl'}",
        "model=local",
        f"model.path={tmp_path / 'model'}",
    ]
    result, folder = run(*own, "task.order=original", "task.train.epochs=1")
    assert result["metrics"]["texts_cut"] == 1
    assert "1 of 2 texts have more than 8 tokens" in " ".join(result["warnings"])
    assert "the model reads at most 10 tokens" in (folder / "run.log").read_text()


def test_too_few_units_are_refused_before_anything_runs(tmp_path):
    (tmp_path / "low.txt").write_text("all of this is lower case\nand so is this one\n")
    own = ["dataset=jsonl", f"dataset.path={tmp_path / 'low.txt'}", f"run.root={tmp_path}", *SMALL]
    for more in ("task.order=spt", "task.order=entity_reverse"):
        config = plan_jobs([*own, more], False).jobs[0].config
        assert "2 of 2 texts" in " ".join(examine(config).problems)


def test_own_texts_are_read_and_cut_once_however_often_they_are_looked_at(tmp_path, monkeypatch):
    """A dry run read them twice, and a run cut them once more than the check before it."""
    from permlab.data.texts import jsonl
    from permlab.tasks.spt.looked_at import corpus_of, units_of
    from permlab.text.segment_rules import EntitySegmenter

    calls = []
    for owner, name in ((jsonl, "read_jsonl"), (EntitySegmenter, "propose")):
        kept = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, _of=kept, _n=name, **k: (calls.append(_n), _of(*a, **k))[1])
    own = tmp_path / "own.txt"
    own.write_text("We met Ada Roe.\nWe met Ben Orr.\n")
    keys = ["dataset=jsonl", f"dataset.path={own}", f"run.root={tmp_path}", *SMALL]
    config = plan_jobs(keys, False).jobs[0].config
    assert not examine(config).problems
    units = units_of(config, corpus_of(config))
    assert calls == ["read_jsonl", "propose"] and units.mean_units == 3  # We met | Ada Roe | .
    own.write_text("We met Ada Roe and Ben Orr.\n")  # another file: what was kept is not taken
    assert units_of(config, corpus_of(config)).mean_units == 5
    assert calls == ["read_jsonl", "propose"] * 2


def test_the_pace_suits_the_weights_unless_it_is_said():
    nothing = TrainingSettings()
    assert nothing.used("pretrained") == (10, 2e-5, 0.01) and nothing.used("pretrained", adapters=True)[1] == 2e-4
    assert nothing.used("scratch").weight_decay > 0.1  # the worst seed of the default answers 0.11 less at 0.01
    said = TrainingSettings(epochs=3, learning_rate=1e-3, weight_decay=0)
    assert said.used("scratch") == said.used("pretrained", adapters=True) == (3, 1e-3, 0)


@pytest.mark.slow
def test_a_pretrained_model_is_asked_before_and_what_it_forgot_is_measured(run, tmp_path):
    base = tmp_path / "base"
    first, folder = run(*FEW, "task.train.epochs=40", "task.evaluation.likelihood=false")
    (folder / "artifacts" / "model").rename(base)
    assert "general_loss" not in first["metrics"] and "forward_accuracy_before" not in first["metrics"]
    own = [*FEW[:3], "model=local", f"model.path={base}", "task.evaluation.likelihood=false", "seed=1"]
    trained, folder = run(*own)
    metrics = trained["metrics"]
    assert metrics["forgotten"] == pytest.approx(metrics["general_loss"] - metrics["general_loss_before"])
    assert abs(metrics["forgotten"]) < 0.5 and metrics["reverse_accuracy_before"] <= 1
    said = (folder / "run.log").read_text()
    assert "10 epochs" in said and "perplexity of text that the model wrote before training" in said
    assert max(row["learning_rate"] for row in logged(folder) if "loss" in row) <= 2e-5
    harsh, _ = run(*own, "task.train.learning_rate=3e-2")
    assert harsh["metrics"]["general_loss_before"] == metrics["general_loss_before"]
    assert harsh["metrics"]["forgotten"] > metrics["forgotten"] + 0.5


def logged(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_recall_while_training_changes_nothing_else(run):
    keys = [*FEW, "task.evaluation.likelihood=false"]
    quiet, one = run(*keys)
    asked, two = run(*keys, "task.evaluation.every=2")
    weights = [(folder / "artifacts/model/model.safetensors").read_bytes() for folder in (one, two)]
    assert weights[0] == weights[1]
    steps = int(asked["metrics"]["steps"])
    rounds = [row for row in logged(two) if "loss" not in row]
    assert [row["step"] for row in rounds] == sorted({*range(2, steps + 1, 2), steps})
    assert (
        rounds[-1]["forward_accuracy"] == asked["metrics"]["forward_accuracy"] == quiet["metrics"]["forward_accuracy"]
    )
    assert (two / "figures/recall_while_training.png").exists()


@pytest.mark.slow
def test_threads_are_chosen_by_the_work_of_one_step(run, monkeypatch):
    """The tokens of the whole training were taken for those of a step: tiny models got every idle core."""
    import contextlib

    from permlab.text import training

    asked = []

    @contextlib.contextmanager
    def for_work(macs):
        asked.append(macs)
        yield 1

    monkeypatch.setattr(training, "for_work", for_work)
    result, _ = run(*FEW, "task.train.epochs=20", "task.evaluation.likelihood=false")
    per_token = 3 * result["metrics"]["trained_parameters"]
    assert 32 * 10 * per_token < asked[0] < 32 * 40 * per_token  # 32 texts of about 25 tokens


@pytest.mark.slow
def test_general_text_between_the_facts_keeps_what_a_base_knew(run, tmp_path):
    """Also through a base that is pretrained first, packed rows, and the mistakes that the keys allow."""
    keys = [*FEW, "task.base.pretrain=true", "task.train.learning_rate=3e-3", "task.evaluation.likelihood=false"]
    keys += ["task.train.epochs=12", "task.train.pack=128"]
    plain, _ = run(*keys)
    mixed, folder = run(*keys, "task.general.ratio=0.5")
    assert plain["metrics"]["general_loss_before"] == mixed["metrics"]["general_loss_before"]
    assert mixed["metrics"]["forgotten"] < plain["metrics"]["forgotten"]
    assert mixed["metrics"]["steps"] == 2 * plain["metrics"]["steps"]
    log = (folder / "run.log").read_text()
    assert "loss" in log and "on held-out text" in log and "texts are general text" in log
    assert len(list((tmp_path / "outputs" / "bases").iterdir())) == 1


def test_a_base_of_our_own_and_weights_that_are_loaded_exclude_each_other(tmp_path):
    with pytest.raises(UserError, match="leave model= and lora out"):
        plan_jobs(["model=gpt2", "task.base.pretrain=true"], False)
    with pytest.raises(UserError, match=r"read with task\.base\.pretrain=true"):
        plan_jobs([f"task.base.corpus={tmp_path}"], False)
    with pytest.raises(UserError, match=r"no folder with \.txt files"):
        plan_jobs([f"task.base.corpus={tmp_path}", "task.base.pretrain=true"], False)
    with pytest.raises(UserError, match=r"needs task\.general\.path=FILE"):
        plan_jobs(["task.general.ratio=0.5"], False)
