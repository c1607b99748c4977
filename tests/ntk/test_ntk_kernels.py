"""Arc-cosine kernels against their defining expectations and against cancellation-free references."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad

from permlab.errors import UserError
from permlab.ntk.kernels import first_layer_weight, kappa0, kappa1, kappa1_increment, normalized


@pytest.mark.parametrize("rho", [-1.0, -0.6, 0.0, 0.3, 0.9, 1.0])
def test_kernels_are_the_expectations_they_stand_for(rho):
    # u = cos t, u' = cos(t - angle) for a uniform direction t; E|g|^2 = 2 for the radius of a plane Gaussian.
    angle = math.acos(rho)
    low, high = angle - math.pi / 2, math.pi / 2
    product = quad(lambda t: math.cos(t) * math.cos(t - angle), low, high)[0] * 2 / (2 * math.pi)
    assert kappa1(rho) == pytest.approx(2 * product, abs=1e-12)
    assert kappa0(rho) == pytest.approx(2 * (high - low) / (2 * math.pi), abs=1e-12)


def test_increment_keeps_its_digits_for_nearly_orthogonal_inputs():
    small = 1e-9
    series = small / 2 + small**2 / (2 * math.pi)
    assert kappa1_increment(small) == pytest.approx(series, rel=1e-14)
    assert kappa1_increment(0.7) == pytest.approx(kappa1(0.7) - kappa1(0.0), rel=1e-14)


def test_first_layer_weight_of_each_parameterization():
    assert first_layer_weight("standard") == 0.0
    assert first_layer_weight("standard", k=30, width=60) == 0.5
    assert first_layer_weight("ntk", k=30, width=60) == 1.0
    with pytest.raises(UserError, match="did you mean 'standard'"):
        first_layer_weight("standrd")
    with pytest.raises(UserError, match="at least 0"):
        first_layer_weight(-1.0)


def test_zero_input_is_refused():
    with pytest.raises(UserError, match="nonzero"):
        normalized(np.zeros((1, 3)))
