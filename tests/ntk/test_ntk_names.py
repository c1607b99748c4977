"""Names are known in one table: every function that takes one refuses a typo with the nearest name."""

from __future__ import annotations

import re

import numpy as np
import pytest

from permlab.errors import UserError
from permlab.ntk import ensemble_size, ensemble_size_all, pair_covariance, posterior, stopping_times, tangent_kernel
from permlab.ntk.finite import Spec
from permlab.ntk.inputs import draw_test_set
from permlab.ntk.kernels import first_layer_weight
from permlab.ntk.settings import EnsembleSettings
from permlab.ntk.table import DTYPES, GROWTHS, LAYERS, PARAMETERIZATIONS, SOLVERS, TESTS

EYE = np.eye(3)


@pytest.mark.parametrize(
    ("call", "nearest"),
    [
        (lambda: first_layer_weight("standart"), "standard"),
        (lambda: posterior(5, 2, "nkt"), "ntk"),
        (lambda: ensemble_size(5, 2, 0.9, "standart"), "standard"),
        (lambda: ensemble_size_all(5, 0.9, "nkt"), "ntk"),
        (lambda: pair_covariance(5, 2, 2, 1, "nkt"), "ntk"),
        (lambda: tangent_kernel(EYE, EYE, "nkt"), "ntk"),
        (lambda: Spec(4, 16, "nkt"), "ntk"),
        (lambda: Spec(4, 16, "ntk", "lst"), "last"),
        (lambda: draw_test_set(4, 2, "randon", 10, 1, np.random.default_rng(0)), "random"),
        (lambda: stopping_times(4, 2, 0.9, test="sinlge"), "single"),
        *((lambda t=t: t["x" + t.choices[-1]], t.choices[-1]) for t in (DTYPES, GROWTHS, LAYERS, SOLVERS, TESTS)),
        *(
            (lambda key=key, name=name: EnsembleSettings(**{key: name}).check(), nearest)
            for key, name, nearest in (
                ("test", "al", "all"),
                ("parameterization", "standrad", "standard"),
                ("solver", "exakt", "exact"),
                ("layers", "bot", "both"),
                ("dtype", "float23", "float32"),
            )
        ),
    ],
)
def test_typos_are_refused_with_the_nearest_name(call, nearest):
    with pytest.raises(UserError, match=re.escape(f"did you mean '{nearest}'")):
        call()


def test_the_library_speaks_of_its_own_parameters_and_the_task_of_its_keys():
    with pytest.raises(UserError, match=r"^target=2"):
        ensemble_size(5, 2, 2.0)
    with pytest.raises(UserError, match=r"^target=0"):
        EnsembleSettings(target=0).check()
    with pytest.raises(UserError, match=r"^task\.target=0"):
        EnsembleSettings(target=0).check("task.")


def test_gains_and_kernel_weights_agree():
    for row in PARAMETERIZATIONS.values():
        first, last = row.gains(30, 4096)
        assert row.first_layer_weight(30, 4096) == pytest.approx(first * 30 / (last * 4096))
