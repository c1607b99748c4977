"""`permlab task=merge` on image classifiers end to end: arms, controls, artifacts, resuming, networks of the user."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from architectures import build
from here import command, metrics, resume, rows
from safetensors.torch import save_file

from permlab.compose import plan_jobs
from permlab.data.images import load_digits_images
from permlab.matching import Matching
from permlab.merging import batches_of, evaluate, initial_state, load_merged, train_endpoint
from permlab.merging.measure.bench import Bench
from permlab.models.vision import build_vision_model
from permlab.symmetry import apply, declare

SMALL = ["model.width=24", "task.train.epochs=3", "task.points=5"]
TIMES = ("match_seconds", "merge_seconds", "seconds")


pytestmark = pytest.mark.usefixtures("empty_folder")


def merge(*arguments: str, run: str = "run") -> int:
    return command("task=merge", *SMALL, *arguments, f"run.dir={run}")


def arms(run: str = "run") -> dict[str, dict[str, str]]:
    return {row["arm"]: row for row in rows("arms", run)}


@pytest.mark.slow
def test_every_control_stands_beside_the_configured_arm():
    assert merge("task.pairs=2", "task.compare=[activation,weight/least_squares]") == 0
    table = rows("arms")
    names = [row["arm"] for row in table if row["pair"] == "0"]
    assert names == [
        "weight matching", "activation matching", "weight matching, least squares", "no permutation",
        "random permutation", "no permutation, least squares", "ensemble", "untrained networks, weight matching",
        "untrained network", "network A", "network B",
    ]  # fmt: skip
    assert [row["arm"] for row in table if row["pair"] == "1"] == names
    numbers = metrics()
    assert {"loss_barrier", "accuracy_barrier", "midpoint_loss", "midpoint_accuracy", "l2_reduction"} <= numbers.keys()
    means = {row["arm"]: row for row in rows("summary")}
    assert numbers["loss_barrier"] == pytest.approx(float(means["weight matching"]["loss_barrier"]))
    assert numbers["naive_loss_barrier"] == pytest.approx(float(means["no permutation"]["loss_barrier"]))
    ends = [float(row["midpoint_loss"]) for row in table if row["role"] == "endpoint" and row["pair"] == "0"]
    first = {row["arm"]: row for row in table if row["pair"] == "0"}
    solved = first["weight matching, least squares"]
    assert float(solved["loss_barrier"]) == pytest.approx(float(solved["midpoint_loss"]) - sum(ends) / 2)
    assert float(first["no permutation"]["l2_reduction"]) == 0 and float(first["weight matching"]["l2_reduction"]) > 0.1
    curve = [row for row in rows("curves") if row["pair"] == "0" and row["set"] == "test"]
    assert [row["arm"] for row in curve].count("weight matching") == 5
    excess = [
        float(row["loss"]) - (1 - float(row["position"])) * ends[0] - float(row["position"]) * ends[1]
        for row in curve
        if row["arm"] == "weight matching"
    ]
    assert max(excess[1:-1]) == pytest.approx(float(first["weight matching"]["loss_barrier"]), abs=1e-9)
    for name in ("barriers", "arms"):
        assert os.path.getsize(f"run/figures/{name}.png") > 5000
    seeds = [row["init_seed"] for row in rows("endpoints")]
    assert len(set(seeds)) == 4 and len({row["order_seed"] for row in rows("endpoints")}) == 4


@pytest.mark.slow
def test_the_merged_network_on_disk_is_the_one_that_was_scored():
    assert merge("task.combine=least_squares", "task.match=activation", "task.controls=false") == 0
    state, record = load_merged("run/artifacts/model")
    options = {key: record[key] for key in ("width", "depth", "norm")}
    model = build_vision_model(record["network"], shape=tuple(record["shape"]), classes=record["classes"], **options)
    model.load_state_dict(state)
    data = load_digits_images()
    score = evaluate(model, model.state_dict(), batches_of(data.x_test, data.y_test))
    assert score.accuracy == pytest.approx(metrics()["midpoint_accuracy"], abs=1e-12)
    assert score.loss == pytest.approx(metrics()["midpoint_loss"], abs=1e-6)
    assert [row["member"] for row in record["networks"]] == [0, 1]
    matching = Matching.load("run/artifacts/matching.safetensors")
    assert matching.method == "activation" and matching.permutation["layers.0"].sort().values.tolist() == list(
        range(24)
    )


@pytest.mark.slow
def test_networks_of_the_user_that_differ_by_a_permutation_merge_without_loss():
    data = load_digits_images()
    model = build_vision_model("mlp", shape=data.shape, classes=10, width=24)
    start = initial_state("mlp", data, 1, width=24)
    first = train_endpoint(model, data, start=start, epochs=3).state
    second = apply(declare(model), first, declare(model).random(torch.Generator().manual_seed(3)))
    save_file(first, "a.safetensors")
    save_file(second, "b.safetensors")
    assert merge("task.models=[a.safetensors,b.safetensors]") == 0
    numbers, found = metrics(), arms()
    assert numbers["l2_reduction"] == 1 and abs(numbers["loss_barrier"]) < 1e-6
    assert numbers["midpoint_accuracy"] == numbers["endpoint_accuracy"] and numbers["naive_loss_barrier"] > 0.1
    assert [row["network"] for row in rows("endpoints")] == ["a.safetensors", "b.safetensors"]
    assert "untrained networks, weight matching" in found
    merged, record = load_merged("run/artifacts/model")
    assert all(torch.equal(merged[name], value) for name, value in first.items()) and record["network"] == "mlp"
    # What was merged can be merged again: with its record, from the folder alone.
    assert merge("task.models=[run/artifacts/model,b.safetensors]", "task.weights=[1,3]", run="again") == 0
    assert abs(metrics("again")["loss_barrier"]) < 1e-6
    assert float(arms("again")["weight matching"]["merged_accuracy"]) == numbers["endpoint_accuracy"]
    assert merge("task.models=[a.safetensors,b.safetensors,a.safetensors]", run="three") == 0
    assert metrics("three")["l2_reduction"] == pytest.approx(0.5)  # one of the two others is the first one itself
    assert metrics("three")["midpoint_accuracy"] == numbers["endpoint_accuracy"]


@pytest.mark.slow
def test_different_labels_at_twice_the_cost_are_the_two_networks():
    assert merge("task.labels=2", "task.match=activation", "task.combine=least_squares", "task.budget=2") == 0
    found = arms()
    whole = found["activation matching, least squares at 2x"]
    assert float(whole["macs"]) == pytest.approx(2)
    assert float(whole["loss_barrier"]) == pytest.approx(0, abs=1e-4)
    assert float(whole["own_accuracy"]) == float(found["ensemble"]["own_accuracy"])
    assert "activation matching, least squares" in found and "no permutation, least squares at 2x" in found
    assert {row["labels"] for row in rows("endpoints")} == {"0 1 2 3 4", "5 6 7 8 9"}
    states = [load_merged(f"run/artifacts/model/network-{letter}")[0] for letter in "AB"]
    assert torch.equal(states[0]["layers.1.weight"], states[1]["layers.1.weight"])
    assert not torch.equal(states[0]["head.weight"], states[1]["head.weight"])


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "arguments,label",
    [
        slow(["task.match=zip", "task.combine=zip"], "ZipIt"),
        slow(["task.match=straight_through", "task.steps=5"], "straight-through"),
        slow(["task.combine=regmean", "task.share=0.5"], "weight matching, RegMean"),
        slow(["task.match=identity", "task.combine=ties"], "TIES"),
        slow(["task.match=identity", "task.combine=task_arithmetic", "task.weights=[0.5,0.5]"], "task arithmetic"),
        slow(["task.renorm=rescale", "task.domains=[original,blurred]"], "weight matching + rescale"),
        slow(["task.budget=1.4", "task.allocation=greedy", "task.images=200"], "weight matching at 1.4x"),
        slow(["task.labels=2", "task.match=zip", "task.combine=zip"], "ZipIt"),
    ],
)
def test_every_way_to_merge_runs_from_the_command_line(arguments, label):
    assert merge(*arguments) == 0
    row = arms()[label]
    assert row["role"] == "configured" and 0 <= float(row["midpoint_accuracy"]) <= 1
    if label == "task arithmetic":  # half of each change is the plain average
        plain = float(arms()["no permutation"]["midpoint_loss"])
        assert float(row["midpoint_loss"]) == pytest.approx(plain, abs=1e-5)
    if "1.4" in label:
        assert 1.3 < float(row["macs"]) <= 1.4


@pytest.mark.slow
def test_batchnorm_statistics_are_reset_with_and_without_a_permutation():
    small = ["model=resnet-tiny", "model.width=1", "task.train.epochs=2", "task.points=3", "task.images=300"]
    assert merge(*small, "task.renorm=reset", "task.compare=[weight]") == 0
    found = arms()
    assert list(found)[:5] == [
        "weight matching + reset", "weight matching", "no permutation", "random permutation", "no permutation + reset",
    ]  # fmt: skip
    assert float(found["weight matching + reset"]["midpoint_loss"]) < float(found["weight matching"]["midpoint_loss"])
    assert metrics()["no_permutation_reset_midpoint_accuracy"] == float(
        found["no permutation + reset"]["midpoint_accuracy"]
    )


@pytest.mark.slow
def test_an_interrupted_run_resumes_to_the_same_tables(monkeypatch):
    arguments = ["task.pairs=3", "task.compare=[activation]"]
    assert merge(*arguments, run="whole") == 0
    compare = Bench.compare

    def compare_and_stop(self, *arguments, **options):
        if self.subject.pair == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return compare(self, *arguments, **options)

    monkeypatch.setattr(Bench, "compare", compare_and_stop)
    assert merge(*arguments) == 128 + signal.SIGTERM
    assert sorted(path for path in os.listdir("run/checkpoints") if path.startswith("network")) == [
        "network-1-0.pt", "network-1-1.pt",
    ]  # fmt: skip
    monkeypatch.setattr(Bench, "compare", compare)
    assert resume() == 0
    for name in ("arms", "curves", "endpoints"):
        for resumed, whole in zip(rows(name), rows(name, "whole"), strict=True):
            assert {k: v for k, v in resumed.items() if k not in TIMES} == {
                k: v for k, v in whole.items() if k not in TIMES
            }
    assert not [path for path in os.listdir("run/checkpoints") if path.startswith("network")]


@pytest.mark.slow
def test_width_study_scores_four_arms_per_width():
    assert merge("task.study=width", "task.widths=[16,48]", "task.pairs=2", "task.points=3") == 0
    table = rows("arms")
    assert [row["width"] for row in table] == ["16.0"] * 8 + ["48.0"] * 8
    calibrated = [row for row in table if row["arm"].endswith("calibrated")]
    plain = [row for row in table if not row["arm"].endswith("calibrated")]
    assert [row["accuracy_barrier"] for row in plain] == [row["accuracy_barrier"] for row in calibrated]
    # A temperature moves no decision, and one chosen on other images of the same kind lowers the loss of bad averages.
    naive = [(float(row["midpoint_loss"])) for row in table if row["arm"] == "no permutation, calibrated"]
    assert all(loss < 2.4 for loss in naive)
    numbers = metrics()
    assert numbers["loss_barrier"] == numbers["weight_matching_loss_barrier_width_48"]
    assert numbers["naive_loss_barrier"] == numbers["no_permutation_loss_barrier"]


def picture_folder(folder):
    from PIL import Image

    for label, value in (("cat", 60), ("dog", 200)):
        for number in range(12):
            path = folder / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (10, 10), (value + number, value, 5 * number)).save(path)


@pytest.mark.parametrize("dataset", [slow("imagefolder"), slow("hub")])
def test_pictures_of_the_user(tmp_path, dataset):
    picture_folder(tmp_path / "pictures")
    arguments = [f"dataset={dataset}", f"dataset.path={tmp_path / 'pictures'}", "dataset.side=8", "dataset.channels=1"]
    assert merge(*arguments, "task.controls=false") == 0
    assert metrics()["endpoint_accuracy"] > 0.6 and rows("endpoints")[0]["samples"] == "18"


@pytest.mark.slow
def test_image_classifiers_of_the_hub_are_scored(tmp_path):
    picture_folder(tmp_path / "pictures")
    model, _, spec = build("vit")
    moved = apply(spec, model.state_dict(), spec.random(torch.Generator().manual_seed(3)))
    for letter in "ab":
        model.save_pretrained(tmp_path / letter)
        model.load_state_dict(moved)
    pictures = ["dataset=imagefolder", f"dataset.path={tmp_path / 'pictures'}", "dataset.side=16"]
    assert merge(f"task.models=[{tmp_path}/a,{tmp_path}/b]", *pictures) == 0
    table = arms()
    # B is A with its units in another order: matched, the midpoint is A again.
    assert float(table["weight matching"]["l2_reduction"]) == 1
    assert abs(float(table["weight matching"]["loss_barrier"])) < 1e-5
    # The control beside it is a network of the same architecture with weights that transformers draws.
    assert table["untrained networks, weight matching"]["midpoint_loss"]
    assert type(model).from_pretrained("run/artifacts/model").num_parameters() == model.num_parameters()


def test_dry_run_opens_the_data_and_names_the_arms(capsys):
    assert merge("run.dry_run=true", "task.renorm=reset", "task.budget=1.5") == 0
    shown = capsys.readouterr().out
    assert (
        "weight matching + reset at 1.5x; no permutation; random permutation" in shown and "1347 for training" in shown
    )
    assert not os.path.exists("run")


@pytest.mark.parametrize(
    "arguments,words",
    [
        (["task.match=wieght"], "did you mean 'weight'"),
        (["task.match=zip"], "match=zip and combine=zip go together"),
        (["task.zip_stop=layers.1"], "task.zip_stop belongs to match=zip"),
        (["task.zip_beta=2"], "task.zip_beta=2"),
        (["task.combine=zip"], "match=zip and combine=zip go together"),
        (["task.combine=ties"], "use match=identity"),
        (["task.compare=[weight/averge]"], "did you mean 'average'"),
        (["task.compare=[weight+resset]"], "did you mean 'reset'"),
        (["task.points=10"], "use an odd number"),
        (["task.points=1"], "task.points=1"),
        (["task.budget=2.5"], "task.budget=2.5"),
        (["task.budget=1.5", "task.combine=regmean"], "combine average or least_squares"),
        (["task.weights=[1]"], "1 values for 2 networks"),
        (["task.weights=[1,-1]"], "must not be negative"),
        (["task.domains=[original]"], "1 values for 2 networks"),
        (["task.domains=[original,upside]"], "task.domains=upside"),
        (["task.labels=3"], "task.labels=3"),
        (["task.share=0"], "above 0"),
        (["task.labels=2", "task.match=straight_through"], "same classes"),
        (["task.models=[a.safetensors]"], "1 network"),
        (["task.models=[a.safetensors,b.safetensors]"], "a.safetensors"),
        (["task.ancestor=a"], "belongs to task.models"),
        (["task.renorm=rescale", "task.match=zip", "task.combine=zip"], "renorm none or reset"),
        (["task.renorm=reset", "task.match=zip", "task.combine=zip"], "pairs of units"),
        (["model.width=2.5"], "number of units"),
        (["model=vgg11", "model.width=512"], "multiple of its usual channels"),
        (["model=vgg11", "model.width=1", "model.depth=3"], "model.depth does not fit vgg11"),
        (["model.norm=group"], "model.norm=group"),
        (["dataset=people"], "dataset=people has no images"),
        (["dataset=mnist"], "needs dataset.path"),
        (["dataset=mnist", "dataset.path=nowhere"], "not a folder"),
        (["dataset=imagefolder", "dataset.path=.", "dataset.channels=2"], "1 (grey) or 3 (colour)"),
        (["dataset=hub"], "ID_OR_FOLDER"),
        (["task.train.rate=0"], "task.train.rate=0"),
        (["task.train.optimizer=adamw"], "did you mean 'adam'"),
        (["task.images=1"], "task.images=1"),
        (["task.density=0"], "above 0"),
        (["task.study=width", "task.widths=[0]"], "task.widths=0"),
        (["dataset=imagefolder", "dataset.path=."], "class folder(s)"),
    ],
)
def test_bad_input_gets_one_line_and_leaves_nothing(arguments, words, capsys):
    assert merge(*arguments) == 2
    said = capsys.readouterr()
    text = said.out + said.err
    assert words in text and "Traceback" not in text
    assert not os.path.exists("run")


def test_the_time_of_a_plan_counts_the_images_that_are_scored():
    """One hidden layer: the images on the lines differ by 900 where `task.images` does, and by nothing else."""
    from permlab.tasks.merge.needs import image_needs

    def macs(*keys: str) -> float:
        return image_needs(
            plan_jobs(["task=merge", "model.width=8", "model.depth=1", "task.points=3", *keys], False).jobs[0].config
        ).macs

    one_image = 64 * 8 + 8 * 10
    positions = 3 * 3 * 6
    assert macs("task.images=1000") - macs("task.images=100") == positions * 900 * one_image
    assert macs("task.images=100000") == macs()
