"""The joint law over inputs against dense kernel regression."""

from __future__ import annotations

import numpy as np
import pytest

from permlab.ntk import posterior, posterior_covariance
from permlab.ntk.kernels import nngp_kernel, normalized, tangent_kernel
from permlab.ntk.process import all_binary_inputs


@pytest.mark.parametrize("parameterization", ["standard", "ntk", 0.3])
def test_covariance_equals_dense_regression_over_all_inputs(parameterization):
    k = 7
    bits = all_binary_inputs(k)
    train, tests = np.eye(k), normalized(bits)
    weights = np.linalg.solve(
        tangent_kernel(train, train, parameterization), tangent_kernel(train, tests, parameterization)
    )
    cross = weights.T @ nngp_kernel(train, tests)
    dense = nngp_kernel(tests, tests) + weights.T @ nngp_kernel(train, train) @ weights - cross - cross.T
    covariance = posterior_covariance(bits, parameterization)
    assert np.abs(covariance - dense).max() < 1e-12
    assert np.allclose(np.diag(covariance), posterior(k, bits.sum(axis=1), parameterization).variance, atol=1e-14)


def test_all_inputs_are_listed_once():
    bits = all_binary_inputs(5)
    assert bits.shape == (31, 5) and len(np.unique(bits, axis=0)) == 31 and bits.any(axis=1).all()
