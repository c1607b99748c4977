"""Finite networks: the exact solutions against explicit least squares, gradient descent, and the law."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from permlab.errors import DivergedError, UserError
from permlab.ntk import posterior, success_probability
from permlab.ntk.descent import DescentEnsemble, default_epochs, default_learning_rate
from permlab.ntk.ensembles import EnsembleStatistics
from permlab.ntk.finite import ExactEnsemble, Problem, Spec
from permlab.ntk.process import all_binary_inputs
from permlab.ntk.sampling import stopping_times


def problem(k, ones=2, seed=0):
    bits = all_binary_inputs(k)
    return Problem(np.random.default_rng(seed).permutation(k), bits[bits.sum(axis=1) == ones])


def initial_weights(spec, seed, member):
    ensemble = ExactEnsemble(spec, problem(spec.k), seed, dtype=torch.float64)
    blocks = list(ensemble.blocks([member]))
    return torch.cat([first[0] for first, _ in blocks]), torch.cat([last[0] for _, last in blocks], dim=1), ensemble


@pytest.mark.parametrize("parameterization", ["standard", "ntk"])
@pytest.mark.parametrize("layers", ["last", "both"])
def test_exact_solution_is_the_minimum_norm_step_of_the_linearised_network(layers, parameterization):
    spec = Spec(4, 60, parameterization, layers)
    first, last, ensemble = initial_weights(spec, 5, 2)
    scale_first, scale_last = (1.0, 1.0) if parameterization == "standard" else (4**-0.5, 60**-0.5)
    # the parameters that gradient descent sees: f(x) = s2 V2 relu(s1 V1 x)
    free = {"last": last / scale_last, "first": first / scale_first}

    def forward(parameters, inputs):
        hidden = torch.relu(scale_first * parameters["first"] @ inputs.T)
        return (scale_last * parameters["last"] @ hidden).T.flatten()

    moving = {name: value for name, value in free.items() if layers == "both" or name == "last"}

    def jacobian(inputs):
        parts = torch.func.jacrev(lambda p: forward({**free, **p}, inputs))(moving)
        return torch.cat([part.flatten(1) for part in parts.values()], dim=1)

    train, tests = torch.eye(4, dtype=torch.float64), ensemble.tests
    change = torch.linalg.pinv(jacobian(train)) @ (ensemble.targets.flatten() - forward(free, train))
    expected = (forward(free, tests) + jacobian(tests) @ change).reshape(-1, 4)
    got = ExactEnsemble(spec, ensemble.problem, 5, dtype=torch.float64).outputs([2])[0]
    assert (got - expected).abs().max() < 1e-9


def test_wide_networks_are_summed_over_blocks():
    spec = Spec(5, 5000, "standard", "last")
    first, last, ensemble = initial_weights(spec, 0, 0)
    hidden, trained = torch.relu(first.T), torch.relu(ensemble.tests @ first.T)
    untrained = hidden @ last.T
    expected = trained @ last.T + trained @ torch.linalg.pinv(hidden) @ (ensemble.targets - untrained)
    got = ExactEnsemble(spec, ensemble.problem, 0, dtype=torch.float64).outputs([0])[0]
    assert (got - expected).abs().max() < 1e-9


@pytest.mark.parametrize("layers", ["last", "both"])
def test_a_member_does_not_depend_on_its_chunk(layers):
    spec = Spec(4, 100, "ntk", layers)
    for kind in (ExactEnsemble, DescentEnsemble):
        ensemble = kind(spec, problem(4), 9)
        together = ensemble.outputs(range(6))
        assert torch.allclose(together[3], ensemble.outputs([3])[0], atol=1e-5)
        assert torch.equal(together, kind(spec, problem(4), 9).outputs(range(6)))


def test_exact_and_gradient_descent_agree_at_width_4096():
    task = problem(8)
    descent = DescentEnsemble(Spec(8, 4096, "standard", "both"), task, 1).outputs(range(3))
    for layers in ("last", "both"):
        exact = ExactEnsemble(Spec(8, 4096, "standard", layers), task, 1).outputs(range(3))
        assert (exact - descent).abs().max() < 1e-3


def test_linearised_and_trained_networks_agree_better_as_width_grows():
    task = problem(6)
    gaps = []
    for width in (64, 512, 4096):
        spec = Spec(6, width, "ntk", "both")
        descent = DescentEnsemble(spec, task, 0).outputs(range(8))
        gaps.append(float((ExactEnsemble(spec, task, 0).outputs(range(8)) - descent).square().mean().sqrt()))
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2]


def test_width_selects_the_kernel_in_the_standard_parameterization():
    # The first layer enters the standard tangent kernel with weight k / width: compare means at width = 16 k.
    k, width = 6, 96
    task = problem(k)
    outputs = ExactEnsemble(Spec(k, width, "standard", "both"), task, 0, dtype=torch.float64).outputs(range(2000))
    answers = torch.from_numpy(task.answers)
    off = outputs[:, ~answers].mean(dim=1)
    mean, error = float(off.mean()), float(off.std() / math.sqrt(len(off)))
    finite_weight = float(posterior(k, 2, Spec(k, width, "standard", "both").first_layer_weight).mean_off)
    last_layer = float(posterior(k, 2).mean_off)
    assert abs(mean - finite_weight) < abs(mean - last_layer)
    assert error < abs(finite_weight - last_layer) / 3


def test_exact_networks_match_the_law():
    k, networks = 8, 1200
    task = problem(k)
    statistics = EnsembleStatistics(task, torch.full((28,), 1 / 28), 0.9, block=46)
    ensemble = ExactEnsemble(Spec(k, 1024), task, 3)
    for start in range(0, networks, 100):
        statistics.update(ensemble.outputs(range(start, start + 100)))
    moments, law = statistics.moments(), posterior(k, 2)
    assert moments.mean_on == pytest.approx(float(law.mean_on), abs=0.01)
    assert moments.mean_off == pytest.approx(float(law.mean_off), abs=0.005)
    assert moments.variance == pytest.approx(float(law.variance), rel=0.05)
    size = statistics.ensemble_size(2)
    assert 0 < statistics.ensemble_size_error(size) < 6 and abs(size - 46) < 4 * statistics.ensemble_size_error(size)
    mean, error = statistics.success()
    assert abs(mean - float(success_probability(k, 2, 46))) < 4 * error
    sampled = stopping_times(k, 2, 0.9, replicates=400, seed=0)
    error = math.hypot(np.std(statistics.stops) / math.sqrt(len(statistics.stops)), sampled.std() / 20)
    assert abs(np.mean(statistics.stops) - sampled.mean()) < 4 * error


def test_statistics_resume_bit_for_bit():
    task = problem(5)
    outputs = ExactEnsemble(Spec(5, 64), task, 0).outputs(range(60))
    whole = EnsembleStatistics(task, torch.full((10,), 0.1), 0.9, block=20)
    whole.update(outputs)
    first = EnsembleStatistics(task, torch.full((10,), 0.1), 0.9, block=20)
    first.update(outputs[:33])
    second = EnsembleStatistics(task, torch.full((10,), 0.1), 0.9, block=20)
    second.restore(first.state())
    second.update(outputs[33:])
    assert second.stops == whole.stops and second.accuracies == whole.accuracies and len(whole.accuracies) == 3
    assert torch.equal(second.state()["sums"], whole.state()["sums"])


def test_chunks_keep_temporaries_bounded():
    for k, width in [(8, 64), (30, 50_000), (30, 10**7)]:
        task = Problem(np.arange(k), np.eye(k, dtype=bool))
        ensemble = ExactEnsemble(Spec(k, width), task)
        assert ensemble.chunk >= 1
        assert ensemble.chunk * min(width, 4096) * len(ensemble.all_inputs) <= 2**24


def test_descent_defaults_converge_and_too_large_a_step_is_refused():
    spec = Spec(5, 300, "standard", "both")
    ensemble = DescentEnsemble(spec, problem(5), 0)
    ensemble.outputs(range(4))
    assert ensemble.training_error < 1e-3
    rate = default_learning_rate(spec)
    assert default_epochs(spec, rate / 10) > 5 * default_epochs(spec, rate)
    with pytest.raises(DivergedError, match=r"\(network 0\); lower learning_rate=.*the largest stable one"):
        DescentEnsemble(spec, problem(5), 0, learning_rate=100 * rate, epochs=200).outputs([0])


def test_too_narrow_networks_are_refused():
    with pytest.raises(UserError, match="width of at least 30"):
        Spec(30, 16)


def test_weights_that_do_not_fit_are_drawn_again_and_give_the_same_outputs(monkeypatch):
    from permlab.ntk import finite

    spec = Spec(6, 5_000)
    kept = ExactEnsemble(spec, problem(6), seed=3).outputs([0, 4])
    monkeypatch.setattr(finite, "ELEMENTS", 1)
    torch.testing.assert_close(ExactEnsemble(spec, problem(6), seed=3).outputs([0, 4]), kept, rtol=0, atol=0)
