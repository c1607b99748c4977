"""Analyses of why matching works, on tiny networks: exact invariants."""

from __future__ import annotations

import pytest
import torch

from permlab import registry
from permlab.data.images import load_digits_images
from permlab.merging import Decomposition, Setting, Subject
from permlab.merging.studies.lmc.causal import CAUSAL_GAMMAS, causal, random_ranks
from permlab.models.vision import build_vision_model
from permlab.symmetry import apply
from permlab.tasks.merge.table import ANALYSES


@pytest.fixture(scope="module")
def pair(networks):
    return networks([load_digits_images()] * 2, epochs=1)


def test_leading_vectors_alone_recover_a_permuted_copy(pair):
    _, spec, (a, _) = pair
    model = build_vision_model("mlp", shape=(1, 8, 8), classes=10, width=16)
    permutation = spec.random(torch.Generator().manual_seed(1))
    x, y = torch.randn(20, 1, 8, 8), torch.arange(20) % 10
    sets = {"train": [(x, y)], "test": [(x, y)]}
    subject = Subject(model, spec, [a, apply(spec, a, permutation)], sets, Setting(sets["train"]))
    rows = causal(subject)["causal"]
    for row in rows:
        if row["part"] == "all" or (row["part"] == "leading" and row["gamma"] <= 0.3):
            assert row["l2_reduction"] == pytest.approx(1, abs=1e-5), row
            assert row["r_0.3"] == pytest.approx(1, abs=1e-6) and abs(row["loss_barrier"]) < 1e-4
            assert row["vectors"] == 1 if row["part"] == "all" else 0 < row["vectors"] < 1
    shares = {row["gamma"]: {} for row in rows}
    for row in rows:
        shares[row["gamma"]][row["part"]] = row["energy"]
    for gamma in CAUSAL_GAMMAS:
        assert shares[gamma]["leading"] + shares[gamma]["rest"] == pytest.approx(1)


def test_random_ranks_hold_no_more_than_the_rest(pair):
    _, spec, (a, _) = pair
    found = Decomposition(spec, a)
    for name, mask in random_ranks(found, 0.5, seed=0).items():
        s = found.parts[name][1]
        assert float(s[mask].square().sum()) <= float(s[s < 0.5 * s[0]].square().sum()) * (1 + 1e-12)


@pytest.mark.parametrize("name", ANALYSES)
def test_rows_of_analyses_name_functions_that_exist(name):
    row = ANALYSES[name]
    assert callable(row.load()) and row.about and row.tables
    for table in row.tables:
        assert set(table.shown) == set() or set(table.keys) <= set(table.shown)
        assert all(callable(registry.load(target)) for target in (table.metrics, table.figure) if target)
