"""Real networks case by case: what a row says, and that a stopped case goes on bit for bit."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from permlab.ntk.cases import Case, CaseTraining, across_widths, cases_of, memory_gib, widest_against_law
from permlab.ntk.published_accuracy import PUBLISHED_ACCURACY
from permlab.ntk.settings import EnsembleSettings

SMALL = EnsembleSettings(k=[5, 4, 5], width=[64, 32], members=40, replicates=0, tests=50)


def test_cases_are_every_size_and_width_once():
    assert [(case.k, case.ones, case.width) for case in cases_of(SMALL)] == [
        (4, 2, 32), (4, 2, 64), (5, 2, 32), (5, 2, 64)
    ]  # fmt: skip
    assert {case.ones for case in cases_of(EnsembleSettings(k=[4], test="all", ones=[2, 3]))} == {None}
    assert memory_gib(EnsembleSettings(dtype="float64")) == 2 * memory_gib(EnsembleSettings())


def test_a_stopped_case_goes_on_bit_for_bit(monkeypatch):
    monkeypatch.setattr("permlab.ntk.finite.ELEMENTS", 2**12)
    whole, cut = (CaseTraining(SMALL, Case(5, 2, 32), seed=3) for _ in range(2))
    while not whole.finished:
        whole.advance()
    cut.advance()
    assert 0 < cut.statistics.seen < 40
    again = CaseTraining(SMALL, Case(5, 2, 32), seed=3)
    again.restore(cut.state())
    while not again.finished:
        again.advance()
    first, second = whole.row(), again.row()
    assert first.pop("seconds_per_network") > 0 and second.pop("seconds_per_network") > 0
    assert first == second


def trained(threads, case=None, **changes):
    """A finished case with so many torch threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        case = CaseTraining(dataclasses.replace(SMALL, **changes), case or Case(5, 2, 64), seed=3)
        while not case.finished:
            case.advance()
        assert torch.get_num_threads() == threads
        return case
    finally:
        torch.set_num_threads(before)


def test_chunks_beside_each_other_give_the_numbers_of_one_after_another(monkeypatch):
    monkeypatch.setattr("permlab.ntk.finite.ELEMENTS", 2**13)
    serial, parallel = trained(1), trained(3)
    assert serial.exact.chunk < 40 // 3
    first, second = serial.row(), parallel.row()
    del first["seconds_per_network"], second["seconds_per_network"]
    assert first == second and serial.accuracy_rows() == parallel.accuracy_rows()


def test_a_subset_is_checked_by_gradient_descent_on_both_layers():
    """The wider, the nearer is what descent finds to the solution that moves the last layer only."""
    narrow, wide = (trained(1, Case(5, 2, width), checked=3) for width in (32, 2048))
    assert wide.row()["checked"] == 3 and wide.row()["difference_over_sd"] < 0.03
    assert wide.row()["difference_over_sd"] < narrow.row()["difference_over_sd"] / 3
    both = wide.check.outputs(range(3)) - wide.exact.outputs(range(3))
    assert wide.row()["difference_max"] == pytest.approx(float(both.abs().max()))
    again = CaseTraining(dataclasses.replace(SMALL, checked=3), Case(5, 2, 32), seed=3)
    again.restore(narrow.state())
    assert again.finished and again.row() == narrow.row()


def test_the_path_is_the_accuracy_of_the_first_networks():
    case = trained(1, tests=1000)
    outputs = case.exact.outputs(range(40)).cumsum(0)
    rows = case.accuracy_rows()
    assert len(rows) == min(40, 2 * case.statistics.block)
    right = ((outputs > 0) == case.statistics.right).all(2).double() @ case.statistics.weights
    assert [row["accuracy"] for row in rows] == pytest.approx(right[: len(rows)].tolist())
    assert rows[4]["published"] == PUBLISHED_ACCURACY[5][4] / 1000


def test_the_largest_deviation_from_the_law_is_over_every_k_of_the_widest_case():
    row = {"ensemble_size_law": 10, "success_law": 0.9, "success_error": 0.01}
    cases = [row | {"success": 0.92, "ensemble_size": 9}, row | {"success": 0.87, "ensemble_size": 10}]
    found = widest_against_law(cases)
    assert found == pytest.approx({"widest_success_z": 3.0, "widest_size_error": 0.1})
    assert "widest_size_error" not in widest_against_law([cases[0], cases[1] | {"ensemble_size": None}])


def test_across_widths_says_how_far_it_starts_and_how_much_it_rises():
    row = {"k": 8, "ensemble_size_law": 10, "ensemble_size_error": 3.0}
    sizes = {64: 12, 16: 30, 256: 17}
    cases = [row | {"width": width, "ensemble_size": size} for width, size in sizes.items()]
    assert across_widths(cases) == {"narrowest_over_law": 3.0, "largest_rise_z": pytest.approx(5 / 18**0.5)}
    assert across_widths(cases[:1]) == {} == across_widths([cases[0], cases[1] | {"ensemble_size": None}])


@pytest.mark.parametrize(
    ("solver", "parameterization", "layers", "trained"),
    [
        ("exact", "standard", "auto", "last"),
        ("exact", "ntk", "auto", "both"),
        ("gradient_descent", "standard", "auto", "both"),
        ("linearized", "standard", "last", "last"),
    ],
)
def test_auto_layers(solver, parameterization, layers, trained):
    settings = EnsembleSettings(solver=solver, parameterization=parameterization, layers=layers)
    assert settings.trained.name == trained
