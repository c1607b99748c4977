from __future__ import annotations

import pytest
import torch
from architectures import build
from torch import nn
from torch.nn import functional

from permlab.errors import UserError
from permlab.matching import identity_matching, weight_matching, weight_matching_many
from permlab.merging import (
    Score,
    average,
    barrier_curve,
    barrier_curves,
    batches_of,
    disagreement,
    ensemble_logits,
    evaluate,
    interpolate,
    language_score,
    logits_of,
    reset_batchnorm,
    score_logits,
    taylor_estimate,
    temperature,
    three_models,
)
from permlab.symmetry import apply
from permlab.symmetry.functional import call


def images(count=60, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 1, 8, 8, generator=generator)
    return batches_of(x, torch.randint(0, 10, (count,), generator=generator), 25)


def states(name, count=2):
    model, _, spec = build(name)
    return model, spec, [build(name, seed=seed)[0].state_dict() for seed in range(count)]


@pytest.mark.parametrize("name", ["mlp", "resnet20", "vit-tiny"])
def test_a_network_has_no_barrier_to_itself(name):
    model, _, (a, _) = states(name)
    curve = barrier_curve(model, a, a, images(), points=5)
    assert curve.loss_barrier == 0 and curve.accuracy_barrier == 0 and curve.midpoint_barrier == 0
    assert len(set(curve.loss)) == 1


def test_points_of_the_curve_are_those_of_mixed_networks():
    model, _, (a, b) = states("mlp")
    batches = images()
    curves = barrier_curves(model, a, b, {"one": batches, "two": batches[:1]}, points=[0, 0.25, 0.5, 1])
    x, y = (torch.cat([batch[i] for batch in batches]) for i in (0, 1))
    losses = []
    for position in (0, 0.25, 0.5, 1):
        mixed = {name: (1 - position) * a[name] + position * b[name] for name in a}
        losses.append(float(functional.cross_entropy(call(model, mixed, (x,)), y)))
    assert curves["one"].loss == pytest.approx(losses, abs=1e-5)
    wanted = max(losses[1] - 0.75 * losses[0] - 0.25 * losses[3], losses[2] - 0.5 * losses[0] - 0.5 * losses[3])
    assert curves["one"].loss_barrier == pytest.approx(wanted, abs=1e-5)
    assert curves["one"].midpoint_loss == curves["one"].loss[2]
    assert curves["two"].loss != curves["one"].loss
    assert interpolate(a, b, 1.0)["head.weight"].equal(b["head.weight"])


def test_barriers_keep_their_sign_and_known_ends_are_not_measured_again():
    model, _, (a, b) = states("mlp")
    ends = {"data": (Score(9.0, 0.0, 1), Score(11.0, 0.0, 1))}
    curve = barrier_curve(model, a, b, images(), points=3, ends=ends)
    assert curve.loss[0] == 9 and curve.loss[2] == 11
    assert curve.loss_barrier == pytest.approx(curve.midpoint_loss - 10) and curve.loss_barrier < 0
    assert curve.accuracy_barrier == pytest.approx(-curve.midpoint_accuracy)
    curve = barrier_curve(model, a, b, images(), points=4)
    with pytest.raises(UserError, match="odd number"):
        _ = curve.midpoint_loss


def test_batchnorm_is_reset_between_the_ends_only():
    model, _, (a, b) = states("mlp-batch")
    batches = images()
    curve = barrier_curve(model, a, b, batches, points=3, reset=batches)
    assert curve.loss[0] == evaluate(model, a, batches).loss
    middle = reset_batchnorm(model, average([a, b]), batches)
    assert curve.midpoint_loss == pytest.approx(evaluate(model, middle, batches).loss, abs=1e-6)
    assert curve.midpoint_loss != barrier_curve(model, a, b, batches, points=3).midpoint_loss


def test_calibrated_curves_use_the_best_temperature():
    model, _, (a, b) = states("mlp")
    a = {name: value * 4 for name, value in a.items()}  # far too sure of itself
    batches = images()
    plain = barrier_curve(model, a, b, batches, points=3)
    curve = barrier_curve(model, a, b, batches, points=3, calibrate=batches)
    assert all(calibrated <= loss + 1e-6 for calibrated, loss in zip(curve.loss, plain.loss))
    assert curve.loss[0] < plain.loss[0] - 0.1 and curve.accuracy == plain.accuracy


@pytest.mark.parametrize("points", [2, [0, 1], [0, 0.5, 0.5, 1], [0.1, 0.5, 1]])
def test_bad_positions_are_refused(points):
    model, _, (a, b) = states("mlp")
    with pytest.raises(UserError, match=r"out of range|must ascend"):
        barrier_curve(model, a, b, images(), points=points)
    with pytest.raises(UserError, match="at least one batch"):
        evaluate(model, a, [])


def squared_score(model, state, batch):
    """A loss that is quadratic in the weights of a linear network."""
    out = call(model, state, (batch[0],))
    return (out - batch[1]).square().sum(), torch.zeros(()), len(out)


