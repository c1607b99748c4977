"""Ranks that follow from the updates, and merging in the metric of the outputs: against numpy and brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from permlab.adapters import MergeRule, merge_adapters, random_adapter
from permlab.adapters.allocation import by_budget, by_energy, kept_energy, spectrum
from permlab.adapters.interference import (
    cosine,
    module_errors,
    predicted_error,
    rank_correlation,
    shared_energy,
    spearman,
)
from permlab.adapters.moments import Moments, input_moments
from permlab.errors import UserError

SHAPES = {"q": (14, 11), "up": (20, 11), "down": (11, 20)}


def pair(rank=3):
    return [random_adapter(f"a{seed}", SHAPES, rank, seed, alpha=2.0 * (seed + 1)) for seed in range(2)]


def dense(adapters, module):
    return sum(adapter.load(module).delta().double() for adapter in adapters).numpy()


@pytest.mark.parametrize("share", [0.5, 0.9, 1.0])
def test_energy_takes_the_smallest_rank_that_keeps_the_share(share):
    adapters = pair()
    merged = merge_adapters(adapters, MergeRule("svd", rank=f"energy:{share}")).adapter
    for module in SHAPES:
        squares = np.linalg.svd(dense(adapters, module), compute_uv=False)[:6] ** 2
        np.testing.assert_allclose(spectrum(adapters, [1.0, 1.0], module).numpy(), squares, rtol=1e-4, atol=1e-9)
        rank = merged.modules[module].rank
        assert squares[:rank].sum() >= (share - 1e-6) * squares.sum()
        assert rank == 1 or squares[: rank - 1].sum() < share * squares.sum()


def test_budget_keeps_the_most_energy_of_all_ranks_that_cost_as_much():
    adapters = pair()
    spectra = {module: spectrum(adapters, [1.0, 1.0], module) for module in SHAPES}
    costs = {module: sum(shape) for module, shape in SHAPES.items()}
    whole = sum(6 * cost for cost in costs.values())
    for share in (0.3, 0.5, 0.8):
        found = by_budget(spectra, costs, share)
        spent = sum(found[module] * costs[module] for module in SHAPES)
        assert spent <= share * whole
        best = max(
            kept_energy(spectra, dict(zip(SHAPES, ranks)))
            for ranks in itertools.product(range(1, 7), repeat=3)
            if sum(rank * costs[module] for rank, module in zip(ranks, SHAPES)) <= spent
        )
        assert kept_energy(spectra, found) == pytest.approx(best)
    assert by_budget(spectra, costs, 1.0) == dict.fromkeys(SHAPES, 6)
    assert by_energy(spectra, costs, 1.0) == dict.fromkeys(SHAPES, 6)


def test_whitened_svd_is_the_best_approximation_of_the_outputs():
    adapters, draws = pair(), np.random.default_rng(0)
    inputs = {
        module: draws.standard_normal((200, d_in)) * np.logspace(0, -2, d_in) for module, (_, d_in) in SHAPES.items()
    }
    moments = {module: Moments(torch.tensor(x.T @ x / len(x))) for module, x in inputs.items()}
    for rank in (1, 2, 4):
        plain = merge_adapters(adapters, MergeRule("svd", rank=rank)).adapter
        merged = merge_adapters(adapters, MergeRule("svd", rank=rank), moments=moments).adapter
        for module, x in inputs.items():
            exact = x @ dense(adapters, module).T
            left = np.linalg.svd(exact, compute_uv=False)[rank:]
            error = np.linalg.norm(exact - x @ merged.load(module).delta().double().numpy().T)
            # The ridge, a thousandth of the mean variance, is all that keeps it from the bound.
            assert np.linalg.norm(left) <= error * (1 + 1e-9) and error <= 1.02 * np.linalg.norm(left)
            assert error < np.linalg.norm(exact - x @ plain.load(module).delta().double().numpy().T)


@pytest.mark.parametrize("method", [pytest.param("lego", marks=pytest.mark.slow), "svd", "cat"])
def test_white_inputs_change_nothing(method):
    adapters = pair()
    rule = MergeRule(method) if method == "cat" else MergeRule(method, rank=3)
    white = {module: Moments(torch.eye(d_in, dtype=torch.float64)) for module, (_, d_in) in SHAPES.items()}
    plain, same = (merge_adapters(adapters, rule, moments=m).adapter for m in (None, white))
    for module in SHAPES:
        torch.testing.assert_close(same.load(module).delta(), plain.load(module).delta(), atol=2e-3, rtol=2e-3)


def test_moments_are_those_of_the_unmasked_inputs():
    torch.manual_seed(0)

    class Tiny(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.q = nn.Embedding(7, 5), nn.Linear(5, 4)

        def forward(self, input_ids, attention_mask, use_cache):
            return self.q(self.embed(input_ids))

    model, ids = Tiny(), torch.tensor([[1, 2, 2], [3, 0, 0]])
    found = input_moments(model, ["embed", "q"], [(ids, ids != 0)])
    assert found["embed"].matrix.tolist() == [0, 0.25, 0.5, 0.25, 0, 0, 0]
    rows = model.embed.weight.detach()[torch.tensor([1, 2, 2, 3])].double()
    torch.testing.assert_close(found["q"].matrix, rows.T @ rows / 4)


@pytest.mark.parametrize(
    "rank, reason",
    [("energy", "no rank"), ("energie:0.9", "energy"), ("energy:1.2", "above 0"), ("budget:x", "above 0")],
)
def test_ranks_in_other_forms_are_refused(rank, reason):
    with pytest.raises(UserError, match=reason):
        merge_adapters(pair(), MergeRule("svd", rank=rank))


def test_interference_of_planted_updates():
    first, second = pair()
    x, y = first.load("q"), second.load("q")
    wanted = float((x.delta() * y.delta()).sum() / x.delta().norm() / y.delta().norm())
    assert cosine(x, y) == pytest.approx(wanted, rel=1e-4)
    assert shared_energy(x, x) == pytest.approx(1.0) and shared_energy(x, y) < 0.9
    both = merge_adapters([first, second], MergeRule("cat")).adapter
    gap = module_errors(both, first)["up"]
    assert gap == pytest.approx(
        float((second.load("up").delta().norm() / first.load("up").delta().norm()) ** 2), rel=1e-4
    )
    # A merge that is the adapter costs nothing, none at all costs everything.
    alone = merge_adapters([first], MergeRule("cat")).adapter
    assert predicted_error(alone, [first]) == pytest.approx(0, abs=1e-9)
    assert predicted_error(random_adapter("none", {}, 3, 0), [first]) == pytest.approx(1.0)


def test_rank_correlation_against_scipy_and_its_interval():
    from scipy.stats import spearmanr

    draws = np.random.default_rng(0)
    x, y = draws.integers(0, 6, 40), draws.integers(0, 6, 40)
    assert spearman(list(x), list(y)) == pytest.approx(spearmanr(x, y).statistic)
    rows = [{"seed": s, "method": m, "p": m + 100 * s, "l": 2 * m - 7 * s} for s in range(3) for m in range(6)]
    value, low, high = rank_correlation(rows, "p", "l", within="seed", cluster="method", draws=50)
    assert (value, high) == (pytest.approx(1), pytest.approx(1)) and low > 0.99
    noise = [row | {"l": float(draws.standard_normal())} for row in rows]
    _, low, high = rank_correlation(noise, "p", "l", within="seed", cluster="method", draws=50)
    assert high - low > 0.2
