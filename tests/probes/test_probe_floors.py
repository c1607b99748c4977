from __future__ import annotations

from itertools import permutations, product
from math import factorial

import pytest
import torch

from permlab.probes.certificate import Reach, reachable
from permlab.probes.construction import construction_error, construction_output, construction_weights
from permlab.probes.floors import causal_floor, mse_floor, row_accuracy_ceiling, row_floors
from permlab.probes.layout import Layout
from permlab.probes.problem import encode, sample, squared_error
from permlab.probes.transformer import Transformer


def bayes_error(see_p: list[bool], see_y: list[bool], j: int, columns: int) -> float:
    """Error of the posterior mean of Y[j]: list every permutation and string, group them by what is seen."""
    n = len(see_p)
    groups: dict[tuple, list[tuple[int, ...]]] = {}
    for order in permutations(range(n)):
        for bits in product((0, 1), repeat=n * columns):
            y = [bits[r * columns : (r + 1) * columns] for r in range(n)]
            seen_p = tuple(order[i] if see_p[i] else None for i in range(n))
            seen_y = tuple(y[order[i]] if see_y[i] else None for i in range(n))
            groups.setdefault((seen_p, seen_y), []).append(y[j])
    total = count = 0.0
    for targets in groups.values():
        for column in zip(*targets):
            mean = sum(column) / len(column)
            total += sum((b - mean) ** 2 for b in column)
        count += len(targets)
    return total / count


@pytest.mark.parametrize("n", [2, 3, 4])
def test_row_floor_equals_the_brute_force_bayes_estimator_for_every_set_of_visible_rows(n):
    """Every V_P and V_Y, also those no mask here makes; bits are independent, so one column stands for all n."""
    for see_p in product((True, False), repeat=n):
        for see_y in product((True, False), repeat=n):
            reach = Reach(torch.tensor([see_p] * n), torch.tensor([see_y] * n))
            j = sum(see_p) % n
            brute = n * bayes_error(list(see_p), list(see_y), j, 1)
            assert float(row_floors(reach)[j]) == pytest.approx(brute, abs=1e-12)


def test_columns_are_independent():
    """All n columns at once give n times the floor of one: the shortcut of the test above."""
    for see_p, see_y in [((True, False, True), (False, True, True)), ((False,) * 3, (True, False, False))]:
        three, one = (bayes_error(list(see_p), list(see_y), 1, columns) for columns in (3, 1))
        assert three == pytest.approx(3 * one, abs=1e-12)


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("after", range(6))
@pytest.mark.parametrize("before", [0, 2])
def test_floors_of_layouts_against_brute_force(n, after, before):
    for readout in ("permutation", "string") + (("scratch",) if after else ()):
        for mask in ("causal", "none"):
            layout = Layout(n, before, after, mask, readout)
            reach = reachable(layout, depth=2)
            brute = sum(
                n * bayes_error(reach.permutation[j].tolist(), reach.string[j].tolist(), j, 1) for j in range(n)
            )
            assert mse_floor(layout) == pytest.approx(brute / n, abs=1e-12)
            assert causal_floor(layout) == pytest.approx(brute / n, abs=1e-12)


def test_reference_floors_at_ten():
    assert mse_floor(Layout.variant("causal", n=10)) == 2.5
    assert mse_floor(Layout.variant("causal", n=10, readout="string")) == pytest.approx(1.125)
    assert mse_floor(Layout.variant("no_mask", n=10)) == mse_floor(Layout.variant("scratch", n=10)) == 0
    assert mse_floor(Layout(10, after=8, readout="scratch")) > 0
    assert mse_floor(Layout(10, after=9, readout="scratch")) == 0
    assert mse_floor(Layout(10, before=20, readout="string")) == pytest.approx(1.125)


def test_depth_extends_a_window():
    """A sliding window of two rows: information travels one row per layer, so the floor falls with depth."""
    layout = Layout(4, after=4, readout="scratch")
    rows = torch.arange(layout.length)
    window = (rows[:, None] >= rows) & (rows[:, None] - rows <= 1)
    floors = [mse_floor(layout, depth, window) for depth in range(12)]
    assert floors[0] == 1.0
    assert floors == sorted(floors, reverse=True)
    assert floors[-1] == 0
    assert floors[3] > 0