def test_taylor_estimate_is_exact_for_a_quadratic_loss():
    torch.manual_seed(0)
    model = nn.Linear(6, 3).double()
    a, b = ({k: torch.randn_like(v) for k, v in model.state_dict().items()} for _ in range(2))
    data = [(torch.randn(n, 6).double(), torch.randn(n, 3).double()) for n in (10, 7)]
    found = taylor_estimate(model, a, b, data, scorer=squared_score)
    assert found.estimate == pytest.approx(found.barrier, rel=1e-10) and found.barrier < 0


@pytest.mark.parametrize("name", ["mlp-batch", "vit-tiny"])
def test_taylor_parts_are_gradients_and_hessians(name):
    model, _, (a, b) = states(name)
    model = model.double()
    a, b = ({name: value.double() for name, value in state.items()} for state in (a, b))
    generator = torch.Generator().manual_seed(0)
    for state in (a, b):  # statistics that differ between the ends
        for key in [key for key in state if "running" in key]:
            state[key] = state[key] + torch.rand(state[key].shape, generator=generator)
    batches = [(x.double(), y) for x, y in images(12)]
    found = taylor_estimate(model, a, b, batches)

    def loss(position):
        return evaluate(model, {name: a[name] + position * (b[name] - a[name]) for name in a}, batches).loss

    step = 1e-4
    slopes = [(loss(at + step) - loss(at - step)) / (2 * step) for at in (0, 1)]
    bends = [(loss(at + step) - 2 * loss(at) + loss(at - step)) / step**2 for at in (0, 1)]
    assert found.first == pytest.approx((slopes[0] - slopes[1]) / 4, rel=1e-4)
    assert found.second == pytest.approx(sum(bends) / 16, rel=1e-3)


def test_three_permuted_copies_are_connected_once_matched():
    model, _, spec = build("mlp")
    a = model.state_dict()
    copies = [apply(spec, a, spec.random(torch.Generator().manual_seed(seed))) for seed in (1, 2)]
    rows = three_models(
        spec,
        model,
        [a, *copies],
        images(),
        weight_matching,
        match_all=lambda spec, states: weight_matching_many(spec, states),
    )
    table = {(row["pair"], row["arm"]): row for row in rows}
    matched = [("b-c", "anchor"), ("b-c", "direct"), ("b-c", "all"), ("a-b", "anchor"), ("a-c", "all")]
    assert all(abs(table[key]["loss_barrier"]) < 1e-5 for key in matched)
    assert abs(table["b-c", "naive"]["loss_barrier"]) > 1e-3
    assert table["a-b-c", "anchor"]["loss"] == pytest.approx(evaluate(model, a, images()).loss, abs=1e-5)
    assert len(rows) == 3 * 4 + 1
    naive = three_models(spec, model, [a, *copies], images(), lambda spec, *_: identity_matching(spec))
    assert naive[2]["loss_barrier"] == naive[6]["loss_barrier"]
    with pytest.raises(UserError, match="needs three"):
        three_models(spec, model, [a, a], images(), weight_matching)


def test_temperature_undoes_a_scale():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(500, 5, generator=generator, dtype=torch.float64)
    labels = torch.distributions.Categorical(logits=logits)
    torch.manual_seed(0)
    labels = labels.sample()
    heat = temperature(logits, labels)
    assert 0.8 < heat < 1.25
    assert temperature(logits * 7, labels) == pytest.approx(7 * heat, rel=1e-3)
    best = score_logits(logits / heat, labels).loss
    assert all(best <= score_logits(logits / other, labels).loss for other in (heat * 0.9, heat * 1.1, 1.0))


def test_disagreement_and_ensembles():
    one = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0], [0.0, 4.0]])
    other = torch.tensor([[0.0, 1.0], [0.0, 1.0], [3.0, 0.0], [1.0, 0.0]])
    assert disagreement(one, other) == 0.5 and disagreement(one, one) == 0
    assert torch.equal(ensemble_logits([one, other]), (one + other) / 2)
    mean = (one.softmax(1) + other.softmax(1)) / 2
    assert torch.allclose(ensemble_logits([one, other], of="probabilities").exp(), mean)


def test_language_models_are_scored_per_token():
    model, inputs, _ = build("llama")
    ids = inputs["input_ids"]
    state = model.state_dict()
    score = evaluate(model, state, [{"input_ids": ids}], language_score)
    assert score.loss == pytest.approx(float(model(input_ids=ids, labels=ids).loss.detach()), abs=1e-5)
    assert score.count == 2 * 8 and score.perplexity == pytest.approx(float(torch.tensor(score.loss).exp()), rel=1e-5)
    labels = ids.clone()
    labels[:, :5] = -100
    part = evaluate(model, state, [{"input_ids": ids, "labels": labels}], language_score)
    assert part.count == 2 * 4
    assert part.loss == pytest.approx(float(model(input_ids=ids, labels=labels).loss.detach()), abs=1e-5)


def test_logits_come_in_order():
    model, _, (a, _) = states("mlp")
    batches = images()
    assert torch.allclose(
        logits_of(model, a, batches), call(model, a, (torch.cat([x for x, _ in batches]),)), atol=1e-6
    )
