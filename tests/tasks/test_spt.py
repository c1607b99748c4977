"""`task=spt` from configuration to tables, in this process: every order, dataset, segmenter and kind of weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from spt_runs import FEW, SMALL, rows

from permlab.compose import plan_jobs
from permlab.errors import UserError
from permlab.runs.readiness import examine


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