@pytest.mark.parametrize("n", range(2, 7))
def test_a_causal_mask_leaves_only_the_identity(n):
    in_place = reachable(Layout(n, readout="string"), depth=50)
    impossible = set(in_place.impossible())
    assert impossible == set(permutations(range(n))) - {tuple(range(n))}
    assert in_place.possible_count() == 1
    at_p = reachable(Layout(n, readout="permutation"), depth=50)
    assert len(list(at_p.impossible())) == factorial(n)
    assert at_p.possible_count() == 0


@pytest.mark.parametrize("n", range(2, 7))
def test_scratch_rows_make_permutations_possible_one_by_one(n):
    counts = []
    for k in range(1, 2 * n + 1):
        reach = reachable(Layout(n, after=k, readout="scratch"), depth=2)
        possible = factorial(n) - len(list(reach.impossible()))
        assert reach.possible_count() == possible
        assert possible == ((k + 1) ** (n - k - 1) * factorial(k + 1) if k < n else factorial(n))
        counts.append(possible)
    assert counts[n - 2 :] == [factorial(n)] * (n + 2)
    assert not any(reachable(Layout(n, mask="none"), depth=1).impossible())


def test_count_of_sets_that_are_not_nested():
    """Ryser's formula against listing, on a mask that is no staircase."""
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        reach = Reach(torch.ones(5, 5, dtype=torch.bool), torch.rand(5, 5, generator=generator) < 0.6)
        assert reach.possible_count() == factorial(5) - len(list(reach.impossible()))


@pytest.mark.parametrize("variant", ["no_mask", "scratch", "scratch_both"])
def test_construction_is_exact_at_64_and_decays_like_exp(variant):
    layout = Layout.variant(variant, n=64)
    errors = [construction_error(layout, beta, examples=2) for beta in (10.0, 20.0, 30.0)]
    assert errors[1][0] < 1e-6 and errors[1][1] < 1e-6
    ratio = errors[1][1] / errors[0][1]
    assert 0.3 < ratio * torch.e**10 < 3
    assert errors[2][0] < errors[1][0] < errors[0][0]


def test_construction_runs_at_256():
    assert construction_error(Layout.variant("scratch", n=256), 30.0, examples=1)[0] < 1e-15


@pytest.mark.parametrize(
    "layout",
    [
        Layout(5, mask="none", readout="string"),
        Layout(5, after=5, readout="scratch"),
        Layout(5, 2, 3, "causal", "scratch"),
        Layout(5),
        Layout(5, readout="permutation"),
    ],
)
def test_structured_and_dense_construction_agree(layout):
    model = Transformer(layout)
    x, _ = sample(layout, 8, torch.Generator().manual_seed(1))
    dense = model.forward(model.unpack(construction_weights(layout, 7.0)), x[None].double())[0]
    torch.testing.assert_close(construction_output(layout, x.double(), 7.0), dense, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("after", range(5))
def test_construction_attains_the_floor(after):
    """Also where the floor is not zero: every permutation of n = 4 with every bit of one column independent."""
    layout = Layout(4, after=after, readout="scratch" if after else "string")
    total = []
    for order in permutations(range(4)):
        for bits in product((0.0, 1.0), repeat=4):
            y = torch.tensor(bits).view(1, 4, 1).expand(1, 4, 4).double()
            x = encode(layout, torch.tensor([order]), y)
            total.append(float(squared_error(construction_output(layout, x, 120.0), y)))
    assert sum(total) / len(total) == pytest.approx(mse_floor(layout), abs=1e-9)


def test_row_accuracy_ceiling():
    assert row_accuracy_ceiling(Layout(10, after=9, readout="scratch")) == 1
    assert row_accuracy_ceiling(Layout(10, readout="permutation")) == 2.0**-10
    assert row_accuracy_ceiling(Layout(2, readout="string")) == pytest.approx(((0.5 + 0.5 / 4) + 1) / 2)
