from __future__ import annotations

import pytest
import torch
from architectures import build
from torch import nn

from permlab.data.images import ImageData, load_digits_images
from permlab.errors import DivergedError, UserError
from permlab.matching import activation_matching, weight_matching
from permlab.merging import (
    Layout,
    align,
    average,
    barrier_curve,
    batches_of,
    domain,
    features,
    find_head,
    head_tensors,
    initial_state,
    label_split,
    least_squares,
    linear_probe,
    logits_of,
    score_tasks,
    task_scores,
    train_endpoint,
)
from permlab.merging.networks.domains import uneven_split
from permlab.models.vision import build_vision_model
from permlab.symmetry import declare


@pytest.fixture(scope="module")
def digits():
    return load_digits_images()


@pytest.fixture(scope="module")
def trained(digits):
    """Two MLPs on all digits and two on halves of the labels, with their module."""
    model = build_vision_model("mlp", shape=digits.shape, classes=10, width=64)

    def train(data, seed):
        start = initial_state("mlp", digits, seed, width=64)
        return train_endpoint(model, data, start=start, epochs=6, seed=seed, provenance={"init_seed": seed})

    halves = label_split(digits, 2)
    return model, [train(digits, 0), train(digits, 1)], [train(half, seed) for seed, half in enumerate(halves)]


def test_the_layout_in_memory_changes_nothing_but_the_order_of_sums(monkeypatch):
    """Large pictures are trained on with the channels innermost; weights come back contiguous, as files need them."""
    torch.manual_seed(0)
    data = ImageData("noise", torch.randn(64, 3, 32, 32), torch.arange(64) % 4, torch.zeros(0, 3, 32, 32),
                     torch.zeros(0, dtype=torch.long), list("abcd"))  # fmt: skip
    start, found, seen = initial_state("resnet-tiny", data, 0), [], []

    def look(module, given):
        if torch.is_grad_enabled():  # in training
            seen.append((module.weight.stride()[1], given[0].stride(1)))

    for large in (1024, 1025):
        monkeypatch.setattr("permlab.merging.networks.endpoints.LARGE", large)
        model = build_vision_model("resnet-tiny", shape=data.shape, classes=4)
        dict(model.named_modules())["stem"].register_forward_pre_hook(look)
        recipe = {"epochs": 2, "batch_size": 32, "optimizer": "sgd", "rate": 0.01}
        found.append(train_endpoint(model, data, start=start, **recipe).state)
    assert seen == [(1, 1)] * 4 + [(9, 1024)] * 4  # two steps of two epochs each
    assert all(value.is_contiguous() for state in found for value in state.values())
    for key, value in found[0].items():
        assert torch.allclose(value, found[1][key], rtol=1e-3, atol=1e-4), key


def test_training_is_learned_recorded_and_repeatable(digits, trained):
    model, (first, _), _ = trained
    assert first.metrics["test_accuracy"] > 0.9 and first.history[-1]["loss"] < first.history[0]["loss"]
    assert first.provenance["init_seed"] == 0 and first.provenance["samples"] == len(digits.x_train)
    assert first.labels == list(range(10)) and len(first.history) == 6
    start = initial_state("mlp", digits, 0, width=64)
    again = train_endpoint(model, digits, start=start, epochs=6, seed=0)
    assert all(torch.equal(again.state[key], value) for key, value in first.state.items())
    one, other = (train_endpoint(model, digits, start=start, epochs=1, seed=seed) for seed in (0, 1))
    assert not torch.equal(one.state["head.weight"], other.state["head.weight"]), "the order of the data must differ"


def test_initial_states_depend_on_the_seed_alone(digits):
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    one, same, other = (initial_state("mlp", digits, seed, width=8) for seed in (3, 3, 4))
    assert torch.equal(torch.rand(1), wanted), "the global generator must not move"
    assert torch.equal(one["head.weight"], same["head.weight"])
    assert not torch.equal(one["head.weight"], other["head.weight"])


def test_training_options(digits):
    model = build_vision_model("resnet-tiny", shape=digits.shape, classes=10)
    start = initial_state("resnet-tiny", digits, 0)
    part = digits.share(0, 65 / len(digits.x_train))  # the last batch holds one image only
    seen = []
    found = train_endpoint(
        model,
        part,
        start=start,
        epochs=5,
        batch_size=32,
        optimizer="sgd",
        schedule="cosine",
        rate=0.05,
        progress=lambda done, total: seen.append((done, total)),
        should_stop=lambda: len(seen) == 2,
    )
    assert seen == [(1, 5), (2, 5)] and found.provenance["epochs"] == 2 and "share" in found.provenance["data"]
    assert not model.training
    plain = build_vision_model("mlp", shape=digits.shape, classes=10, width=4)
    with pytest.raises(DivergedError, match=r"the loss is .* at step \d+; lower rate=1e\+12"):
        train_endpoint(plain, part, start=plain.state_dict(), epochs=9, batch_size=8, optimizer="sgd", rate=1e12)
    with pytest.raises(UserError, match="did you mean 'adam'"):
        train_endpoint(model, part, start=start, optimizer="adma")


