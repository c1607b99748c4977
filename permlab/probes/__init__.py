"""Can attention undo a permutation, and what does the causal mask cost? (arXiv 2509.24125)

    from permlab.probes import Layout, Transformer, Training, Recipe, mse_floor
    layout = Layout.variant("scratch", n=10)
    training = Training(Transformer(layout), Recipe(), seeds=[0, 1, 2])
    print(training.run().test_mse, mse_floor(layout))

Names are imported on demand, so that checking a layout does not load torch.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "certificate": ("Reach", "reachable"),
    "construction": ("construction_error", "construction_output", "construction_weights"),
    "floors": ("causal_floor", "mse_floor", "row_accuracy_ceiling", "row_floors"),
    "layout": ("READOUTS", "VARIANTS", "Layout"),
    "mechanism": ("ROUTES", "routes"),
    "problem": ("encode", "row_accuracy", "sample", "squared_error"),
    "prompts": ("Prompt", "PromptResult", "probe_prompts"),
    "tokens": ("Task", "TokenRecipe", "TokenResult", "train_tokens"),
    "training": ("Evaluation", "Recipe", "Training"),
    "transformer": ("Transformer",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
