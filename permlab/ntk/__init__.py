"""Ensembles of networks that learn a permutation (arXiv 2502.16763): `ensemble_size(30, 2, 0.9)` is 190 networks.

`law` and `all_inputs` are closed forms (numpy); `sampling` draws ensembles from the Gaussian process; `finite` and
`descent` train real networks (torch). Names are imported on demand (`__init__.pyi` lists them), so that checking
settings loads nothing and the closed forms load no torch.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