def test_label_splits(digits):
    halves = label_split(digits, 2)
    assert [sorted(half.y_train.unique().tolist()) for half in halves] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    thirds = label_split(digits, 3)
    assert sum(len(each.x_train) for each in thirds) == len(digits.x_train)
    (odd,) = label_split(digits, [[1, 3]])
    assert set(odd.y_test.tolist()) == {1, 3}
    for bad in (11, [[12]], [[]]):
        with pytest.raises(UserError):
            label_split(digits, bad)


@pytest.mark.parametrize("count", [2, 3])
def test_uneven_splits_deal_out_every_image_once_and_most_of_a_class_to_its_network(digits, count):
    parts = uneven_split(digits, count, 0.8, seed=1)
    images = torch.cat([part.x_train for part in parts]).flatten(1)
    assert sorted(map(tuple, images.tolist())) == sorted(map(tuple, digits.x_train.flatten(1).tolist()))
    counts = torch.stack([part.y_train.bincount(minlength=10) for part in parts]).double()
    owner = torch.tensor([sum(label >= round(k * 10 / count) for k in range(1, count)) for label in range(10)])
    own, rest = 0.8, 0.2 / (count - 1)
    for k, part in enumerate(parts):
        wanted = counts.sum(0) * torch.where(owner == k, own, rest)
        assert (counts[k] - wanted).abs().max() <= 1 and len(part.x_test) == len(digits.x_test)
    other = uneven_split(digits, count, 0.8, seed=2)[0]
    assert other.x_train.shape == parts[0].x_train.shape and not torch.equal(other.x_train, parts[0].x_train)
    even = uneven_split(digits, 2, 0.5)
    assert all(abs(int(a) - int(b)) <= 1 for a, b in zip(*(part.y_train.bincount() for part in even)))


def test_uneven_splits_refuse_numbers_out_of_range(digits):
    for count, share in ((2, 0), (2, 1), (1, 0.8), (11, 0.8)):
        with pytest.raises(UserError, match="out of range"):
            uneven_split(digits, count, share)


def test_matching_lowers_the_barrier_of_trained_networks(digits, trained):
    model, (a, b), _ = trained
    spec = declare(model)
    test = batches_of(digits.x_test, digits.y_test)
    naive = barrier_curve(model, a.state, b.state, test, points=5)
    matched = align(spec, [a.state, b.state], weight_matching(spec, a.state, b.state))
    curve = barrier_curve(model, *matched, test, points=5)
    assert curve.loss_barrier < 0.5 * naive.loss_barrier
    assert curve.loss[-1] == pytest.approx(naive.loss[-1], abs=1e-5)


def test_tasks_with_their_own_heads(digits, trained):
    model, _, tasks = trained
    spec = declare(model)
    labels = [each.labels for each in tasks]
    states = [each.state for each in tasks]
    test, train = (batches_of(digits.x_test, digits.y_test), batches_of(digits.x_train))
    head = find_head(model, (digits.x_test[:2],))
    heads = head_tensors(states[0], head)
    assert "head.weight" not in spec.without(heads).axes and "head.weight" in spec.axes
    ensemble = task_scores(model, states, labels, test)
    assert ensemble.own > 0.93 and ensemble.joint > 0.6 and ensemble.joint <= ensemble.own
    matching = activation_matching(spec, model, states, train)
    aligned = align(spec, states, matching)
    scores = {}
    for name, ratio in (("merged", 0.0), ("full", 1.0)):
        layout = Layout(spec, model, ratios=dict.fromkeys(spec.groups, ratio), heads=heads)
        for fit in (False, True):
            trunk = least_squares(layout, model, aligned, train).state if fit else layout.merge(aligned)
            own = [layout.task_state(trunk, state, k) for k, state in enumerate(aligned)]
            scores[name, fit] = task_scores(model, own, labels, test)
    assert scores["full", False] == ensemble and scores["full", True] == ensemble
    assert scores["merged", True].joint > scores["merged", False].joint


def test_joint_decisions_by_hand():
    truth = torch.tensor([0, 1, 7, 7])
    one = torch.tensor([[5.0, 1.0], [0.0, 2.0], [4.0, 0.0], [0.0, 0.0]])  # labels 0 and 1
    other = torch.tensor([[1.0, 0.0], [9.0, 0.0], [3.0, 0.0], [0.0, 6.0]])  # labels 7 and 2
    found = score_tasks([one, other], [[0, 1], [7, 2]], truth)
    assert found.tasks == [1.0, 0.5] and found.own == 0.75 and found.joint == 0.25
    wide = torch.full((4, 8), 99.0)
    wide[:, [7, 2]] = other
    assert score_tasks([one, wide], [[0, 1], [7, 2]], truth) == found
    with pytest.raises(UserError, match="share a label"):
        score_tasks([one, other], [[0, 1], [1, 2]], truth)
    with pytest.raises(UserError, match="no sample"):
        score_tasks([one, other], [[0, 1], [3, 2]], truth)
    with pytest.raises(UserError, match="fits neither"):
        score_tasks([one, other], [[0, 1], [5, 6, 7]], truth)


