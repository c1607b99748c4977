"""Ensembles of networks that learn a permutation (arXiv 2502.16763): `ensemble_size(30, 2, 0.9)` is 190 networks.

`law` and `all_inputs` are closed forms (numpy); `sampling` draws ensembles from the Gaussian process; `finite` and
`descent` train real networks (torch). The closed forms import without torch.
"""

from permlab.ntk.all_inputs import ensemble_size_all, ensemble_size_all_lower, success_probability_all
from permlab.ntk.bounds import linearithmic_constant, sufficient_size, sufficient_size_all
from permlab.ntk.fits import Fit, growth_fits, local_exponent
from permlab.ntk.kernels import kappa0, kappa1, nngp_kernel, tangent_kernel
from permlab.ntk.law import Posterior, ensemble_size, log_success, posterior, success_probability
from permlab.ntk.process import pair_covariance, posterior_covariance
from permlab.ntk.published import PUBLISHED_TO_90_PERCENT

__all__ = [
    "PUBLISHED_TO_90_PERCENT",
    "Fit",
    "Posterior",
    "ensemble_size",
    "ensemble_size_all",
    "ensemble_size_all_lower",
    "growth_fits",
    "kappa0",
    "kappa1",
    "linearithmic_constant",
    "local_exponent",
    "log_success",
    "nngp_kernel",
    "pair_covariance",
    "posterior",
    "posterior_covariance",
    "success_probability",
    "success_probability_all",
    "sufficient_size",
    "sufficient_size_all",
    "tangent_kernel",
]
