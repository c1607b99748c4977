"""The targets of `table.OPTIMIZERS`: `adam(weights, recipe, 1e-3)`."""

from __future__ import annotations

import torch
from torch import Tensor

from permlab.probes.recipes import Optimization


def adam(weights: Tensor, recipe: Optimization, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW with the recipe's betas and decay."""
    betas = (recipe.betas[0], recipe.betas[1])
    return torch.optim.AdamW([weights], lr=learning_rate, betas=betas, weight_decay=recipe.weight_decay, fused=True)


def sgd(weights: Tensor, recipe: Optimization, learning_rate: float) -> torch.optim.Optimizer:
    """Gradient descent without momentum."""
    return torch.optim.SGD([weights], lr=learning_rate, weight_decay=recipe.weight_decay)
