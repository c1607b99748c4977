"""Real networks case by case: what a row says, and that a stopped case goes on bit for bit."""

from __future__ import annotations

import pytest

from permlab.ntk.cases import Case, CaseTraining, cases_of, memory_gib, widest_against_law
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


def test_the_largest_deviation_from_the_law_is_over_every_k_of_the_widest_case():
    row = {"ensemble_size_law": 10, "success_law": 0.9, "success_error": 0.01}
    cases = [row | {"success": 0.92, "ensemble_size": 9}, row | {"success": 0.87, "ensemble_size": 10}]
    found = widest_against_law(cases)
    assert found == pytest.approx({"widest_success_z": 3.0, "widest_size_error": 0.1})
    assert "widest_size_error" not in widest_against_law([cases[0], cases[1] | {"ensemble_size": None}])


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
