"""Can attention undo a permutation, and what does the causal mask cost? (arXiv 2509.24125)

from permlab.probes import Layout, Transformer, Training, Recipe, mse_floor
layout = Layout.variant("scratch", n=10)
training = Training(Transformer(layout), Recipe(), seeds=[0, 1, 2])
print(training.run().test_mse, mse_floor(layout))
"""

from permlab.probes.certificate import Reach, reachable
from permlab.probes.construction import construction_error, construction_output, construction_weights
from permlab.probes.floors import causal_floor, mse_floor, row_accuracy_ceiling, row_floors
from permlab.probes.layout import READOUTS, VARIANTS, Layout
from permlab.probes.problem import encode, row_accuracy, sample, squared_error
from permlab.probes.training import Evaluation, Recipe, Training
from permlab.probes.transformer import Transformer

__all__ = [
    "READOUTS",
    "VARIANTS",
    "Evaluation",
    "Layout",
    "Reach",
    "Recipe",
    "Training",
    "Transformer",
    "causal_floor",
    "construction_error",
    "construction_output",
    "construction_weights",
    "encode",
    "mse_floor",
    "reachable",
    "row_accuracy",
    "row_accuracy_ceiling",
    "row_floors",
    "sample",
    "squared_error",
]