def test_probe_and_features(digits, trained):
    model, (a, _), _ = trained
    train, test = batches_of(digits.x_train), batches_of(digits.x_test)
    read = [features(model, a.state, batches, "head") for batches in (train, test)]
    assert read[0].shape == (len(digits.x_train), 64)
    logits = read[1] @ a.state["head.weight"].t() + a.state["head.bias"]
    assert torch.allclose(logits, logits_of(model, a.state, test), atol=1e-4)
    probe = linear_probe(read[0][:400], digits.y_train[:400], read[1], digits.y_test)
    shuffled = digits.y_train[torch.randperm(400, generator=torch.Generator().manual_seed(0))]
    assert probe > 0.85 and linear_probe(read[0][:400], shuffled, read[1], digits.y_test) < 0.4


def test_a_head_that_is_no_layer_is_refused():
    class Squashed(nn.Linear):
        def forward(self, x):
            return super().forward(x).tanh()

    with pytest.raises(UserError, match="no head"):
        find_head(nn.Sequential(nn.Linear(3, 3), nn.Tanh()), (torch.zeros(1, 3),))
    assert find_head(Squashed(3, 2), (torch.zeros(1, 3),)) == ""
    model, inputs, _ = build("vit")
    assert find_head(model, inputs) == "classifier"


def test_empty_test_halves_are_allowed(digits):
    data = ImageData("x", digits.x_train[:20], digits.y_train[:20], digits.x_test[:0], digits.y_test[:0], digits.labels)
    model = build_vision_model("mlp", shape=data.shape, classes=10, width=4)
    found = train_endpoint(model, data, start=model.state_dict(), epochs=1)
    assert "test_loss" not in found.metrics and found.metrics["train_loss"] > 0
    assert average([found.state])["head.weight"].equal(found.state["head.weight"])


def test_domains_change_images_and_nothing_else(digits):
    kinds = {kind: domain(digits, kind) for kind in ("original", "inverted", "rotated", "blurred")}
    assert torch.equal(kinds["inverted"].x_train, -digits.x_train)
    assert torch.equal(kinds["original"].x_test, digits.x_test)
    back = domain(domain(domain(kinds["rotated"], "rotated"), "rotated"), "rotated")
    assert torch.equal(back.x_train, digits.x_train) and not torch.equal(kinds["rotated"].x_train, digits.x_train)
    blurred = kinds["blurred"].x_test[0, 0]
    assert blurred[3, 4] == pytest.approx(float(digits.x_test[0, 0, 2:5, 3:6].mean()), abs=1e-5)
    corner = digits.x_test[0, 0, [0, 0, 1], :][:, [0, 0, 1]]
    assert blurred[0, 0] == pytest.approx(float(corner.mean()), abs=1e-5)
    for kind, data in kinds.items():
        assert kind in data.note and torch.equal(data.y_train, digits.y_train) and data.shape == digits.shape
    with pytest.raises(UserError, match="did you mean 'rotated'"):
        domain(digits, "rotate")


def test_a_head_of_its_own_inside_a_larger_one_is_the_same_as_a_small_head(digits):
    part = digits.subset([2, 5, 7])
    large = build_vision_model("mlp", shape=digits.shape, classes=10, width=8)
    small = build_vision_model("mlp", shape=digits.shape, classes=3, width=8)
    start = initial_state("mlp", digits, 0, width=8)
    cut = {name: value[[2, 5, 7]] if name.startswith("head") else value for name, value in start.items()}
    renamed = ImageData(
        "digits", part.x_train, torch.searchsorted(torch.tensor([2, 5, 7]), part.y_train), part.x_test,
        torch.searchsorted(torch.tensor([2, 5, 7]), part.y_test), ["2", "5", "7"],
    )  # fmt: skip
    one = train_endpoint(large, part, start=start, epochs=2, outputs=[2, 5, 7])
    other = train_endpoint(small, renamed, start=cut, epochs=2)
    assert one.labels == [2, 5, 7] and one.metrics["test_accuracy"] == other.metrics["test_accuracy"]
    assert one.metrics["test_loss"] == pytest.approx(other.metrics["test_loss"], abs=1e-5)
    for name, value in other.state.items():
        found = one.state[name][[2, 5, 7]] if name.startswith("head") else one.state[name]
        assert torch.allclose(found, value, atol=1e-5)
    untouched = [0, 1, 3, 4, 6, 8, 9]
    assert torch.equal(one.state["head.weight"][untouched], start["head.weight"][untouched])
