"""Rows of another package: a task, a data set, a way to merge, a LoRA method and an order. Imports nothing heavy."""

from permlab.adapters.table import LoraRow
from permlab.data.table import DataRow
from permlab.merging.table import CombineRow
from permlab.tasks.table import TaskRow
from permlab.text.table import OrderRow

TASK = TaskRow(
    "derangements",
    "how often does a random permutation move every point?",
    target="permlab_example.derangements:DerangementsConfig",
)
DATA = DataRow(
    "stripes",
    "horizontal against vertical stripes",
    target="permlab_example.stripes:StripesConfig",
    images="permlab_example.stripes:load_stripes",
)
METHODS = [
    CombineRow(
        "larger",
        "of every entry the one with the larger magnitude",
        label="larger entry",
        target="permlab_example.methods:combine_larger",
    ),
    LoraRow(
        "first",
        "the first adapter alone: a control",
        label="first adapter",
        target="permlab_example.methods:merge_first",
    ),
    OrderRow(
        "halves",
        "the second half of the words before the first",
        label="halves exchanged",
        target="permlab.text.pieces:words_of",
        arrange="permlab_example.methods:exchange_halves",
    ),
]
