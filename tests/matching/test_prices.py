from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from permlab.matching import prices
from permlab.matching.assign import tied
from permlab.matching.prices import Prices


def worth(similarity, permutation):
    return float(similarity[torch.arange(len(similarity)), permutation].double().sum())


def best(similarity):
    return worth(similarity, torch.from_numpy(linear_sum_assignment(-similarity.double().numpy())[1]))


def problems(size, generator):
    """Costs as layers give them: products of few or many columns, planted, with dead, doubled or tiny units."""
    a, b = (torch.randn(size, 20, generator=generator) for _ in range(2))
    yield "products", a @ b.T
    yield "many columns", torch.randn(size, 300, generator=generator) @ torch.randn(300, size, generator=generator)
    yield "planted", a @ a[torch.randperm(size, generator=generator)].T
    dead = a.clone()
    dead[: size // 3] = 0
    small = b.clone()
    small[: size // 4] *= 1e-8
    yield "dead", dead @ small.T
    doubled = a.clone()
    doubled[: size // 2] = doubled[0] + 1e-7 * torch.randn(size // 2, 20, generator=generator)
    yield "doubled", doubled @ b.T
    yield "equal", torch.full((size, size), 3.3)
    yield "whole numbers", torch.randint(0, 3, (size, size), generator=generator).float()
    yield "rows of all sizes", (a @ b.T) * torch.exp(15 * torch.rand(size, 1, generator=generator) - 7)


@pytest.mark.parametrize("size", [1, 2, 7, 90])
def test_assignments_are_optimal_from_the_first_on_and_with_prices_of_the_last(size):
    generator = torch.Generator().manual_seed(size)
    for name, cost in problems(size, generator):
        solver, current = Prices(), torch.arange(size)
        for step in range(3):
            current = solver.assign("group", cost, current)
            assert sorted(current.tolist()) == list(range(size))
            # n steps of a grid of at most 2^-16 of the range, and of the noise of float32
            assert worth(cost, current) >= best(cost) - 5e-5 * size * float(cost.abs().max()), (name, step)
            cost = cost + 0.05 * cost.std(correction=0) * torch.randn(size, size, generator=generator)


def test_with_prices_kept_the_dense_solver_is_not_asked(monkeypatch):
    generator, size = torch.Generator().manual_seed(0), 300
    cost = torch.randn(size, 400, generator=generator) @ torch.randn(400, size, generator=generator)
    monkeypatch.setattr(prices, "linear_sum_assignment", None)
    rounds = []
    sparse = prices._sparse
    monkeypatch.setattr(prices, "_sparse", lambda *given: rounds.append(len(given[1])) or sparse(*given))
    solver = Prices()
    first = solver.assign("group", cost, torch.arange(size))
    cold = len(rounds)
    again = solver.assign("group", cost, first)
    assert torch.equal(first, again) and worth(cost, first) == pytest.approx(best(cost), rel=1e-6)
    # The prices of the solution leave nothing that contradicts: one sparse problem of few pairs proves it.
    assert len(rounds) == cold + 1 and rounds[-1] < 2 * prices.CANDIDATES * size


def test_a_wrong_price_is_found_out():
    size = 120
    cost = torch.randn(size, 40, generator=torch.Generator().manual_seed(1))
    cost = cost @ cost[torch.randperm(size)].T
    solver = Prices()
    solver._kept["group"] = np.linspace(-50, 50, size).astype(np.float32)
    assert worth(cost, solver.assign("group", cost, torch.arange(size))) == pytest.approx(best(cost), rel=1e-5)


def test_quick_assignments_are_no_worse_than_where_they_start_and_nearly_the_best():
    generator, size = torch.Generator().manual_seed(2), 200
    solver, current = Prices(), torch.randperm(size, generator=generator)
    for step in range(4):
        cost = torch.randn(size, size, generator=generator)
        before, current = current, solver.assign("group", cost, current, quick=True)
        assert sorted(current.tolist()) == list(range(size))
        start, end, top = worth(cost, before), worth(cost, current), best(cost)
        assert start <= end <= top + 1e-3 and end - start > 0.9 * (top - start), step


@pytest.mark.parametrize("seed", [3, 184])
def test_assignments_end_where_dead_units_are_nearly_equal(seed):
    # On the raw values SciPy's sparse solver never returned for these.
    generator = torch.Generator().manual_seed(seed)
    size = int(torch.randint(4, 60, (1,), generator=generator))
    a, b = (torch.relu(torch.randn(size, 5, generator=generator)) for _ in range(2))
    small = 10.0 ** (-20 * torch.rand(1, generator=generator))
    for side in (a, b):
        side[size // 3 + 1 :] *= small
    cost = a @ b.T
    for quick in (True, False):
        new = Prices().assign("group", cost, torch.arange(size), quick=quick)
        assert sorted(new.tolist()) == list(range(size))
        assert worth(cost, new) >= worth(cost, torch.arange(size))


def test_units_that_repeat_are_counted_and_two_zeros_are_one():
    table = torch.tensor([[1.0, 2.0, 0.0], [1.0, 2.0, -0.0], [3.0, 4.0, 5.0]])
    assert tied(table) == 1 and tied(table.t().contiguous()) == 1 and tied(torch.eye(3)) == 0
    assert tied(torch.zeros(0, 0)) == 0 and tied(torch.zeros(4, 4)) == 3
