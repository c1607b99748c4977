"""Growth fits recover the law that made the data."""

from __future__ import annotations

import numpy as np
import pytest

from permlab.errors import UserError
from permlab.ntk import ensemble_size, ensemble_size_all, growth_fits, local_exponent

K = np.array([10, 100, 1000, 10_000])


def test_each_shape_is_recovered():
    for name, sizes in [("k log k", 3 * K * np.log(K)), ("k^1.5 log k", 0.2 * K**1.5 * np.log(K)), ("k^2", 7.0 * K**2)]:
        best = growth_fits(K, sizes)[0]
        assert best.shape == name and best.residual < 1e-12 and best.worst < 1e-12
    assert local_exponent(K, K**2.0).tolist() == pytest.approx([2, 2, 2])


def test_single_input_law_is_linearithmic_and_all_inputs_stay_below_quadratic():
    assert growth_fits(K, ensemble_size(K, 2, 0.9))[0].shape == "k log k"
    sizes = [ensemble_size_all(int(k), 0.9) for k in K]
    assert growth_fits(K, sizes)[-1].shape == "k^2"
    assert (local_exponent(K, sizes) < 1.7).all()


def test_one_point_is_no_fit():
    with pytest.raises(UserError, match="two or more"):
        growth_fits([10], [58])
